"""Composition root of the control process: admin API, metrics, directory, secrets and their wrapping key, audit."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path

import uvicorn
import uvloop
from msgspec import structs

from bursar import __version__
from bursar.app import collector
from bursar.app.admin_token import keep_admin_token
from bursar.app.audit_sinks import build_sinks
from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.fetching import Fetcher
from bursar.app.http_server import http_server
from bursar.app.logins import build_door, build_logins
from bursar.app.logs import set_up_logs
from bursar.app.places import checkpoints_path
from bursar.app.secret_stores import open_stores, policy_places
from bursar.app.spec import NodeSpec, Ready, read_spec, say_ready
from bursar.app.stores import Closes, OpenStores, Stores
from bursar.app.stores_embedded import open_embedded
from bursar.app.vigil import Vigil
from bursar.config import issuer_of
from bursar.control.access import Access
from bursar.control.admins import Admins
from bursar.control.audit import AuditLog
from bursar.control.audit_desk import AuditDesk
from bursar.control.audit_notary import Signer
from bursar.control.audit_people import People
from bursar.control.audit_retention import Retention
from bursar.control.budgets import Budgets
from bursar.control.daily import every_day
from bursar.control.directory import Directory
from bursar.control.federation import Federation
from bursar.control.first_start import (
    emulator_answers,
    keys_in_environment,
    make_demo,
    make_emulator_keys,
    seal_environment,
)
from bursar.control.history import History
from bursar.control.issuer_keys import IssuerKeys
from bursar.control.key_map import KeyMap
from bursar.control.keys import Keys
from bursar.control.metrics import MetricsBoard
from bursar.control.owners import Owners
from bursar.control.prices import Prices
from bursar.control.provider_keys import ProviderKeys
from bursar.control.refresh import follow_stores, tend_stores
from bursar.control.release import Releases
from bursar.control.restored import RestoredNode
from bursar.control.signing_keys import SigningKeys
from bursar.control.spend_notes import SpendNotes
from bursar.control.status import GatewayFacts, NodeFacts, StatusBoard
from bursar.control.tag_sheets import TagSheets
from bursar.control.teams import Teams
from bursar.control.token_marks import TokenMarks
from bursar.control.tokens import Tokens
from bursar.control.trust import TrustRules
from bursar.control.usage import Usage
from bursar.control.wrapping_keys import WrappingKeys
from bursar.core.audit import AuditFailed
from bursar.core.directory import Delta, ProviderKey, Snapshot
from bursar.core.errors import Refusal
from bursar.core.restore import paused_refusal
from bursar.core.secret import Secret
from bursar.core.telemetry import MetricsDelta
from bursar.core.units import NS_PER_S
from bursar.faces.admin import build_admin
from bursar.faces.admin_calls import Services
from bursar.faces.metrics import build_metrics
from bursar.faces.oauth import OAuth
from bursar.link.control_end import ControlEnd
from bursar.link.messages import Handed
from bursar.secrets.sealing import SealError
from bursar.secrets.wrap.recovery import RecoveryWrapper
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_people_db import PeopleDb
from bursar.stores.catalogue import load as load_catalogue
from bursar.stores.restore_marker import MarkerFile
from bursar.stores.schema import SchemaFault
from bursar.wire.client import Client, ClientConfig

_log = logging.getLogger("bursar.control")


class Control:
    """Everything of the control process, built once inside its running loop."""

    def __init__(self, spec: NodeSpec, env: dict[str, str], stores: Stores) -> None:
        self._spec, self._env, self._stores = spec, env, stores
        self._folder = Path(spec.data)
        self._clock, self._entropy = SystemClock(), SystemEntropy()
        self._started_ns, self._emulated = self._clock.now(), False
        self._store, self._pepper, self._admin_token, self._audit_seed, people_secret, fingerprint = stores.vault
        self._secrets = open_stores(spec.config, self._store, env, self._clock, fingerprint)
        self._rates_alone: dict[str, str] = {}  # node -> why its limits are not shared
        self._fleet = stores.fleet
        self._build_audit(people_secret)
        self._build_directory()
        self._board = MetricsBoard()
        self._spend_notes = SpendNotes(stores.ledger, self._audit)
        self._restored = RestoredNode(MarkerFile(self._folder), self._audit, self._clock)
        self._link = ControlEnd(self)
        self._directory.subscribe(self._link.publish)
        self._directory.on_replaced(self._link.drop)

    def _build_audit(self, people_secret: Secret) -> None:
        settings = self._spec.config.audit
        self._sinks = build_sinks(settings, self._folder, self._spec.node, self._env, self._clock)
        self._checkpoints = AuditFile(checkpoints_path(self._spec.config, self._folder), timeout=settings.timeout)
        self._people_db = PeopleDb(self._folder / "audit-people.db")
        self._people = people = People(self._people_db, people_secret)
        trail = self._stores.trail
        self._audit = AuditLog(
            trail, self._sinks, self._checkpoints, Signer(self._audit_seed), self._clock, veil=people.veil
        )
        self._desk = AuditDesk(trail, self._audit, self._stores.jobs, people)
        self._retention = self._build_retention()

    def _build_retention(self) -> Retention | None:
        settings, trail = self._spec.config.audit, self._stores.prunable
        keep = {name: int(span * NS_PER_S) for name, span in structs.asdict(settings.retention).items() if span}
        if trail is None:
            return None
        files = [sink for sink in self._sinks if isinstance(sink, AuditFile)]
        return Retention(trail, files, self._audit, Signer(self._audit_seed), self._clock, keep, settings.spool)

    def _build_directory(self) -> None:
        stores = self._stores
        self._directory = Directory(stores.present, stores.directory, self._audit, self._clock, self._people.digest)
        providers = list(self._spec.config.providers)
        self.admins = Admins(self._directory, self._entropy, self._pepper)
        self.owners, self.teams = Owners(self._directory), Teams(self._directory)
        self.keys = Keys(self._directory, self._entropy, self._pepper)
        self.budgets = Budgets(self._directory)
        self._secrets.stores.lies_in = self._lies_in
        may_reveal = self._spec.config.secrets.reveal
        self.provider_keys = ProviderKeys(
            self._directory, self._secrets.stores, self._audit, providers, may_reveal=may_reveal
        )
        self.wrapping_keys = WrappingKeys(self._store, self._audit, RecoveryWrapper)
        self.prices = Prices(self._directory, load_catalogue(), providers)
        self._releases = Releases(self._secrets.stores, self._audit, self._clock, look_at=self.provider_keys.look_at)
        self._build_tokens()

    def _build_tokens(self) -> None:
        config, marks = self._spec.config, TokenMarks(self._directory)
        ca_file = self._env.get("SSL_CERT_FILE") or None
        self._client = Client(ClientConfig(ca_file=ca_file, max_idle_per_origin=0, max_connections_per_origin=8))
        fetch = Fetcher(self._client, http_loopback=config.tokens.http_loopback)
        self.login = build_logins(config, self._env, self._audit, fetch, self._clock, self._entropy, self._pepper)
        self.federation = Federation(self._directory, IssuerKeys(fetch, self._clock), marks)
        self.trust = TrustRules(self._directory, http_loopback=config.tokens.http_loopback)
        self.signing = SigningKeys(self._store, self._directory, self._entropy)
        self.tokens = Tokens(
            self._directory,
            self._audit,
            self.signing,
            self._entropy,
            pepper=self._pepper,
            issuer=issuer_of(config),
            life_s=int(config.tokens.life),
            marks=marks,
            federation=self.federation,
        )
        self._oauth = OAuth(self.tokens)

    # ---- what a gateway may ask (bursar.link.control_end.Services)

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
        self._board.apply(delta)

    async def happened(self, node: str, word: str, subject: str, facts: dict[str, str | int]) -> None:
        if word == "rates_alone":
            self._rates_alone[node] = f"{facts.get('why')} (1/{facts.get('nodes')})"
        elif word == "rates_shared":
            self._rates_alone.pop(node, None)
        try:
            await self._audit.append(f"node:{node}", word, subject, facts)
        except AuditFailed as fault:
            _log.error("%s of %s could not be recorded: %s", word, subject, fault.message)

    async def answer(self, request: Handed) -> tuple[int, list[tuple[str, str]], bytes]:
        return await self._oauth.answer(request.path, request.headers, request.body, request.peer)

    # ---- life

    async def run(self) -> None:
        """Serve until told to stop."""
        vigil = Vigil()
        async with self._fleet.alone("start"):
            ready = await self._first_acts()
        await self._link.start(self._folder / "run" / "link.sock")
        tasks = [asyncio.create_task(work) for work in self._for_ever()]
        servers = [self._admin_server(), self._metrics_server()]
        fds = [self._spec.admin_fds[0], self._spec.metrics_fds[0]]
        serving = [
            asyncio.create_task(server.serve([socket.socket(fileno=fd)]))
            for server, fd in zip(servers, fds, strict=True)
        ]
        say_ready(self._spec.ready_fd, ready)
        collector.release()
        await vigil.stopped()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*serving, return_exceptions=True)
        for task in tasks:
            task.cancel()
        await self._link.close()
        await self._client.close()
        if self._stores.follow is None:
            await self._spend_notes.note_the_end()
        await self._close()

    def _for_ever(self) -> list[Coroutine[None, None, None]]:
        """What runs beside the doors until the stop."""
        works = [
            self._stores.ledger.follow(lambda fault: _log.error("the ledger stands still: %s", fault)),
            every_day(self.provider_keys, self._audit, self._fleet),
            follow_stores(self.provider_keys, self._spec.config.secrets.refresh),
            tend_stores(self._secrets.stores.tend),
            self.signing.keep_rotating(self._spec.config.tokens.rotate_every, self._fleet),
            self._fleet.keep(lambda: (self._directory.book.version, len(self._link.sessions))),
        ]
        if self._retention is not None:
            works.append(self._retention.every_day())
        if self._stores.follow is None:
            works.append(self._spend_notes.for_ever())  # what a journal restored from a backup is held against
        else:
            works.append(self._stores.follow(self._directory, lambda at: self._link.confirm(at, self._fleet.live)))
        return works

    async def _first_acts(self) -> Ready:
        """Bring the directory in line with the store, keep the admin token readable, make the demo at first start."""
        config = self._spec.config
        keep_admin_token(self._folder / "admin.token", self._admin_token)
        await self.provider_keys.sync()
        await self.signing.sync()
        found = keys_in_environment(self._env, config.providers)
        sealed = await seal_environment(self.provider_keys, found) if self._spec.seal_env else []
        demo = await make_demo(self.owners, self.teams, self.keys, self.budgets)
        stored = self._directory.book.all(ProviderKey)
        away = any(state.fault for state in self.provider_keys.stores())  # what lies there is not known to be nothing
        self._emulated = config.emulator == "auto" and not away and emulator_answers(stored)
        if self._emulated:
            await make_emulator_keys(self.provider_keys, config.providers)
        return Ready(
            name="control",
            demo_key=demo.reveal() if demo is not None else "",
            emulator=self._emulated,
            sealed=sealed,
            unsealed=[] if self._spec.seal_env else sorted(found),
            flagged=len(await self.provider_keys.unowned()),
        )

    def _lies_in(self, secret_id: str) -> str | None:
        """The store in which the directory says that an entry lies."""
        key = self._directory.book.find(ProviderKey, secret_id)
        return None if key is None else key.store

    async def _close(self) -> None:
        await self._secrets.close()
        try:
            await self._audit.close()
        except AuditFailed as fault:
            _log.error("the audit's end could not be written: %s", fault.message)
        closing: list[Closes] = [*self._sinks, self._checkpoints, self._people_db]
        for opened in closing:
            opened.close()
        await self._fleet.leave()
        await self._stores.close()

    def _admin_server(self) -> uvicorn.Server:
        config, tell = self._spec.config, self._tell_of_guesses
        door = build_door(config.listen.admin, self._admin_token, self._clock, self.admins, self.login.sessions, tell)
        services = Services(
            directory=self._directory,
            history=History(self._directory),
            admins=self.admins,
            sessions=self.login.sessions,
            owners=self.owners,
            teams=self.teams,
            keys=self.keys,
            budgets=self.budgets,
            provider_keys=self.provider_keys,
            access=Access(self._directory, policy_places(config)),
            wrapping_keys=self.wrapping_keys,
            key_map=KeyMap(
                self._directory, self._secrets.stores, self._stores.ledger, may_reveal=config.secrets.reveal
            ),
            tag_sheets=TagSheets(self._directory, self.provider_keys),
            prices=self.prices,
            usage=Usage(self._directory, self._stores.ledger),
            restored=self._restored,
            status=StatusBoard(self._directory, self._facts),
            fleet=self._fleet,
            audit=self._desk,
            trust=self.trust,
            federation=self.federation,
            tokens=self.tokens,
        )
        return http_server(build_admin(services, door, __version__, self.login.logins))

    def _metrics_server(self) -> uvicorn.Server:
        return http_server(build_metrics(self._board, self._processes, self._before_scrape))

    async def _tell_of_guesses(self, failures: int, peer: str) -> None:
        await self.happened(self._spec.node, "admin.guess", f"peer/{peer}", {"failures": failures})

    def _facts(self) -> NodeFacts:
        return NodeFacts(
            version=__version__,
            node=self._spec.node,
            data=self._spec.data,
            started_ns=self._started_ns,
            gateways=[
                GatewayFacts(node=s.node, pid=s.pid, connected=True, directory_version=s.version)
                for s in self._link.sessions
            ],
            emulator=self._emulated and emulator_answers(self._directory.book.all(ProviderKey)),
            warnings=[
                *self._fleet.warnings,
                *([paused_refusal().message] if self._restored.paused else []),
                *(f"audit sink {name}: {why}" for name, why in self._audit.faults().items()),
                *(f"secret store {s.name}: {s.message}" for s in self.provider_keys.stores() if s.fault),
                *(f"node {node} grants its share of limits: {why}" for node, why in self._rates_alone.items()),
            ],
        )

    def _before_scrape(self) -> None:
        self._audit.tell(self._board.state)

    def _processes(self) -> Mapping[str, int]:
        gateways = {f"gateway-{s.node}": s.pid for s in self._link.sessions}
        if len(gateways) == 1:
            gateways = {"gateway": next(iter(gateways.values()))}
        return {"control": os.getpid(), **gateways}


async def _serve(spec: NodeSpec, env: dict[str, str], open_stores: OpenStores) -> None:
    stores = await open_stores(spec, env, SystemClock(), SystemEntropy())
    await Control(spec, env, stores).run()


def main(open_stores: OpenStores = open_embedded) -> int:
    spec = read_spec()
    set_up_logs("control")
    collector.hold()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    try:
        uvloop.run(_serve(spec, dict(os.environ), open_stores))
    except (SealError, Refusal, SchemaFault) as fault:
        hint = f"; {fault.hint}" if isinstance(fault, Refusal) and fault.hint else ""
        say_ready(spec.ready_fd, Ready(name="control", problem=f"control: {fault}{hint}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
