"""Requests that two parsers could read in two ways, or that are simply wrong, and requests that only look so.

Each row: name, the bytes as sent, and what the door must answer: a status of its own, after which it closes.
`{line}` rows put one field line into an otherwise valid request.
"""

from typing import NamedTuple

CRLF = b"\r\n"


class Row(NamedTuple):
    name: str
    raw: bytes
    status: int = 400


def _request(
    *lines: bytes, body: bytes = b"", start: bytes = b"POST /v1/x HTTP/1.1", host: bytes = b"Host: h"
) -> bytes:
    head = [start, host, *lines] if host else [start, *lines]
    return CRLF.join(head) + CRLF + CRLF + body


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"

_FRAMING = [
    ("content-length and transfer-encoding", [b"Content-Length: 4", b"Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    ("transfer-encoding and content-length", [b"Transfer-Encoding: chunked", b"Content-Length: 4"], b"0\r\n\r\n"),
    ("two lengths that differ", [b"Content-Length: 0", b"Content-Length: 36"], SMUGGLED),
    ("two lengths that agree", [b"Content-Length: 4", b"Content-Length: 4"], b"abcd"),
    ("a list of lengths", [b"Content-Length: 4, 4"], b"abcd"),
    ("a length with a plus", [b"Content-Length: +4"], b"abcd"),
    ("a negative length", [b"Content-Length: -1"], b""),
    ("a length with a space inside", [b"Content-Length: 4 4"], b"abcd"),
    ("a hexadecimal length", [b"Content-Length: 0x4"], b"abcd"),
    ("a length with an underscore", [b"Content-Length: 1_0"], b"abcdefghij"),
    ("a length with a fraction", [b"Content-Length: 4.0"], b"abcd"),
    ("a superscript length", [b"Content-Length: \xb2"], b"ab"),
    ("an empty length", [b"Content-Length:"], b""),
    ("a length beyond 64 bits", [b"Content-Length: 18446744073709551620"], b"abcd"),
    ("a length in quotes", [b'Content-Length: "4"'], b"abcd"),
    ("transfer-encoding identity", [b"Transfer-Encoding: identity"], b""),
    ("transfer-encoding gzip, chunked", [b"Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n"),
    ("transfer-encoding chunked twice in a list", [b"Transfer-Encoding: chunked, chunked"], b"0\r\n\r\n"),
    ("transfer-encoding in two lines", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    ("transfer-encoding hidden by identity", [b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"], b""),
    ("transfer-encoding in capitals", [b"Transfer-Encoding: CHUNKED"], b"0\r\n\r\n"),
    ("transfer-encoding xchunked", [b"Transfer-Encoding: xchunked"], b"0\r\n\r\n"),
    ("transfer-encoding with a parameter", [b"Transfer-Encoding: chunked;q=1"], b"0\r\n\r\n"),
    ("transfer-encoding in quotes", [b'Transfer-Encoding: "chunked"'], b"0\r\n\r\n"),
    ("transfer-encoding with a vertical tab", [b"Transfer-Encoding: \x0bchunked"], b"0\r\n\r\n"),
    ("transfer-encoding with a non-breaking space", [b"Transfer-Encoding: \xa0chunked"], b"0\r\n\r\n"),
    ("an empty transfer-encoding", [b"Transfer-Encoding:"], b""),
    ("a space before the colon", [b"Transfer-Encoding : chunked"], b"0\r\n\r\n"),
    ("a space before the colon of the length", [b"Content-Length : 4"], b"abcd"),
    ("a tab before the colon", [b"Content-Length\t: 4"], b"abcd"),
    ("a space before the name", [b" Content-Length: 4"], b"abcd"),
    ("obsolete folding", [b"X-Note: a", b" b"], b""),
    ("folding that hides a coding", [b"X-Note: a", b" Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    ("folding by a tab", [b"X-Note: a", b"\tb"], b""),
    ("a line without a colon", [b"X-Note"], b""),
    ("an empty name", [b": value"], b""),
    ("a name with a slash", [b"X/Note: a"], b""),
    ("a name with a space", [b"Content Length: 4"], b""),
    ("a name beyond ASCII", [b"X-N\xf6te: a"], b""),
    ("a name with NUL", [b"X\x00Note: a"], b""),
    ("a value with NUL", [b"X-Note: a\x00b"], b""),
    ("a value with a bell", [b"X-Note: a\x07b"], b""),
    ("a value with DEL", [b"X-Note: a\x7fb"], b""),
    ("a bare LF inside a value", [b"X-Note: a\nTransfer-Encoding: chunked"], b"0\r\n\r\n"),
    ("a bare CR inside a value", [b"X-Note: a\rTransfer-Encoding: chunked"], b"0\r\n\r\n"),
    ("CR CR LF", [b"X-Note: a\r"], b""),
    ("two content types", [b"Content-Type: application/json", b"Content-Type: text/plain"], b""),
    ("two authorizations", [b"Authorization: Bearer a", b"Authorization: Bearer b"], b""),
    ("two x-api-keys", [b"X-Api-Key: a", b"x-api-key: b"], b""),
    ("two api-keys", [b"Api-Key: a", b"api-key: a"], b""),
    ("two expectations", [b"Expect: 100-continue", b"Expect: 100-continue"], b""),
    ("an unknown expectation", [b"Expect: 200-ok"], b""),
    ("a second host", [b"Host: other"], b""),
    ("a second, equal host", [b"host: h"], b""),
]

_HOSTS = [
    ("no host", b""),
    ("an empty host", b"Host:"),
    ("a host with a path", b"Host: h/x"),
    ("a host with a user", b"Host: u@h"),
    ("a host with a space", b"Host: h h"),
    ("a list of hosts", b"Host: h, other"),
    ("a host with a port that is no number", b"Host: h:80a"),
]

_STARTS = [
    ("HTTP/2.0", b"POST /v1/x HTTP/2.0"),
    ("HTTP/1.2", b"POST /v1/x HTTP/1.2"),
    ("HTTP/0.9 with a version", b"GET /v1/x HTTP/0.9"),
    ("HTTP/0.9", b"GET /v1/x"),
    ("HTTP/01.1", b"POST /v1/x HTTP/01.1"),
    ("a lower-case protocol", b"POST /v1/x http/1.1"),
    ("a lower-case method", b"post /v1/x HTTP/1.1"),
    ("a method with a colon", b"POST: /v1/x HTTP/1.1"),
    ("no method", b" /v1/x HTTP/1.1"),
    ("two spaces", b"POST  /v1/x HTTP/1.1"),
    ("a tab for a space", b"POST\t/v1/x\tHTTP/1.1"),
    ("a trailing space", b"POST /v1/x HTTP/1.1 "),
    ("a space in the target", b"POST /v1/x y HTTP/1.1"),
    ("a fragment in the target", b"POST /v1/x#y HTTP/1.1"),
    ("a target beyond ASCII", b"POST /v1/\xfc HTTP/1.1"),
    ("a relative target", b"POST v1/x HTTP/1.1"),
    ("an asterisk for POST", b"POST * HTTP/1.1"),
    ("CONNECT", b"CONNECT h:443 HTTP/1.1"),
    ("absolute form with another host", b"POST http://other/v1/x HTTP/1.1"),
    ("absolute form with a user", b"POST http://u@h/v1/x HTTP/1.1"),
    ("absolute form with another port", b"POST http://h:81/v1/x HTTP/1.1"),
    ("absolute form of another scheme", b"POST file://h/v1/x HTTP/1.1"),
    ("absolute form with a query for a path", b"POST http://h?x HTTP/1.1"),
]

_CHUNKS = [
    ("a chunk size with a sign", b"+4\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk size with 0x", b"0x4\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk size with an underscore", b"0_4\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk size with a space before it", b" 4\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk size with a space behind it", b"4 \r\nabcd\r\n0\r\n\r\n"),
    ("a negative chunk size", b"-4\r\nabcd\r\n0\r\n\r\n"),
    ("an empty chunk size", b"\r\nabcd\r\n0\r\n\r\n"),
    ("an extension without a size", b";x\r\n\r\n"),
    ("a chunk size of nine digits", b"000000004\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk size beyond 64 bits", b"10000000000000004\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk longer than its size", b"3\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk shorter than its size", b"5\r\nabcd\r\n0\r\n\r\n"),
    ("a chunk without CRLF behind it", b"4\r\nabcd0\r\n\r\n"),
    ("a chunk line ended by LF", b"4\nabcd\r\n0\r\n\r\n"),
    ("chunk data ended by LF", b"4\r\nabcd\n0\r\n\r\n"),
    ("a chunk line ended by CR", b"4\rabcd\r\n0\r\n\r\n"),
    ("an extension with LF", b"4;a\nb\r\nabcd\r\n0\r\n\r\n"),
    ("an extension with NUL", b"4;a\x00b\r\nabcd\r\n0\r\n\r\n"),
    ("an extension of 257 bytes", b"4;" + b"x" * 256 + b"\r\nabcd\r\n0\r\n\r\n"),
    ("an extension of 300 bytes", b"4;" + b"x" * 300 + b"\r\nabcd\r\n0\r\n\r\n"),
    ("a trailer of 9 kB", b"0\r\n" + b"X-T: " + b"x" * 9000 + b"\r\n\r\n"),
    ("trailers of 9 kB together", b"0\r\n" + b"X-T: 890123456789012345678901\r\n" * 300 + b"\r\n"),
    ("a trailer without a colon", b"0\r\nX-T\r\n\r\n"),
    ("a trailer with a space before the colon", b"0\r\nX-T : a\r\n\r\n"),
    ("a trailer ended by LF", b"0\r\nX-T: a\n\r\n"),
    ("a folded trailer", b"0\r\nX-T: a\r\n b: c\r\n\r\n"),
]

_WHOLE = [
    Row("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Row("bare LF everywhere", b"GET / HTTP/1.1\nHost: h\n\n"),
    Row("one bare LF at the end of the head", b"GET / HTTP/1.1\r\nHost: h\r\n\n"),
    Row("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)),
    Row("two empty lines first", b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    Row("a space first", b" GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    Row("transfer-encoding on HTTP/1.0", _request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0")),
    Row("HTTP/1.0 without a host", b"GET / HTTP/1.0\r\n\r\n"),
    Row("201 fields", _request(*[b"X-%d: a" % number for number in range(201)])),
    Row("a name of 300 bytes", _request(b"X" * 300 + b": a")),
    Row("a method of 30 letters", _request(start=b"A" * 30 + b" / HTTP/1.1")),
    Row("a head of 66 kB", _request(*[b"X-%d: %b" % (number, b"a" * 1000) for number in range(66)]), 431),
    Row("a head of 66 kB that never ends", b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 66000, 431),
    Row("a request line of 66 kB that never ends", b"GET /" + b"a" * 66000, 431),
]

# Refused by the head or by nobody: the handler must never run.
REFUSED: list[Row] = [
    *(Row(name, _request(*lines, body=body)) for name, lines, body in _FRAMING),
    *(Row(name, _request(host=host)) for name, host in _HOSTS),
    *(Row(name, _request(start=start)) for name, start in _STARTS),
    *_WHOLE,
]

# The head is fine, the body is not: the handler runs and learns it from `body()`.
REFUSED_BODIES: list[Row] = [Row(name, _request(b"Transfer-Encoding: chunked", body=body)) for name, body in _CHUNKS]


class Fair(NamedTuple):
    """A request that looks odd and is right: what the handler must see."""

    name: str
    raw: bytes
    path: str
    query: str = ""
    body: bytes = b""


_CHUNKED = b"Transfer-Encoding: chunked"

FAIR: list[Fair] = [
    Fair("one empty line first", b"\r\n" + _request(), "/v1/x"),
    Fair("absolute form", _request(start=b"POST http://h/a?b=c HTTP/1.1"), "/a", "b=c"),
    Fair("absolute form in capitals", _request(start=b"POST HTTP://H/a HTTP/1.1"), "/a"),
    Fair("absolute form without a path", _request(start=b"POST http://h HTTP/1.1"), "/"),
    Fair("an asterisk for OPTIONS", _request(start=b"OPTIONS * HTTP/1.1"), "*"),
    Fair("percent-encoding stays", _request(start=b"GET /a%2F..%00?x=%3F?y HTTP/1.1"), "/a%2F..%00", "x=%3F?y"),
    Fair("no space behind the colon", _request(b"Content-Length:4", body=b"abcd"), "/v1/x", body=b"abcd"),
    Fair("tabs around the value", _request(b"Content-Length: \t4\t ", body=b"abcd"), "/v1/x", body=b"abcd"),
    Fair("leading zeros", _request(b"Content-Length: 0004", body=b"abcd"), "/v1/x", body=b"abcd"),
    Fair("an empty value", _request(b"X-Note:"), "/v1/x"),
    Fair("latin-1 in a value", _request(b"X-Note: caf\xe9"), "/v1/x"),
    Fair("a name of odd characters", _request(b"!#$%&'*+-.^_`|~: a"), "/v1/x"),
    Fair("underscores are not hyphens", _request(b"Content_Length: 4", b"Transfer_Encoding: chunked"), "/v1/x"),
    Fair("an IPv6 host", _request(host=b"Host: [::1]:4000"), "/v1/x"),
    Fair("an upgrade is ignored", _request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"), "/v1/x"),
    Fair("a GET with a body", _request(b"Content-Length: 4", start=b"GET / HTTP/1.1", body=b"abcd"), "/", body=b"abcd"),
    Fair("one chunk", _request(_CHUNKED, body=b"4\r\nabcd\r\n0\r\n\r\n"), "/v1/x", body=b"abcd"),
    Fair("no chunk", _request(_CHUNKED, body=b"0\r\n\r\n"), "/v1/x"),
    Fair("capital digits", _request(_CHUNKED, body=b"A\r\n0123456789\r\n0\r\n\r\n"), "/v1/x", body=b"0123456789"),
    Fair("zeros before the digits", _request(_CHUNKED, body=b"00000004\r\nabcd\r\n000\r\n\r\n"), "/v1/x", body=b"abcd"),
    Fair(
        "extensions",
        _request(_CHUNKED, body=b'4;a=b;c="d"\r\nab\r\n\r\n4 ;x\r\ncdef\r\n0;end\r\n\r\n'),
        "/v1/x",
        body=b"ab\r\ncdef",
    ),
    Fair(
        "trailers are dropped",
        _request(_CHUNKED, body=b"1\r\na\r\n0\r\nHost: evil\r\nX: y\r\n\r\n"),
        "/v1/x",
        body=b"a",
    ),
    Fair("200 fields", _request(*[b"X-%d: a" % number for number in range(198)]), "/v1/x"),
]
