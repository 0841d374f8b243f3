"""A whole store on its way between a data folder and PostgreSQL: ledger, directory with history, sealed secrets, audit,
whose the ids are that providers made.

Everything is proven where it lies before anything is written, and proven again where it has arrived: ledger and audit
by their independent readers, tables by digests, secrets by unlocking each with the wrapping keys at hand. What was
interrupted goes on when it is run again, and until it is done no node starts on it: `store_moving` in the database, or
the folder `moving` in the data folder, stands for that. Nothing is moved onto another store, and the source stays.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from bursar.app.clock import SystemEntropy
from bursar.app.folder import identity_of
from bursar.app.places import CHAINS, MOVING, checkpoints_path, node_name
from bursar.app.store_parts import (
    NO_HASTE,
    PARTS,
    bring_part_here,
    bring_part_there,
    is_empty,
    sealed_here,
    sealed_there,
)
from bursar.app.wrapping import open_ring
from bursar.config import Config
from bursar.control.verify_audit import Report as AuditReport
from bursar.control.verify_audit import verify_database
from bursar.control.verify_audit_rows import verify_chains
from bursar.control.verify_ledger import Report, verify
from bursar.control.verify_ledger_rows import RowsReport, verify_rows
from bursar.secrets.sealing import check_unlocks, wrapper_ids
from bursar.stores.audit_moving import bring_chain_here, bring_chain_there, same_chain
from bursar.stores.journal_segment import segment_numbers, take_lock
from bursar.stores.made_ids_file import FILE as IDS
from bursar.stores.made_ids_moving import bring_ids_here, bring_ids_there, no_ids_there
from bursar.stores.moving import CannotMove, Progress, Sum
from bursar.stores.postgres import Connection, Postgres
from bursar.stores.postgres_money_export import Export
from bursar.stores.postgres_money_import import Import
from bursar.stores.schema import open_database

_BEGIN = "INSERT INTO bursar.store_moving (one, source) VALUES (1, $1)"
_STATE = "SELECT source, done_at FROM bursar.store_moving"
_DONE = "UPDATE bursar.store_moving SET done_at = now()"
_ALIVE = "SELECT string_agg(name, ', ' ORDER BY name) FROM bursar.fleet_node WHERE seen_at + lease > now()"
_UNTOLD = "SELECT count(*) FROM bursar.ledger_event"
_RECORDS = "SELECT EXISTS (SELECT FROM bursar.audit_record)"
_LEDGER = "SELECT EXISTS (SELECT FROM bursar.ledger) AND NOT EXISTS (SELECT FROM bursar.ledger_moving)"
_OWN = ("audit-people.db", "audit-checkpoints.jsonl", "audit.jsonl", "wrapping.key", "explain.db")


class Totals(NamedTuple):
    """What must be the same on both sides."""

    counts: Mapping[str, int]
    budgets: list[Any]
    spend: list[Any]
    open_holds: int


class Said(NamedTuple):
    """What a store says of itself, proven."""

    ledger: Totals
    audit: dict[str, tuple[int, int, int]]  # by chain: records, pruned, signed up to


class Move:
    """One store on its way. The folder's lock is held. Raises CannotMove, Refusal, JournalDamaged, OSError, AWAY."""

    def __init__(self, config: Config, folder: Path, store: Postgres, progress: Progress | None = None) -> None:
        self._config = config
        self._folder = folder
        self._store = store
        self._progress = progress
        self._node = node_name(config)

    # ---- from the folder to the database

    async def there(self, env: Mapping[str, str], *, only_look: bool) -> dict[str, str | int]:
        lock = take_lock(self._folder / "journal")
        db = await self._store.dedicated()
        try:
            source = self._said_here()
            blobs = sealed_here(self._folder)
            await self._check_seals(blobs, env)
            begun = await self._state(db)
            if only_look:
                return self._facts(source, [], len(blobs))
            if not begun:
                await db.execute(self._store.sql(_BEGIN), self._mark())
            sums = [
                found
                for part in PARTS
                for found in await bring_part_there(part, self._folder, self._store, db, self._progress)
            ]
            async with db.transaction():
                await db.execute(NO_HASTE)
                sums += await bring_ids_there(self._folder, self._store, db, self._progress)
            for chain, path in self._chains_here().items():
                with closing(open_database(path, "audit")) as here:
                    await bring_chain_there(here, self._store, chain, self._progress)
            ledger = Import(self._store, self._folder / "journal", self._telling("ledger"))
            rows = await ledger.is_there() or await ledger.run()
            await self._check_arrived(source, await self._said_there(db), "in PostgreSQL")
            await self._check_seals(await self._sealed_there(db), env)
            await db.execute(self._store.sql(_DONE))
            return {"moved": rows, **self._facts(source, sums, len(blobs))}
        finally:
            os.close(lock)
            await db.close()

    async def _state(self, db: Connection) -> bool:
        """Whether a run before has begun. Raises CannotMove when something else is there."""
        sql = self._store.sql
        if await db.fetchval("SELECT to_regclass($1)", f"{self._store.address.schema}.store_moving") is None:
            return False  # there are no tables yet, and who only looks makes none
        state = await db.fetchrow(sql(_STATE))
        if state is None:
            full = [part.name for part in PARTS if not await is_empty(part, self._store, db)]
            full += [] if await no_ids_there(self._store, db) else ["ids that providers made"]
            full += ["audit"] if await db.fetchval(sql(_RECORDS)) else []
            full += ["ledger"] if await db.fetchval(sql(_LEDGER)) else []
            if full:
                raise CannotMove(f"there is a store in that database already ({', '.join(full)}); give an empty one")
            return False
        if state["source"] != self._mark():
            raise CannotMove("another store is half way into that database; finish that one, or give an empty one")
        if state["done_at"] is not None:
            raise CannotMove("this store has been brought there already")
        return True

    def _mark(self) -> bytes:
        return hashlib.sha256(identity_of(self._folder).encode()).digest()

    # ---- from the database to the folder

    async def back(self, env: Mapping[str, str], *, only_look: bool) -> dict[str, str | int]:
        db = await self._store.dedicated()
        try:
            state = await db.fetchrow(self._store.sql(_STATE))
            if state is not None and state["done_at"] is None:
                raise CannotMove("a store is half way into that database: finish that first")
            await self._check_at_rest(db)
            if untold := await db.fetchval(self._store.sql(_UNTOLD)):
                raise CannotMove(f"{untold} events are not yet in the audit: start a node on it once more")
            self._check_folder()
            source = await self._said_there(db)
            blobs = await self._sealed_there(db)
            await self._check_seals(blobs, env)
            if only_look:
                return self._facts(source, [], len(blobs))
            (self._folder / MOVING).mkdir(mode=0o700, exist_ok=True)
            sums = await self._bring_tables(db)
            rows = await self._bring_ledger(source.ledger)
            await self._check_arrived(source, self._said_here(), "in the data folder")
            await self._check_seals(sealed_here(self._folder), env)
            await self._check_at_rest(db)
            shutil.rmtree(self._folder / MOVING)
            return {"moved": rows, **self._facts(source, sums, len(blobs))}
        finally:
            await db.close()

    def _check_folder(self) -> None:
        """Files of another store are told before anything is read."""
        if (self._folder / MOVING).exists():
            return
        names = [part.file for part in PARTS] + ["audit.db", CHAINS, IDS]
        found = [name for name in names if (self._folder / name).exists()]
        if segment_numbers(self._folder / "journal"):
            found.append("a journal")
        if found:
            raise CannotMove(
                f"there is {', '.join(found)} in {self._folder} already; give an empty data folder, or move that away"
            )

    async def _bring_tables(self, db: Connection) -> list[Sum]:
        async with db.transaction(isolation="repeatable_read", readonly=True):
            await db.execute(NO_HASTE)
            sums = [
                found
                for part in PARTS
                for found in await bring_part_here(part, self._folder, self._store, db, self._progress)
            ]
            sums += await bring_ids_here(self._folder, self._store, db, self._progress)
            for chain in await chain_names(db, self._store):
                await self._bring_chain(db, chain)
        return sums

    async def _bring_chain(self, db: Connection, chain: str) -> None:
        target = self._folder / "audit.db" if chain == self._node else self._folder / CHAINS / f"{quote(chain, '')}.db"
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if not target.exists():
            partial = self._folder / MOVING / "audit.db"
            partial.unlink(missing_ok=True)
            with closing(open_database(partial, "audit")) as here:
                await bring_chain_here(db, self._store, chain, here, self._progress)
            partial.rename(target)
        with closing(open_database(target, "audit")) as here:
            if not await same_chain(db, self._store, chain, here):
                raise CannotMove(f"{target} is another audit than that of {chain} in PostgreSQL")

    async def _bring_ledger(self, source: Totals) -> int:
        journal = self._folder / "journal"
        if not segment_numbers(journal):
            return await Export(self._store, self._folder, self._telling("ledger")).run()
        if _totals(verify(journal)) != source:  # of a run before: all of it was put there at once
            raise CannotMove(f"the journal in {journal} is another ledger")
        return source.counts["holds"]

    async def _check_at_rest(self, db: Connection) -> None:
        if alive := await db.fetchval(self._store.sql(_ALIVE)):
            raise CannotMove(f"these nodes are running: {alive}; stop them first")

    # ---- proofs

    def _chains_here(self) -> dict[str, Path]:
        """By chain the file in which it lies: the node's own, and those of a fleet that it once came from."""
        own, others = self._folder / "audit.db", sorted((self._folder / CHAINS).glob("*.db"))
        found = {unquote(path.stem): path for path in others}
        return {**found, **({self._node: own} if own.exists() else {})}

    def _said_here(self) -> Said:
        ledger = _totals(_proven(verify(self._folder / "journal"), "the journal"))
        found = {
            chain: verify_database(path, self._checkpoints().get(chain)) for chain, path in self._chains_here().items()
        }
        return Said(ledger, _audits(found))

    async def _said_there(self, db: Connection) -> Said:
        rows = await verify_rows(db, self._store.address.schema)
        found = await verify_chains(db, self._store.address.schema, self._checkpoints())
        return Said(_totals(_proven(rows, "the ledger in PostgreSQL")), _audits(found))

    def _checkpoints(self) -> dict[str, Path]:
        path = checkpoints_path(self._config, self._folder)
        return {self._node: path} if path.exists() and path.stat().st_size else {}

    async def _check_arrived(self, source: Said, target: Said, where: str) -> None:
        if source.ledger != target.ledger:
            raise CannotMove("the two ledgers do not say the same; go on with the one that was there before")
        if source.audit != target.audit:
            raise CannotMove(f"the audit {where} does not say the same; go on with the one that was there before")

    async def _sealed_there(self, db: Connection) -> list[bytes]:
        async with db.transaction(readonly=True):
            await db.execute(NO_HASTE)
            return await sealed_there(db, self._store.address.schema)

    async def _check_seals(self, blobs: list[bytes], env: Mapping[str, str]) -> None:
        """Each unlocks with the wrapping keys of the configuration. No value is decrypted. Raises SealError."""
        if not blobs:
            return
        taken: MutableMapping[str, str] = dict(env)
        under = frozenset(wrapper_ids(blob) for blob in blobs)
        ring = await open_ring(self._config, self._folder, taken, SystemEntropy(), under)
        for blob in blobs:
            await check_unlocks(blob, [ring.sealing, *ring.opening])

    # ---- what is told

    def _facts(self, source: Said, sums: list[Sum], sealed: int) -> dict[str, str | int]:
        ledger = source.ledger
        facts: dict[str, str | int] = {
            "holds": ledger.counts["holds"],
            "open": ledger.open_holds,
            "budgets": len(ledger.budgets),
            "audit records": sum(records for records, _, _ in source.audit.values()),
            "audit chains": len(source.audit),
            "sealed values": sealed,
        }
        if sums:
            facts["rows of the tables"] = sum(found.rows for found in sums)
        own = [name for name in _OWN if (self._folder / name).exists()]
        facts["stays with the node"] = ", ".join([*own, "its own sinks, its wrapping key"])
        return facts

    def _telling(self, what: str) -> Any:
        progress = self._progress
        return None if progress is None else lambda rows: progress(what, rows)


async def chain_names(db: Connection, store: Postgres) -> list[str]:
    sql = "SELECT DISTINCT chain FROM bursar.audit_record ORDER BY chain"
    return [row["chain"] for row in await db.fetch(store.sql(sql), timeout=600)]


def _proven(report: Report | RowsReport, what: str) -> Report | RowsReport:
    if report.problem is not None:
        raise CannotMove(f"{what} is not proven: {report.problem.why}; see `bursar ledger verify`")
    return report


def _totals(report: Report | RowsReport) -> Totals:
    budgets, spend = (msgspec.to_builtins(sums) for sums in (report.budgets, report.spend))
    return Totals(msgspec.to_builtins(report.counts), budgets, spend, report.open_holds)


def _audits(found: Mapping[str, AuditReport]) -> dict[str, tuple[int, int, int]]:
    for chain, report in found.items():
        if report.fault:
            raise CannotMove(f"the audit of {chain} is not proven: {report.fault}; see `bursar audit verify`")
    return {chain: (report.records, report.pruned, report.signed) for chain, report in found.items()}
