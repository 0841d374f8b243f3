"""Control's end of the link: a unix socket that only this user can reach, one session a gateway."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

import msgspec

from bursar.core.circuits import CircuitSeen
from bursar.core.decisions import Batch
from bursar.core.directory import Delta, Snapshot
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.telemetry import MetricsDelta
from bursar.link import messages as m
from bursar.link.frames import Channel, LinkBroken

_MOST_CHANGES = 10_000  # more of them, and the whole directory is cheaper
_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of SO_PEERCRED (unix(7))


class Session(msgspec.Struct):
    """One connected gateway."""

    node: str
    pid: int
    version: int = 0  # directory version it serves by


class Services(Protocol):
    """What control does for a gateway."""

    def snapshot(self) -> Snapshot: ...

    def directory_version(self) -> int:
        """Of the snapshot, as it would be now."""
        ...

    async def changes_since(self, version: int) -> list[Delta] | None:
        """Later changes in order, perhaps not all of them at once; None: that version leads nowhere."""
        ...

    def pepper(self) -> bytes: ...

    async def release(self, node: str, secret_id: str, version: int) -> tuple[Secret, int]:
        """The value and the instant (ns) at which the lease ends. Raises Refusal."""
        ...

    async def count_uses(self, node: str, counts: list[tuple[str, int, int]], flush: str) -> bool:
        """Whether they are on record; if not, they will come again by the same name."""
        ...

    def count(self, node: str, delta: MetricsDelta) -> None: ...

    async def keep_decisions(self, node: str, batch: Batch) -> None:
        """Never raises: what cannot be kept is counted."""
        ...

    def see_circuits(self, node: str, at_ns: int, seen: list[CircuitSeen]) -> None: ...

    async def answer(self, request: m.Handed) -> tuple[int, list[tuple[str, str]], bytes]:
        """A request at the data port -> status, fields, body. Never raises."""
        ...

    async def happened(self, node: str, word: str, subject: str, facts: dict[str, str | int]) -> None: ...

    async def seen(self, node: str, key_id: str, digest: bytes, provider: str) -> None:
        """Never raises: what cannot be kept is told again."""
        ...


class ControlEnd:
    """Serves gateways; `publish` and `revoke` reach every one that is connected."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._channels: dict[Channel[m.ToControl], Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None
        self._confirmed: m.Fresh | None = None

    async def start(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # one unlink at start, before anything is served
        listener = socket.socket(socket.AF_UNIX)
        previous = os.umask(0o177)  # the socket must never exist with wider rights, not even for a moment
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        self._server = await asyncio.start_unix_server(self._session, sock=listener)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for channel in list(self._channels):
            channel.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def sessions(self) -> list[Session]:
        return list(self._channels.values())

    def publish(self, delta: Delta) -> None:
        for channel in self._channels:
            channel.send(m.Changed(delta=delta))

    def confirm(self, at: float, nodes: int) -> None:
        """Tell that what was published was the whole of it at this instant (monotonic seconds), and how many share."""
        self._confirmed = m.Fresh(at=at, nodes=nodes)
        for channel in self._channels:
            channel.send(self._confirmed)

    def drop(self) -> None:
        """Have every gateway connect anew and be told the whole directory."""
        for channel in list(self._channels):
            channel.close()

    def revoke(self, secret_id: str, version: int) -> None:
        for channel in self._channels:
            channel.send(m.LeaseRevoked(secret_id=secret_id, version=version))

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel: Channel[m.ToControl] = Channel(reader, writer, m.ToControl)  # type: ignore[arg-type]  # a union
        try:
            if _peer_uid(writer) != os.getuid():
                return
            hello = await channel.receive()
            if not isinstance(hello, m.Hello):
                return
            way = await self._way_from(hello.version)
            # No await from here to joining the channels: a change in between would be lost.
            snapshot = self._services.snapshot() if way is None else None
            channel.send(m.Welcome(snapshot=snapshot, pepper=self._services.pepper()))
            for delta in way or ():
                channel.send(m.Changed(delta=delta))
            if self._confirmed is not None:
                channel.send(self._confirmed)
            self._channels[channel] = Session(hello.node, hello.pid)
            while True:
                self._take(hello.node, await channel.receive(), channel)
        except LinkBroken:
            pass  # the gateway went away; it reconnects by itself
        finally:
            self._channels.pop(channel, None)
            channel.close()

    async def _way_from(self, version: int) -> list[Delta] | None:
        """The changes that lead from a version to the present one, if there are few; None: the whole must be told."""
        way: list[Delta] = []
        while version != self._services.directory_version():
            more = await self._services.changes_since(version) if version else None
            if not more or len(way) > _MOST_CHANGES:
                return None
            way += more
            version = more[-1].version
        return way if version else None

    def _take(self, node: str, message: m.ToControl, channel: Channel[m.ToControl]) -> None:
        match message:  # Hello said twice is harmless
            case m.Metrics():
                self._services.count(node, message.delta)
            case m.Circuits():
                self._services.see_circuits(node, message.at_ns, message.seen)
            case m.LeaseAsk():
                self._start(self._lease(node, message, channel))
            case m.Uses():
                self._start(self._uses(node, message, channel))
            case m.Happened():
                self._start(self._services.happened(node, message.word, message.subject, message.facts))
            case m.Seen():
                self._start(self._services.seen(node, message.key_id, message.digest, message.provider))
            case m.Decided():
                self._start(self._decided(node, message.batch, channel))
            case m.Handed():
                self._start(self._answer(message, channel))
            case m.Applied():
                self._channels[channel].version = message.version

    async def _lease(self, node: str, ask: m.LeaseAsk, channel: Channel[m.ToControl]) -> None:
        try:
            value, expires_at = await self._services.release(node, ask.secret_id, ask.version)
        except Refusal as refusal:
            channel.send(
                m.LeaseRefused(
                    ask=ask.ask,
                    word=refusal.word,
                    message=refusal.message,
                    hint=refusal.hint,
                    retry_after=refusal.retry_after,
                )
            )
            return
        granted = m.LeaseGranted(
            ask=ask.ask, secret_id=ask.secret_id, version=ask.version, value=value.reveal(), expires_at=expires_at
        )
        channel.send(granted)

    async def _uses(self, node: str, uses: m.Uses, channel: Channel[m.ToControl]) -> None:
        if await self._services.count_uses(node, uses.counts, uses.flush):
            channel.send(m.UsesRecorded(flush=uses.flush))

    async def _decided(self, node: str, batch: Batch, channel: Channel[m.ToControl]) -> None:
        await self._services.keep_decisions(node, batch)
        channel.send(m.DecisionsTaken(number=batch.number))

    async def _answer(self, request: m.Handed, channel: Channel[m.ToControl]) -> None:
        status, fields, body = await self._services.answer(request)
        channel.send(m.HandedBack(ask=request.ask, status=status, fields=fields, body=body))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    peer: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        return int(_PEER_CREDENTIALS.unpack(raw)[1])
    return -1
