"""A request body that did not come with its head: counted, bounded and joined as it arrives."""

from asyncio import Future
from typing import Protocol

from bursar.core.errors import ClientGone, Refusal
from bursar.wire.chunked import ChunkDecoder
from bursar.wire.head import CHUNKED, Malformed

_MIN_CHUNK_AVERAGE = 16  # bytes; below it a body of many chunks is an attack on our CPU


class Account(Protocol):
    """Where body bytes in memory are counted, process-wide."""

    bytes_in_flight: int
    max_bytes_in_flight: int
    max_body: int


class Inflow:
    """The bytes of one request body so far. `fault` says why it will never be whole."""

    __slots__ = ("_account", "_chunks", "_data", "_discarding", "fault", "left", "size", "waiter", "whole")

    def __init__(self, account: Account, length: int) -> None:
        self._account = account
        self._chunks = ChunkDecoder(_MIN_CHUNK_AVERAGE) if length == CHUNKED else None
        self._data = bytearray()
        self._discarding = False
        self.left = length  # bytes still to come, or CHUNKED
        self.size = 0  # bytes that came
        self.whole = False
        self.fault: Refusal | ClientGone | None = None
        self.waiter: Future[None] | None = None
        if length > account.max_body:
            self.fail(_too_large(account.max_body))

    def feed(self, data: bytes) -> bytes | None:
        """None: more is to come (or the body failed); else the bytes after the body."""
        if self.fault is not None:
            return None
        if self._chunks is None:
            rest = data[self.left :]
            self._take(data[: self.left])
            self.left -= len(data) - len(rest)
            done = not self.left
        else:
            try:
                after = self._chunks.feed(data, self._take)
            except Malformed as fault:
                self.fail(Refusal("malformed_request", str(fault)))
                return None
            done = after is not None
            rest = after or b""
        if not done or self.fault is not None:
            return None
        self.whole = True
        self._wake()
        return rest

    def _take(self, piece: bytes) -> None:
        self.size += len(piece)
        if self._discarding or self.fault is not None:
            return
        account = self._account
        if self.size > account.max_body:
            self.fail(_too_large(account.max_body))
        elif account.bytes_in_flight + len(piece) > account.max_bytes_in_flight:
            self.fail(Refusal("overloaded", "Too many request bytes are in memory", "Retry later", retry_after=1.0))
        else:
            account.bytes_in_flight += len(piece)
            self._data += piece

    def fail(self, fault: Refusal | ClientGone) -> None:
        """It will never be whole: give back its memory, tell whoever waits."""
        if self.fault is None and not self.whole:
            self.fault = fault
            self.release()
            self._wake()

    def discard(self) -> None:
        """Nobody wants it any more; what still comes is read and dropped."""
        self._discarding = True
        self.release()

    def release(self) -> None:
        """Give back what was counted. Needed once per body, on every way out; more often is harmless."""
        self._account.bytes_in_flight -= len(self._data)
        self._data = bytearray()

    def joined(self) -> bytes:
        return bytes(self._data)

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


def _too_large(limit: int) -> Refusal:
    return Refusal("body_too_large", f"The body is larger than {limit} bytes", facts={"max_body_bytes": limit})
