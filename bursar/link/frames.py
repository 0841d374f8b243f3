"""Length-prefixed msgpack frames over a stream: 4 bytes big-endian length, then the message."""

import asyncio
import struct
from typing import Generic, TypeVar

import msgspec

MAX_FRAME = 512 * 1024 * 1024  # a snapshot of 200,000 keys is about 100 MB
_LENGTH = struct.Struct(">I")

T = TypeVar("T")


class LinkBroken(Exception):
    """The other side is gone or spoke something that is not a frame of ours."""


class Channel(Generic[T]):
    """One end of the link: sends any message, receives messages of one union."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, incoming: type[T]) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, message: msgspec.Struct) -> None:
        """Queue one message; never blocks. A closed link drops it: whoever waits learns from `receive`."""
        if not self._writer.is_closing():
            payload = self._encoder.encode(message)
            self._writer.write(_LENGTH.pack(len(payload)) + payload)

    async def receive(self) -> T:
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(4))
            if length > MAX_FRAME:
                raise LinkBroken(f"a frame of {length} bytes")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as fault:
            raise LinkBroken("the other side is gone") from fault
        except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
            # The decoder's own message can quote a value, and a value can be a key: name only the kind.
            raise LinkBroken(f"an unreadable frame ({type(fault).__name__})") from None

    def close(self) -> None:
        self._writer.close()
