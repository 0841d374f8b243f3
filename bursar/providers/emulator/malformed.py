"""Events as broken providers and proxies send them."""

from bursar.providers.emulator.script import Script


def spoil(event: bytes, script: Script, at: int, middle: int) -> list[bytes]:
    """The event as the script wants it sent: one or more pieces, each written on its own."""
    kind = script.sse
    if kind in ("", "no_done"):
        return [event]
    if kind == "split_utf8":
        return _split(event)
    if kind == "crlf":
        return [event.replace(b"\n", b"\r\n")]
    if kind == "cr_mix":
        return [event.replace(b"\n", (b"\r", b"\n", b"\r\n")[at % 3])]
    if kind == "multi_data":
        return [_in_two_fields(event)]
    return [event, _odd_one(kind, script)] if at == middle else [event]


def _split(event: bytes) -> list[bytes]:
    """Cut in the middle of a character where there is one that is longer than a byte."""
    for at, byte in enumerate(event):
        if byte >= 0xC0:
            return [event[: at + 1], event[at + 1 :]]
    return [event]


def _in_two_fields(event: bytes) -> bytes:
    """The standard joins data fields by a newline, which JSON takes for white space between two members."""
    head, comma, tail = event.partition(b',"')
    return head + b',\ndata: "' + tail if comma else event


def _odd_one(kind: str, script: Script) -> bytes:
    if kind == "giant_line":
        return b": " + b"x" * script.giant_bytes + b"\n\n"
    if kind == "nul":
        return b"data: \0\0\0\n\n"
    return b"data: {not json at all\n\n"
