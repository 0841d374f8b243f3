"""Signs the end of the audit chain every so often and keeps the signed word in a second place."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bursar.control.audit_follower import within
from bursar.core.audit import (
    CHECKPOINT_ACTION,
    CHECKPOINT_CONTEXT,
    PRUNE_CONTEXT,
    AuditFailed,
    Checkpoint,
    Event,
    encode_checkpoint,
    frame_checkpoint,
)
from bursar.core.secret import Secret
from bursar.ports import AuditSink, Clock

_RETRY_S = 5.0


class Signer:
    """The audit's signing key. `seed` is 32 bytes in hex."""

    def __init__(self, seed: Secret) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed.reveal()))
        self.public_key = self._key.public_key().public_bytes_raw().hex()

    def sign(self, inner: bytes) -> bytes:
        return self._key.sign(CHECKPOINT_CONTEXT + inner)

    def sign_pruning(self, statement: bytes) -> bytes:
        return self._key.sign(PRUNE_CONTEXT + statement)


class Schedule(msgspec.Struct, frozen=True):
    """Sign after so many records, or so many seconds after the first unsigned one."""

    records: int = 1000
    seconds: float = 300.0


class Notary:
    """`head` gives the chain's (seq, hash), `note` appends an event to the chain without waiting for it."""

    def __init__(
        self,
        sink: AuditSink,
        signer: Signer,
        clock: Clock,
        schedule: Schedule,
        head: Callable[[], Awaitable[tuple[int, bytes]]],
        note: Callable[[Event], None],
    ) -> None:
        self._sink = sink
        self._signer = signer
        self._clock = clock
        self._schedule = schedule
        self._head = head
        self._note = note
        self._unsigned = 0
        self._some = asyncio.Event()
        self._many = asyncio.Event()
        self.fault = ""

    @property
    def unsigned(self) -> bool:
        return self._unsigned > 0

    def count(self, records: int) -> None:
        """So many records more stand in the trail."""
        self._unsigned += records
        if self._unsigned:
            self._some.set()
        if self._unsigned >= self._schedule.records:
            self._many.set()

    async def sign(self) -> None:
        """Sign the end as it is now. Raises AuditFailed when the second place does not take it."""
        seq, record_hash = await self._head()
        self._unsigned = 0
        self._some.clear()
        self._many.clear()
        checkpoint = Checkpoint(
            seq=seq, hash=record_hash.hex(), at_ns=self._clock.now(), public_key=self._signer.public_key
        )
        inner = encode_checkpoint(checkpoint)
        signature = self._signer.sign(inner)
        try:
            await within(self._sink.write([frame_checkpoint(signature, inner)]), self._sink)
        except AuditFailed as fault:
            self.fault = fault.message
            self.count(1)
            raise
        self.fault = ""
        facts: dict[str, str | int] = {"checkpoint": inner.decode(), "signature": signature.hex()}
        self._note(Event(actor="control", action=CHECKPOINT_ACTION, target="audit", facts=facts))

    async def run(self) -> None:
        while True:
            await self._some.wait()
            try:
                async with asyncio.timeout(self._schedule.seconds):
                    await self._many.wait()
            except TimeoutError:
                pass
            try:
                await self.sign()
            except AuditFailed:
                await asyncio.sleep(_RETRY_S)  # `fault` says so meanwhile; the chain itself stands
