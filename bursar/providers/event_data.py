"""The data of one server-sent event that is already whole (WHATWG HTML §9.2)."""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def data_of(event: bytes) -> bytes | None:
    """The event's data fields joined by LF; None when it has none (a comment, a blank line)."""
    values = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    if event.startswith(_BYTE_ORDER_MARK):
        return data_of(event[3:])
    return b"\n".join(values) if values else None
