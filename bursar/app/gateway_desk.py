"""What control does for its gateways: the other side of the link (`bursar.link.control_end.Services`)."""

import logging

from bursar.control.audit import AuditLog
from bursar.control.breakers import Told
from bursar.control.decisions import Decisions
from bursar.control.directory import Directory
from bursar.control.metrics import MetricsBoard
from bursar.control.observing import Observing
from bursar.control.release import Releases
from bursar.control.restored import RestoredNode
from bursar.core.audit import AuditFailed
from bursar.core.circuits import CircuitSeen
from bursar.core.decisions import Batch
from bursar.core.directory import Delta, Snapshot
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.telemetry import MetricsDelta
from bursar.faces.oauth import OAuth
from bursar.link.messages import Handed

_log = logging.getLogger("bursar.control")


class GatewayDesk:
    """One for all gateways of this control process."""

    def __init__(  # noqa: PLR0913 - each is asked for something else
        self,
        directory: Directory,
        releases: Releases,
        restored: RestoredNode,
        audit: AuditLog,
        oauth: OAuth,
        pepper: bytes,
        decisions: Decisions,
        *,
        observing: Observing,
    ) -> None:
        self._directory, self._releases, self._restored = directory, releases, restored
        self._audit, self._oauth, self._pepper = audit, oauth, pepper
        self._decisions, self._observing = decisions, observing
        self.board = MetricsBoard()
        self.rates_alone: dict[str, str] = {}  # node -> why its limits are not shared
        self.circuits: dict[str, Told] = {}  # node -> what its gateway knew last

    def snapshot(self) -> Snapshot:
        return self._directory.snapshot()

    def directory_version(self) -> int:
        return self._directory.book.version

    async def changes_since(self, version: int) -> list[Delta] | None:
        try:
            return await self._directory.changes_since(version)
        except Refusal as refusal:
            _log.warning("a gateway is told the whole directory: %s", refusal.message)
            return None

    def pepper(self) -> bytes:
        return self._pepper

    async def release(self, node: str, secret_id: str, version: int) -> tuple[Secret, int]:
        self._restored.check()
        lease = await self._releases.release(secret_id, version, node, "lease")
        return lease.value, lease.expires_at

    async def count_uses(self, node: str, counts: list[tuple[str, int, int]], flush: str) -> bool:
        try:
            await self._releases.count_uses(node, counts, flush)
        except AuditFailed as fault:
            _log.error("uses of provider keys wait to be recorded: %s", fault.message)
            return False
        return True

    def count(self, node: str, delta: MetricsDelta) -> None:
        del node
        self.board.apply(delta)

    def see_circuits(self, node: str, at_ns: int, seen: list[CircuitSeen]) -> None:
        self.circuits[node] = Told(at_ns, seen)

    async def happened(self, node: str, word: str, subject: str, facts: dict[str, str | int]) -> None:
        if word == "rates_alone":
            self.rates_alone[node] = f"{facts.get('why')} (1/{facts.get('nodes')})"
        elif word == "rates_shared":
            self.rates_alone.pop(node, None)
        try:
            await self._audit.append(f"node:{node}", word, subject, facts)
        except AuditFailed as fault:
            _log.error("%s of %s could not be recorded: %s", word, subject, fault.message)

    async def seen(self, node: str, key_id: str, digest: bytes, provider: str) -> None:
        try:
            await self._observing.see(f"node:{node}", key_id, digest, provider)
        except (AuditFailed, Refusal) as fault:
            _log.error("the provider key %s could not be observed: %s", key_id, fault.message)

    async def keep_decisions(self, node: str, batch: Batch) -> None:
        for dropped in batch.dropped:
            self.board.count("bursar_decisions_dropped_total", (dropped.why,), dropped.count)
        await self._decisions.take(node, batch)
        self.board.state("bursar_decisions_lost_total", (), self._decisions.lost)

    async def answer(self, request: Handed) -> tuple[int, list[tuple[str, str]], bytes]:
        return await self._oauth.answer(request.path, request.headers, request.body, request.peer)
