"""A control with real stores behind a real uvicorn on a free port, in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from bursar.app.audit_jobs import AuditJobs
from bursar.control.access import Access
from bursar.control.admin_sessions import Sessions
from bursar.control.admins import Admins
from bursar.control.audit import AuditLog
from bursar.control.audit_desk import AuditDesk
from bursar.control.audit_notary import Signer
from bursar.control.audit_people import People
from bursar.control.breakers import Breakers
from bursar.control.budgets import Budgets
from bursar.control.checklist import Checklist
from bursar.control.decisions import Decisions
from bursar.control.deployments import Deployments
from bursar.control.directory import Directory
from bursar.control.explain import Explainer
from bursar.control.federation import Federation
from bursar.control.fleet import OneNode
from bursar.control.history import History
from bursar.control.issuer_keys import IssuerKeys
from bursar.control.key_map import KeyMap
from bursar.control.keys import Keys
from bursar.control.manifests import Manifests
from bursar.control.observed_uses import ObservedUses
from bursar.control.observing import Observing
from bursar.control.owners import Owners
from bursar.control.policy_export import Place
from bursar.control.prices import Prices
from bursar.control.promotion import Promotions
from bursar.control.provider_key_imports import Imports
from bursar.control.provider_keys import ProviderKeys
from bursar.control.replay_feed import ReplayFeed
from bursar.control.restored import RestoredNode
from bursar.control.shadow import Shadow
from bursar.control.signing_keys import SigningKeys
from bursar.control.status import GatewayFacts, NodeFacts, StatusBoard
from bursar.control.tag_sheets import TagSheets
from bursar.control.teams import Teams
from bursar.control.token_marks import TokenMarks
from bursar.control.tokens import Tokens
from bursar.control.trust import TrustRules
from bursar.control.usage import Usage
from bursar.control.wrapping_keys import WrappingKeys
from bursar.core.holders import AttemptRow, Holder
from bursar.core.layout import Layout
from bursar.core.ledger_records import Balance, UsageBy, UsageRow
from bursar.core.replay import Past
from bursar.core.secret import Secret
from bursar.core.tokens import mint
from bursar.core.units import usd_to_pico
from bursar.faces.admin import build_admin
from bursar.faces.admin_calls import Services
from bursar.faces.admin_door import Door
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.stores import Stores
from bursar.secrets.wrap.keyfile import create as create_keyfile
from bursar.secrets.wrap.recovery import RecoveryWrapper
from bursar.stores.audit_db import AuditDb
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_people_db import PeopleDb
from bursar.stores.catalogue import load as load_catalogue
from bursar.stores.decisions_db import DecisionsDb
from bursar.stores.directory_db import DirectoryDb
from bursar.stores.restore_marker import MarkerFile
from tests.control.tenants import PEPPER, START_NS, SeededEntropy, SetClock
from tests.control.token_desk import Web

T = TypeVar("T")


class WrittenLedger:
    """`bursar.control.usage.LedgerReader` whose rows a test writes; the real one has tests of its own."""

    def __init__(self) -> None:
        self.rows: list[UsageRow] = []
        self.standing: list[Balance] = []
        self.used: dict[str, int] = {}
        self.asked: list[tuple[tuple[UsageBy, ...], int, int]] = []
        self.pasts: list[Past] = []
        self.requests: dict[str, list[AttemptRow]] = {}
        self.held: dict[str, list[Holder]] = {}  # by budget, "" = all

    async def usage(
        self, by: Sequence[UsageBy], since_ns: int, until_ns: int, limit: int, after: str, zone: str = "UTC"
    ) -> list[UsageRow]:
        self.asked.append((tuple(by), since_ns, until_ns))
        later = [row for row in sorted(self.rows, key=lambda row: row.group) if row.group > after]
        return later[:limit]

    async def balances(self) -> list[Balance]:
        return self.standing

    async def attempts(self, request_id: str) -> list[AttemptRow]:
        return self.requests.get(request_id, [])

    async def open_holds(self, budget_id: str) -> list[Holder]:
        return self.held.get(budget_id, [])

    async def history(self, since_ns: int, until_ns: int, after: int, limit: int) -> list[tuple[int, Past]]:
        found = [(number, it) for number, it in enumerate(self.pasts, 1) if since_ns <= it.t_ns < until_ns]
        return [row for row in found if row[0] > after][:limit]

    async def last_uses(self) -> dict[str, int]:
        return self.used


def balance(budget_id: str, limit: str, posted: str, held: str = "0", **more: Any) -> Balance:
    return Balance(
        budget_id=budget_id,
        name="",
        hard=True,
        window_start_ns=START_NS,
        window_end_ns=START_NS + 10**15,
        limit_pico=usd_to_pico(limit),
        posted_pico=usd_to_pico(posted),
        held_pico=usd_to_pico(held),
        overage_pico=0,
        closed=more.get("closed", False),
    )


class Stand:
    """`url` and `token` are what a client needs; the parts are open to the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SetClock()
        self.ledger = WrittenLedger()
        self.waited: list[float] = []
        self.told: list[tuple[int, str]] = []
        self.gateways: list[GatewayFacts] = []
        self.copies: list[str] = []  # of the audit
        self.places = {"vault": [Place("corp", "secret", "", Layout())]}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self) -> "Stand":
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def run(self, act: Coroutine[Any, Any, T]) -> T:
        """Something done inside the control's own loop."""
        return asyncio.run_coroutine_threadsafe(act, self._loop).result(20)

    def _live(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        await self._build()
        config = uvicorn.Config(self.application, log_config=None, access_log=False, lifespan="off")
        self.server = uvicorn.Server(config)
        self.server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._ready.set()
        await self.server.serve([listener])
        await self.audit.close()
        for part in (self.decisions, self.trail, self.checkpoints, self.people, self.secrets, self.store):
            part.close()

    async def _build(self) -> None:
        entropy = SeededEntropy()
        self.token = mint(entropy, "admin")[1]
        (self.folder / "admin.token").write_text(self.token.reveal() + "\n")
        wrappers = [create_keyfile(self.folder / "wrapping.key", entropy)]
        self.secrets = await EmbeddedStore.open(self.folder / "secrets.db", wrappers, self.clock, entropy)
        self.trail = AuditDb(self.folder / "audit.db")
        self.checkpoints = AuditFile(self.folder / "audit-checkpoints.jsonl")
        self.people = PeopleDb(self.folder / "audit-people.db")
        people = People(self.people, Secret("22" * 32))
        signer = Signer(Secret("11" * 32))
        self.audit = AuditLog(self.trail, [], self.checkpoints, signer, self.clock, veil=people.veil)
        jobs = AuditJobs(self.folder, self.folder / "audit-checkpoints.jsonl", "main")
        self.store = DirectoryDb(self.folder / "directory.db")
        directory = Directory(self.store.load(), self.store, self.audit, self.clock)
        providers = ("openai", "anthropic")
        marks = TokenMarks(directory)
        federation = Federation(directory, IssuerKeys(Web(), self.clock), marks)
        signing = SigningKeys(self.secrets, directory, entropy)
        tokens = Tokens(
            directory,
            self.audit,
            signing,
            entropy,
            pepper=PEPPER,
            issuer="http://127.0.0.1:4000",
            life_s=900,
            marks=marks,
            federation=federation,
        )
        stores = Stores([self.secrets])
        self.provider_keys = ProviderKeys(directory, stores, self.audit, providers)
        self.breakers = Breakers(directory, providers)
        self.fleet = OneNode()
        self.decisions_db = DecisionsDb(self.folder / "explain.db")
        self.decisions = Decisions(self.decisions_db, self.clock, keep_s=30 * 86_400, most=1000)
        key_map, usage = KeyMap(directory, stores, self.ledger), Usage(directory, self.ledger)
        wrapping_keys = WrappingKeys(self.secrets, self.audit, RecoveryWrapper)
        self.services = Services(
            directory=directory,
            history=History(directory),
            admins=Admins(directory, entropy, PEPPER),
            sessions=Sessions(self.audit, self.clock, entropy, PEPPER),
            owners=Owners(directory),
            teams=Teams(directory),
            keys=Keys(directory, entropy, PEPPER),
            budgets=Budgets(directory),
            provider_keys=self.provider_keys,
            observing=Observing(directory, self.provider_keys, entropy, PEPPER, team="observed", most=3),
            observed_uses=ObservedUses(usage, self.ledger),
            access=Access(directory, self.places),
            deployments=Deployments(directory),
            breakers=self.breakers,
            wrapping_keys=wrapping_keys,
            prices=Prices(directory, load_catalogue(), providers),
            usage=usage,
            trust=TrustRules(directory),
            federation=federation,
            tokens=tokens,
            promotions=Promotions(directory),
            shadow=Shadow(directory, self.decisions),
            manifests=Manifests(directory, entropy, PEPPER, TrustRules(directory).checked),
            replay=ReplayFeed(directory, self.ledger, self.decisions),
            key_map=key_map,
            checklist=Checklist(directory, key_map, usage, wrapping_keys, self.copies, frozenset({"surroundings"})),
            tag_sheets=TagSheets(directory, self.provider_keys),
            imports=Imports(self.provider_keys, History(directory)),
            restored=RestoredNode(MarkerFile(self.folder), self.audit, self.clock),
            status=StatusBoard(directory, self._facts),
            decisions=self.decisions,
            explainer=Explainer(directory, self.decisions, self.ledger, patience_s=0),
            fleet=self.fleet,
            audit=AuditDesk(self.trail, self.audit, jobs, people),
        )
        self.door = Door(
            self.token,
            self.clock,
            recognise=lambda text: self.services.admins.recognise(text) or self.services.sessions.recognise(text),
            tell=self._tell,
            sleep=self._sleep,
        )
        self.application = build_admin(self.services, self.door, "9.9.9")

    def _facts(self) -> NodeFacts:
        return NodeFacts(
            version="9.9.9", node="main", data=str(self.folder), started_ns=START_NS, gateways=tuple(self.gateways)
        )

    async def _tell(self, failures: int, peer: str) -> None:
        self.told.append((failures, peer))

    async def _sleep(self, seconds: float) -> None:
        self.waited.append(seconds)


@contextlib.contextmanager
def standing(folder: Path) -> Iterator[Stand]:
    stand = Stand(folder).start()
    try:
        yield stand
    finally:
        stand.stop()
