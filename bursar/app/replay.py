"""Brings a restored node up to what another sink of the audit still knows: revocations, lowered limits, spending.

The file must continue the very chain that the backup ends with, without a gap. Its records become the trail's own
where nothing was written behind the backup's end yet, so that the sinks go on where they were. Nothing is undone if
it is stopped half-way: it is run again, and what is done already makes no difference.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.places import checkpoints_path
from bursar.app.vault import Vault, open_vault
from bursar.config import Config
from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Signer
from bursar.core.audit import Event, Record, chain_hash, decode_record, unframe
from bursar.core.directory import KINDS, Delta, Entity, Snapshot, kind_of
from bursar.core.errors import Refusal
from bursar.core.ledger import HoldRequest, Settlement
from bursar.core.restore import Effects, Replayed, Restored, effects_of
from bursar.stores.audit_db import AuditDb
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_people_db import PeopleDb
from bursar.stores.directory_db import DirectoryDb
from bursar.stores.journal import Journal
from bursar.stores.restore_marker import MarkerFile

_AT_ONCE = 1000
_ACTOR = "restore"


class Later:
    """The records of another sink behind the backup's end, proven to continue it."""

    def __init__(self, file: Path, marker: Restored, head: tuple[int, bytes]) -> None:
        """`head` is the trail's end as restored. Raises Refusal(replay_unfit), OSError."""
        self.lines: list[bytes] = []
        self.records: list[Record] = []
        last: bytes | None = head[1] if not marker.audit_seq else None
        for seq, record_hash, payload, line in _read(file):
            if seq < marker.audit_seq:
                continue
            if seq == marker.audit_seq:
                last = record_hash
                continue
            if last is None or seq != marker.audit_seq + len(self.lines) + 1:
                raise _unfit(f"it does not have record {marker.audit_seq + len(self.lines)}, where the backup ends")
            last = chain_hash(last, payload)
            if last != record_hash:
                raise _unfit(f"record {seq} is not as it was written")
            self.lines.append(line)
            self.records.append(decode_record(payload))
        if last is None:
            raise _unfit("it ends before the backup does")
        self.continues = head[0] == marker.audit_seq

    def check_past(self, marker: Restored, file: Path, ours: bytes) -> None:
        """That both tell the same of the record with which the backup ends. Raises Refusal(replay_unfit)."""
        for seq, record_hash, _, _ in _read(file):
            if seq == marker.audit_seq and record_hash != ours:
                raise _unfit("it is the audit of another node, or of another past")


def _read(file: Path) -> Iterator[tuple[int, bytes, bytes, bytes]]:
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.endswith(b"\n"):
                return  # it was being written
            try:
                record_hash, payload = unframe(raw[:-1])
                yield decode_record(payload).seq, record_hash, payload, raw[:-1]
            except ValueError:
                raise _unfit(f"line {number} is no record of the audit") from None


def _unfit(why: str) -> Refusal:
    hint = "Give the copy that another sink of this node kept, with all records since the backup"
    return Refusal("replay_unfit", f"The audit does not continue this backup: {why}", hint)


async def look(folder: Path, file: Path) -> tuple[Restored, Later]:
    """What is known behind the backup. Raises Refusal(replay_unfit | unknown_id), AuditFailed, OSError."""
    marker = MarkerFile(folder).read()
    if marker is None:
        raise Refusal("unknown_id", f"{folder} is not paused by a restore", "bursar restore BACKUP --replay FILE")
    trail = AuditDb(folder / "audit.db")
    try:
        later = Later(file, marker, await trail.position())
        for line in await trail.read(marker.audit_seq - 1, 1) if marker.audit_seq else []:
            later.check_past(marker, file, unframe(line)[0])
    finally:
        trail.close()
    return marker, later


async def replay(settings: Config, folder: Path, marker: Restored, later: Later) -> tuple[Effects, Replayed]:
    """Apply what is known. The node is released when nothing is left that only a person can judge."""
    effects = effects_of(later.records)
    vault = await open_vault(settings, folder, os.environ.copy(), SystemClock(), SystemEntropy())
    trail = AuditDb(folder / "audit.db")
    checkpoints = AuditFile(checkpoints_path(settings, folder))
    try:
        if later.continues:
            for at in range(0, len(later.lines), _AT_ONCE):
                await trail.write(later.lines[at : at + _AT_ONCE])
        audit = AuditLog(trail, [], checkpoints, Signer(vault.audit_seed), SystemClock())
        await audit.append(_ACTOR, "restore.replay", "node", _facts(later, effects))
        await _restate_directory(folder, effects)
        await _restate_secrets(vault, effects)
        _erase_again(folder, effects)
        booked = await _restate_money(settings, folder, effects)
        events = [
            Event(actor=_ACTOR, action="restore.spend", target=f"budget/{name}", facts={"pico": str(amount)})
            for name, amount in booked.items()
        ]
        if events:
            await audit.append_all(events)
        await audit.close()
    finally:
        vault.store.close()
        for opened in (trail, checkpoints):
            opened.close()
    done = Replayed(
        audit_seq=later.records[-1].seq if later.records else marker.audit_seq,
        until_ns=later.records[-1].at_ns if later.records else marker.taken_ns,
        repeat=(*effects.repeat, *effects.unknown),
    )
    MarkerFile(folder).write(replace(marker, replayed=done))
    if not effects.unknown:
        MarkerFile(folder).retire(SystemClock().now())
    return effects, done


def _facts(later: Later, effects: Effects) -> dict[str, str | int]:
    return {
        "records": len(later.records),
        "keys_off": len(effects.keys),
        "teams_off": len(effects.teams),
        "secrets_off": len(effects.secrets),
        "secrets_destroyed": len(effects.destroyed),
        "limits_lowered": len(effects.limits),
        "to_repeat": len(effects.repeat) + len(effects.unknown),
    }


async def _restate_directory(folder: Path, effects: Effects) -> None:
    store = DirectoryDb(folder / "directory.db")
    try:
        book = await store.snapshot()
        delta = Delta(version=book.version + 1)
        changed = list(_changed(book, effects))
        for entity in changed:
            getattr(delta, KINDS[kind_of(entity)].field).append(entity)
        if changed:
            await store.commit(delta, _ACTOR, "restore.replay", SystemClock().now())
    finally:
        store.close()


def _changed(book: Snapshot, effects: Effects) -> Iterator[Entity]:
    for off, entities in ((effects.keys, book.keys), (effects.teams, book.teams), (effects.admins, book.admins)):
        for entity in entities:
            if entity.id in off and not entity.disabled:
                yield replace(entity, disabled=True)
    for budget in book.budgets:
        limit = effects.limits.get(budget.id, budget.limit_pico)
        if limit < budget.limit_pico:
            yield replace(budget, limit_pico=limit, version=budget.version + 1)


async def _restate_secrets(vault: Vault, effects: Effects) -> None:
    known = {entry.id for entry in await vault.store.entries()}
    for secret_id in effects.destroyed & known:
        await vault.store.destroy(secret_id)
    for secret_id in (effects.secrets.keys() & known) - effects.destroyed:
        with suppress(Refusal):
            await vault.store.set_disabled(secret_id, True)


def _erase_again(folder: Path, effects: Effects) -> None:
    people = PeopleDb(folder / "audit-people.db")
    try:
        for pseudonym in effects.erased:
            people.shred(pseudonym)
    finally:
        people.close()


async def _restate_money(settings: Config, folder: Path, effects: Effects) -> dict[str, int]:
    """Book what each budget is known to have spent and the restored journal has not -> pico-USD by budget."""
    clock = SystemClock()
    journal = Journal.open(folder / "journal", clock, settings.durability)
    booked: dict[str, int] = {}
    try:
        for balance in journal.balances():
            known = effects.balances.get(balance.budget_id)
            if known is None or known.window_end <= clock.now():
                continue  # nothing is known, or of a window that is over
            missing = known.posted + known.held - balance.posted_pico
            if missing > 0:
                held = await journal.hold(_nothing(balance.budget_id))
                journal.post(held.hold_id, Settlement(0, None, False, "restored"))
                await journal.correct(held.hold_id, missing, "spent after the backup")
                booked[balance.budget_id] = missing
    finally:
        journal.close()
    return booked


def _nothing(budget: str) -> HoldRequest:
    """A hold of no money that ties a correction to a budget."""
    return HoldRequest("restore", 1, "", "", "", "", "", "", "", "", "", 0, 0, 0, 0, 0, (budget,))
