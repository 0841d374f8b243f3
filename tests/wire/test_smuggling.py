"""No bytes make two requests out of one, reach a handler malformed, or bring the door down."""

import asyncio
import itertools
import socket
from collections.abc import Iterator

import h11
import httptools
import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.wire.server import Exchange
from tests.wire.corpus import FAIR, REFUSED, REFUSED_BODIES, SMUGGLED, Fair, Row
from tests.wire.ground import Ground, answers, serving


class Seen:
    """What reached the handler: one tuple a request, in order."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str, dict[str, str], bytes]] = []
        self.words: list[str] = []

    async def handler(self, exchange: Exchange) -> None:
        try:
            body = await exchange.body()
        except Refusal as refusal:
            self.words.append(refusal.word)
            raise
        self.requests.append((exchange.method, exchange.path, exchange.query, exchange.headers, body))
        exchange.respond(200, [], b"ok")


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
async def test_refused_at_the_head_and_closed(row: Row) -> None:
    seen = Seen()
    async with serving(seen.handler) as ground:
        [(status, headers, _)] = answers(await ground.talk(row.raw + SMUGGLED))
    assert status == row.status
    assert headers["connection"] == "close"
    assert seen.requests == []
    assert seen.words == []
    assert sum(ground.server.refused.values()) == 1


@pytest.mark.parametrize("row", REFUSED_BODIES, ids=lambda row: row.name)
async def test_a_broken_body_is_told_to_the_handler_and_closes(row: Row) -> None:
    seen = Seen()
    async with serving(seen.handler) as ground:
        [(status, headers, _)] = answers(await ground.talk(row.raw + SMUGGLED), "POST")
        assert ground.server.bytes_in_flight == 0
    assert status == row.status
    assert headers["connection"] == "close"
    assert seen.requests == []
    assert seen.words == ["malformed_request"]


@pytest.mark.parametrize("fair", FAIR, ids=lambda fair: fair.name)
async def test_odd_but_right(fair: Fair) -> None:
    seen = Seen()
    last = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    async with serving(seen.handler) as ground:
        assert [status for status, _, _ in answers(await ground.talk(fair.raw + last), "POST GET")] == [200, 200]
    assert [(path, query, body) for _, path, query, _, body in seen.requests] == [
        (fair.path, fair.query, fair.body),
        ("/last", "", b""),
    ]


# ---- fuzz ------------------------------------------------------------------------------------------------------------


class Bench:
    """One server for many examples; bytes arrive in exactly the pieces given."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.seen = Seen()
        self._serving = serving(self.seen.handler)
        self.ground: Ground = self.runner.run(self._serving.__aenter__())

    def close(self) -> None:
        self.runner.run(self._serving.__aexit__(None, None, None))
        self.runner.close()

    def send(self, pieces: list[bytes]) -> tuple[bytes, Seen]:
        """All that comes back after the last piece and our half-close, and what the handler saw."""
        self.seen.requests.clear()
        self.seen.words.clear()
        return self.runner.run(self._send(pieces)), self.seen

    async def _send(self, pieces: list[bytes]) -> bytes:
        with socket.create_connection(("127.0.0.1", self.ground.port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            for piece in pieces:
                try:
                    sock.send(piece)
                except ConnectionError:
                    break
                await asyncio.sleep(0)  # one turn of the loop: the piece is read on its own
            return await self._receive(sock)

    async def _receive(self, sock: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        got = b""
        for _ in range(4):
            await asyncio.sleep(0)
        try:
            sock.shutdown(socket.SHUT_WR)
            while piece := await asyncio.wait_for(loop.sock_recv(sock, 65536), 5):
                got += piece
        except ConnectionError:  # it closed over bytes we had sent
            pass
        return got


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def chop(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


FAIR_RAW = st.sampled_from([fair for fair in FAIR if len(fair.raw) < 2000])
CUTS = st.lists(st.integers(0, 4000), max_size=12)


@settings(max_examples=150, deadline=None)
@given(first=FAIR_RAW, second=FAIR_RAW, cuts=CUTS)
def test_any_chopping_gives_the_same_requests(bench: Bench, first: Fair, second: Fair, cuts: list[int]) -> None:
    _, seen = bench.send(chop(first.raw + second.raw.removeprefix(b"\r\n"), cuts))
    assert [(path, query, body) for _, path, query, _, body in seen.requests] == [
        (first.path, first.query, first.body),
        (second.path, second.query, second.body),
    ]


@settings(max_examples=60, deadline=None)
@given(row=st.sampled_from([row for row in REFUSED if len(row.raw) < 2000 and row.raw[0] != 22]), cuts=CUTS)
@example(row=next(row for row in REFUSED if row.name == "two empty lines first"), cuts=[1, 2])
@example(row=next(row for row in REFUSED if row.name == "two empty lines first"), cuts=[2])
def test_any_chopping_is_refused_alike(bench: Bench, row: Row, cuts: list[int]) -> None:
    got, seen = bench.send(chop(row.raw + SMUGGLED, cuts))
    assert seen.requests == []
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.count(b"HTTP/1.1 ") == 1


ORDINARY = (
    b'POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}',
    b'POST /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n3\r\n:1}\r\n0\r\n\r\n',
)
TRICKY = st.sampled_from(
    (
        *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\x00", b"\x0b", b"\xa0", b" ", b"\t"),
        *(b":", b"0", b"f", b"+", b"_", b";", b",", b"HTTP/1.0", b"chunked"),
        *(b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"GET / HTTP/1.1\r\n"),
    )
)
MUTATION = st.tuples(st.integers(0, 200), st.integers(0, 3), TRICKY | st.binary(max_size=3))


@settings(max_examples=400, deadline=None)
@given(raw=st.sampled_from(ORDINARY), mutations=st.lists(MUTATION, min_size=1, max_size=4), cuts=CUTS)
def test_mutations_never_make_two_requests(
    bench: Bench, raw: bytes, mutations: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    """Whatever we serve, an independent strict parser (h11) reads the same: as many requests, the same bodies."""
    for place, removed, inserted in mutations:
        at = place % len(raw)
        raw = raw[:at] + inserted + raw[at + removed :]
    got, seen = bench.send(chop(raw, cuts))
    assert bench.ground.server.bytes_in_flight == 0
    assert b" 500 " not in got
    theirs = read_by_h11(raw)
    for ours, other in zip(seen.requests, theirs, strict=False):
        assert (ours[0], ours[4]) == other
    assert len(seen.requests) <= len(theirs)


def read_by_h11(raw: bytes) -> list[tuple[str, bytes]]:
    """The requests another implementation finds, up to the first it refuses."""
    found: list[tuple[str, bytes]] = []
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(raw.removeprefix(b"\r\n"))
    method, body = "", b""
    while True:
        try:
            event = reader.next_event()
        except h11.RemoteProtocolError:
            return found
        if isinstance(event, h11.Request):
            method, body = event.method.decode(), b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found.append((method, body))
            reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            reader.send(h11.EndOfMessage())
            if reader.our_state is h11.MUST_CLOSE:
                return found
            reader.start_next_cycle()
        else:
            return found


class _Theirs:
    """What llhttp makes of a head."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))


TOKEN = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    fields=st.dictionaries(TOKEN.map(lambda name: "x" + name), VALUE, max_size=8),
    target=st.text("/a?%b=.;~", max_size=9),
)
def test_valid_heads_are_read_as_llhttp_reads_them(bench: Bench, fields: dict[str, str], target: str) -> None:
    lines = [f"GET /{target} HTTP/1.1", "Host: h", *(f"{name}: {value}" for name, value in fields.items())]
    raw = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    theirs = _Theirs()
    httptools.HttpRequestParser(theirs).feed_data(raw)
    _, seen = bench.send([raw])
    [(_, path, query, headers, _)] = seen.requests
    assert (path + ("?" + query if "?" in target else "")).encode() == theirs.url
    joined: dict[str, str] = {}
    for name, value in theirs.fields:
        joined[name] = joined[name] + ", " + value if name in joined else value
    assert headers == joined
