"""Bodies in chunks, read strictly and incrementally (RFC 9112 §7.1).

Extensions and trailers are bounded and dropped.
"""

from collections.abc import Callable
from functools import lru_cache

from bursar.wire.head import Malformed

MAX_EXTENSION = 256  # bytes of one chunk's extensions, with their semicolon
MAX_TRAILERS = 8192  # bytes of all trailer lines
_MAX_DIGITS = 8
_FREE_CHUNKS = 16384  # only bodies of more chunks than this are asked for an average

_HEX = frozenset(b"0123456789abcdefABCDEF")
_LINE_OCTETS = bytes(octet for octet in range(256) if octet == 9 or (octet >= 32 and octet != 127))

_SIZE, _DATA, _DATA_END, _TRAILER = range(4)
_MOST = {_SIZE: _MAX_DIGITS + MAX_EXTENSION, _DATA_END: 0, _TRAILER: MAX_TRAILERS}  # bytes of a line without its CRLF


@lru_cache(maxsize=4096)
def _chunk_size(line: bytes) -> int:
    digits, semicolon, extension = line.partition(b";")
    if semicolon:
        digits = digits.rstrip(b" \t")
        if len(extension) >= MAX_EXTENSION or extension.translate(None, _LINE_OCTETS):
            raise Malformed("a chunk extension is too long or holds control bytes")
    # int() alone would take signs, spaces and underscores
    if not digits or len(digits) > _MAX_DIGITS or not _HEX.issuperset(digits):
        raise Malformed("a chunk size is not a plain hexadecimal number")
    return int(digits, 16)


class ChunkDecoder:
    """Takes the raw bytes of one chunked body as they come; hands on its content piece by piece.

    Tiny chunks cost far more to read than to send: a body of very many must average `min_average` bytes each.
    """

    __slots__ = ("_at", "_chunks", "_content", "_held", "_left", "_min_average", "_trailers")

    def __init__(self, min_average: int = 0) -> None:
        self._min_average = min_average
        self._at = _SIZE
        self._left = 0  # content bytes of the open chunk still to come
        self._held = b""  # an unfinished size or trailer line, or half a CRLF
        self._chunks = 0
        self._content = 0
        self._trailers = 0

    def feed(self, data: bytes, sink: Callable[[bytes], object]) -> bytes | None:
        """Pieces go to `sink` in order. None: more is to come; else what follows the body. Raises Malformed."""
        if self._held:
            data = self._held + data
            self._held = b""
        at = 0
        end = len(data)
        while at < end:
            if self._at == _DATA:
                at = self._pass_on(data, at, sink)
                continue
            most = _MOST[self._at]
            line_end = data.find(b"\r\n", at, at + most + 2)
            if line_end < 0:
                self._hold(data[at:], most)
                return None
            line = data[at:line_end]
            at = line_end + 2
            if self._at == _SIZE:
                size = self._open(line)
                if size and data.startswith(b"\r\n", at + size):  # the whole chunk is here: what nearly always is so
                    self._at = _SIZE
                    sink(data[at : at + size])
                    at += size + 2
            elif self._at == _DATA_END:
                self._at = _SIZE
            elif line:
                self._drop_trailer(line)
            else:
                return data[at:]
        return None

    def _pass_on(self, data: bytes, at: int, sink: Callable[[bytes], object]) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        if not self._left:
            self._at = _DATA_END
        sink(piece)
        return at + len(piece)

    def _open(self, line: bytes) -> int:
        size = _chunk_size(line)
        self._left = size
        self._at = _DATA if size else _TRAILER
        self._chunks += 1
        self._content += size
        if self._chunks > _FREE_CHUNKS and self._content < self._chunks * self._min_average:
            raise Malformed("the chunks are too small")
        return size

    def _hold(self, tail: bytes, most: int) -> None:
        """Keep an unfinished line of at most `most` bytes and half its CRLF."""
        if len(tail) > most + 1 or b"\n" in tail or b"\r" in tail[:-1] or (not most and tail != b"\r"):
            raise Malformed("a chunk, its size line or a trailer is too long or not ended by CRLF")
        self._held = tail

    def _drop_trailer(self, line: bytes) -> None:
        self._trailers += len(line) + 2
        name, colon, _ = line.partition(b":")
        if self._trailers > MAX_TRAILERS or line.translate(None, _LINE_OCTETS):
            raise Malformed("the trailers are too long or hold control bytes")
        if not colon or not name or name != name.strip(b" \t"):
            raise Malformed("a trailer line is not a field")
