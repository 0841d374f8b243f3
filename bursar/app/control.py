"""Composition root of the control process: admin API, metrics, directory, secrets and their wrapping key, audit."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping, MutableMapping
from pathlib import Path

import uvicorn
import uvloop

from bursar import __version__
from bursar.app import collector
from bursar.app.admin_token import keep_admin_token
from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.gateway_desk import GatewayDesk
from bursar.app.http_server import http_server
from bursar.app.logins import build_door
from bursar.app.logs import set_up_logs
from bursar.app.secret_stores import open_stores
from bursar.app.spec import NodeSpec, Ready, read_spec, say_ready
from bursar.app.stores import OpenStores, Stores
from bursar.app.stores_embedded import open_embedded
from bursar.app.trail import Trail
from bursar.app.use_cases import UseCases
from bursar.app.vigil import Vigil
from bursar.control.daily import every_day
from bursar.control.first_start import (
    emulator_answers,
    keys_in_environment,
    make_demo,
    make_emulator_keys,
    seal_environment,
)
from bursar.control.ledger_news import tell_for_ever
from bursar.control.refresh import follow_stores, tend_stores
from bursar.control.release import Releases
from bursar.control.restored import RestoredNode
from bursar.control.spend_notes import SpendNotes
from bursar.control.status import GatewayFacts, NodeFacts, StatusBoard
from bursar.core.audit import AuditFailed
from bursar.core.directory import ProviderKey
from bursar.core.errors import Refusal
from bursar.core.restore import paused_refusal
from bursar.faces.admin import build_admin
from bursar.faces.metrics import build_metrics
from bursar.faces.oauth import OAuth
from bursar.link.control_end import ControlEnd
from bursar.secrets.sealing import SealError
from bursar.stores.restore_marker import MarkerFile
from bursar.stores.schema import SchemaFault
from bursar.wire.client import Client, ClientConfig

_log = logging.getLogger("bursar.control")


class Control:
    """Everything of the control process, built once inside its running loop."""

    def __init__(self, spec: NodeSpec, env: MutableMapping[str, str], stores: Stores) -> None:
        self._spec, self._env, self._stores, self._fleet = spec, env, stores, stores.fleet
        self._folder = Path(spec.data)
        self._clock = SystemClock()
        self._started_ns, self._emulated = self._clock.now(), False
        vault = stores.vault
        self._secrets = open_stores(spec.config, vault.store, env, self._clock, vault.fingerprint)
        self._trail = Trail(spec, env, stores, self._clock, vault.audit_seed, vault.people_secret)
        ca_file = env.get("SSL_CERT_FILE") or None
        self._client = Client(ClientConfig(ca_file=ca_file, max_idle_per_origin=0, max_connections_per_origin=8))
        self._cases = cases = UseCases(spec, env, stores, self._secrets, self._trail, self._client)
        audit = self._trail.log
        self._spend_notes = SpendNotes(stores.ledger, audit)
        self._restored = RestoredNode(MarkerFile(self._folder), audit, self._clock)
        look_at = cases.provider_keys.look_at
        releases = Releases(self._secrets.stores, audit, self._clock, look_at=look_at)
        oauth = OAuth(cases.tokens)
        self._desk = GatewayDesk(
            cases.directory,
            releases,
            self._restored,
            audit,
            oauth,
            vault.pepper,
            cases.decisions,
            observing=cases.observing,
        )
        cases.breakers.told = lambda: self._desk.circuits
        self._link = ControlEnd(self._desk)
        cases.directory.subscribe(self._link.publish)
        cases.directory.on_replaced(self._link.drop)

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
            every_day(self._cases.provider_keys, self._trail.log, self._fleet),
            follow_stores(self._cases.provider_keys, self._spec.config.secrets.refresh),
            tend_stores(self._secrets.stores.tend),
            self._cases.signing.keep_rotating(self._spec.config.tokens.rotate_every, self._fleet),
            self._fleet.keep(lambda: (self._cases.directory.book.version, len(self._link.sessions))),
        ]
        works.append(self._cases.decisions.prune_for_ever())
        works.append(self._trail.retention.every_day())
        if self._stores.news is not None:
            works.append(tell_for_ever(self._stores.news, self._trail.log))
        if self._stores.follow is None:
            works.append(self._spend_notes.for_ever())  # what a journal restored from a backup is held against
        else:
            works.append(
                self._stores.follow(self._cases.directory, lambda at: self._link.confirm(at, self._fleet.live))
            )
        return works

    async def _first_acts(self) -> Ready:
        """Bring the directory in line with the store, keep the admin token readable, make the demo at first start."""
        config = self._spec.config
        keep_admin_token(self._folder / "admin.token", self._stores.vault.admin_token)
        await self._cases.provider_keys.sync()
        await self._cases.signing.sync()
        found = keys_in_environment(self._env, config.providers)
        sealed = await seal_environment(self._cases.provider_keys, found) if self._spec.seal_env else []
        demo = await make_demo(self._cases.owners, self._cases.teams, self._cases.keys, self._cases.budgets)
        await self._cases.observing.make_team()
        stored = self._cases.directory.book.all(ProviderKey)
        away = any(
            state.fault for state in self._cases.provider_keys.stores()
        )  # what lies there is not known to be nothing
        self._emulated = config.emulator == "auto" and not away and emulator_answers(stored)
        if self._emulated:
            await make_emulator_keys(self._cases.provider_keys, config.providers)
        return Ready(
            name="control",
            demo_key=demo.reveal() if demo is not None else "",
            emulator=self._emulated,
            sealed=sealed,
            unsealed=[] if self._spec.seal_env else sorted(found),
            flagged=len(await self._cases.provider_keys.unowned()),
        )

    async def _close(self) -> None:
        await self._secrets.close()
        try:
            await self._trail.log.close()
        except AuditFailed as fault:
            _log.error("the audit's end could not be written: %s", fault.message)
        self._trail.close_files()
        await self._fleet.leave()
        await self._stores.close()

    def _admin_server(self) -> uvicorn.Server:
        listen, token, tell = self._spec.config.listen.admin, self._stores.vault.admin_token, self._tell_of_guesses
        cases = self._cases
        door = build_door(listen, token, self._clock, cases.admins, cases.login.sessions, tell)
        services = cases.services(self._restored, StatusBoard(cases.directory, self._facts))
        return http_server(build_admin(services, door, __version__, cases.login.logins))

    def _metrics_server(self) -> uvicorn.Server:
        return http_server(build_metrics(self._desk.board, self._processes, self._before_scrape))

    async def _tell_of_guesses(self, failures: int, peer: str) -> None:
        await self._desk.happened(self._spec.node, "admin.guess", f"peer/{peer}", {"failures": failures})

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
            emulator=self._emulated and emulator_answers(self._cases.directory.book.all(ProviderKey)),
            warnings=[
                *self._fleet.warnings,
                *([paused_refusal().message] if self._restored.paused else []),
                *(f"audit sink {name}: {why}" for name, why in self._trail.log.faults().items()),
                *(f"secret store {s.name}: {s.message}" for s in self._cases.provider_keys.stores() if s.fault),
                *([f"decisions are not kept: {why}"] if (why := self._cases.decisions.fault) else []),
                *(f"node {node} grants its share of limits: {why}" for node, why in self._desk.rates_alone.items()),
            ],
        )

    def _before_scrape(self) -> None:
        self._trail.log.tell(self._desk.board.state)

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
