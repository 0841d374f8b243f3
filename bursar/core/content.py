"""What a body is made of, told from a few pieces of its bytes: how many tokens a byte becomes depends on it.

A guess for estimates, never for money: it need not be right, only the same for like bodies. Costs 1 to 2 us whatever
the body's length.
"""

from typing import Literal, get_args

from bursar.core.calls import Call

Content = Literal["brief", "prose", "code", "json", "script", "escaped", "encoded", "attached"]
CONTENTS: tuple[Content, ...] = get_args(Content)
"""brief: so little that the envelope decides · prose: Latin letters and spaces · code · json: data and tool schemas ·
script: letters beyond ASCII · escaped: such letters as JSON's escapes, six bytes each · encoded: base64 and the like ·
attached: more is read than the body."""

_BRIEF = 192  # bytes
_PIECE = 64
_LOOKED_AT = 4 * _PIECE
_BEYOND_ASCII = bytes(range(128, 256))
_SPACES = b" \t\r\n"
_STRUCTURE = b'"{}[]:,\\'
_SYMBOLS = b"()=<>;_/*+&|#$`%@^~"
_PLAIN = bytes(set(range(128)) - set(_SPACES + _STRUCTURE + _SYMBOLS))


def content_of(call: Call) -> Content:
    """The class of a call: what lies outside its body outweighs what stands in it."""
    if call.external_input or call.audio or call.server_tools:
        return "attached"
    return classify(call.body)


def classify(body: bytes) -> Content:  # noqa: PLR0911 - one a class
    """The class of a JSON body, from four pieces of it at most."""
    size = len(body)
    if size < _BRIEF:
        return "brief"
    if size > _LOOKED_AT:
        a = (size - _PIECE) // 4  # not where it begins: that is the envelope
        b, c, d = 2 * a, 3 * a, size - _PIECE
        body = body[a : a + _PIECE] + body[b : b + _PIECE] + body[c : c + _PIECE] + body[d:]
        size = _LOOKED_AT
    if 6 * body.count(b"\\u") * 5 > size:
        return "escaped"
    spaces = body.count(b" ")
    marks = len(body.translate(None, _PLAIN)) - spaces  # of all kinds: where they are few, none need be told apart
    if marks * 20 <= size < spaces * 16:
        return "prose"
    if not body.isascii() and (size - len(body.translate(None, _BEYOND_ASCII))) * 5 > size:
        return "script"
    if marks * 6 > size and (size - len(body.translate(None, _STRUCTURE))) * 6 > size:
        return "json"
    if marks * 20 > size and (size - len(body.translate(None, _SYMBOLS))) * 20 > size:
        return "code"
    if spaces * 16 >= size:
        return "prose"
    return "encoded" if (size - len(body.translate(None, _SPACES))) * 16 < size else "prose"
