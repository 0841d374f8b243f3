"""One node: everything lies in its data folder."""

from collections.abc import MutableMapping
from pathlib import Path

from bursar.app.audit_jobs import AuditJobs
from bursar.app.places import MOVING, checkpoints_path
from bursar.app.spec import NodeSpec
from bursar.app.stores import Stores
from bursar.app.vault import open_vault
from bursar.control.fleet import OneNode
from bursar.core.errors import Refusal
from bursar.ports import Clock, Entropy
from bursar.stores.audit_db import AuditDb
from bursar.stores.decisions_db import DecisionsDb
from bursar.stores.directory_db import DirectoryDb
from bursar.stores.projection_view import LedgerView


async def open_embedded(spec: NodeSpec, env: MutableMapping[str, str], clock: Clock, entropy: Entropy) -> Stores:
    """Raises SealError, Refusal, SchemaFault."""
    folder, config = Path(spec.data), spec.config
    if (folder / MOVING).exists():
        hint = "Finish `bursar store migrate --from postgres --to embedded`"
        raise Refusal("store_unavailable", "A store is half way into this data folder", hint)
    vault = await open_vault(config, folder, env, clock, entropy)
    trail = AuditDb(folder / "audit.db", timeout=config.audit.timeout)
    directory = DirectoryDb(folder / "directory.db")
    ledger = LedgerView(folder / "journal", folder / "ledger.db", clock)

    decisions = DecisionsDb(folder / "explain.db")

    async def close() -> None:
        for opened in (trail, ledger, vault.store, directory, decisions):
            opened.close()

    return Stores(
        vault=vault,
        trail=trail,
        prunable=trail,
        jobs=AuditJobs(folder, checkpoints_path(config, folder), spec.node),
        directory=directory,
        present=directory.load(),
        ledger=ledger,
        decisions=decisions,
        news=None,
        fleet=OneNode(),
        follow=None,
        close=close,
    )
