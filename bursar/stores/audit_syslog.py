"""A sink that speaks syslog over TCP or TLS (RFC 5424 in RFC 6587 and RFC 5425 frames), plain or as CEF.

Syslog has no answer. A batch counts as delivered when the receiver's kernel has acknowledged every byte of it and the
connection still stands. A receiver that dies may have had bytes that it had not read: a new connection therefore begins
with what was sent in the last half minute, which a receiver tells by its `sequenceId`. Before each batch the connection
is looked at: one that the receiver has closed is opened anew, and nothing is written into the void. What hangs is cut
at the sink's timeout and retried by the follower.
"""

import asyncio
import errno
import fcntl
import socket
import ssl
import struct
import sys
import termios
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from bursar.core.audit import AuditFailed, Record, decode_record, unframe
from bursar.core.audit_formats import octet_counted
from bursar.stores.audit_cursor import AuditCursor, pieces

_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.1  # how often the kernel is asked whether all is acknowledged


_UNSURE_S = 30.0  # what is sent again over a new connection: older bytes a living receiver has read,
_UNSURE_BYTES = 8 * 1024 * 1024  # and a kernel keeps no more than these (tcp_rmem, tcp(7))


class Message(Protocol):
    """A record with its hash and its line -> one RFC 5424 message."""

    def __call__(self, record: Record, record_hash: bytes, line: bytes) -> bytes: ...


class AuditSyslog:
    """`bursar.ports.AuditSink`. `tls` None = plain TCP."""

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        message: Message,
        cursor: AuditCursor,
        tls: ssl.SSLContext | None = None,
        *,
        required: bool = False,
        timeout: float = 5.0,
    ) -> None:
        self.name = name
        self.required = required
        self.timeout = timeout
        self._address = address
        self._cursor = cursor
        self._message = message
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._unsure: deque[tuple[float, bytes]] = deque()  # what was sent lately, and when
        self._unsure_bytes = 0

    async def position(self) -> tuple[int, bytes]:
        return await self._cursor.read()

    async def write(self, records: Sequence[bytes]) -> None:
        """Raises AuditFailed when the receiver does not take them in time; the pieces before that stand."""
        for lines in pieces(records):
            frames = []
            for line in lines:
                record_hash, payload = unframe(line)
                record = decode_record(payload)
                frames.append(octet_counted(self._message(record, record_hash, line)))
            await self._send(b"".join(frames))
            await self._cursor.write(record.seq, record_hash)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self._cursor.close()

    async def _send(self, content: bytes) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await self._deliver(content)
        except TimeoutError:
            fault = self._failed(f"took nothing within {self.timeout:g} s")
        except ssl.SSLCertVerificationError as error:
            fault = self._failed(f"shows a certificate that is not trusted: {error.verify_message}")
        except (OSError, ssl.SSLError) as error:
            fault = self._failed(f"failed: {error.strerror or type(error).__name__}")
        except BaseException:
            self._drop()  # half a frame may be out: the next one must begin on a connection of its own
            raise
        else:
            return
        self._drop()
        raise fault

    async def _deliver(self, content: bytes) -> None:
        transport = await self._connected()
        now = asyncio.get_running_loop().time()
        transport.write(content)
        pause = _FIRST_LOOK_S
        while not transport.is_closing() and (transport.get_write_buffer_size() or _unacknowledged(transport)):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK_S)
        if transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "the receiver closed the connection")
        self._unsure.append((now, content))
        self._unsure_bytes += len(content)
        self._forget_the_sure(now)

    async def _connected(self) -> asyncio.Transport:
        if self._transport is not None and not self._transport.is_closing():
            return self._transport
        host, port = self._address
        name = host if self._tls else None
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(_Deaf, host, port, ssl=self._tls, server_hostname=name)
        self._forget_the_sure(loop.time())
        for _, content in self._unsure:
            self._transport.write(content)
        return self._transport

    def _forget_the_sure(self, now: float) -> None:
        while self._unsure and (self._unsure[0][0] < now - _UNSURE_S or self._unsure_bytes > _UNSURE_BYTES):
            self._unsure_bytes -= len(self._unsure.popleft()[1])

    def _drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _failed(self, why: str) -> AuditFailed:
        message = f"The audit sink {self.name} at {self._address[0]}:{self._address[1]} {why}"
        return AuditFailed(message, "See whether its server runs and can be reached", {"sink": self.name})


class _Deaf(asyncio.Protocol):
    """What a receiver says is not looked at; that it closes is: the transport closes too (asyncio's default at EOF)."""


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the receiver's kernel has not acknowledged (SIOCOUTQ, tcp(7)); 0 where the system cannot tell."""
    peer: socket.socket = transport.get_extra_info("socket")
    if not sys.platform.startswith("linux") or peer.fileno() < 0:
        return 0
    raw = fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", raw)[0])
