"""Bytes of a client that are not yet understood: an unfinished head, or what came after the open exchange."""

import re

_NEVER_IN_HEAD = re.compile(rb"(?<!\r)\n|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Carry:
    """Grows cheaply however small the pieces are, and is not searched twice."""

    __slots__ = ("_data", "_searched")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0  # the first so many bytes end no head

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        self._data += data

    def clear(self) -> None:
        self._data.clear()
        self._searched = 0

    def take(self) -> bytes:
        """All of it; nothing is left."""
        data = bytes(self._data)
        self.clear()
        return data

    def has_head(self) -> bool:
        return self._data.find(b"\r\n\r\n", max(0, self._searched - 3)) >= 0

    def is_hopeless(self) -> bool:
        """Can this unfinished head never become one? Looks only at what was added since it was asked last."""
        hopeless = _NEVER_IN_HEAD.search(self._data, self._searched) is not None
        self._searched = len(self._data)
        return hopeless
