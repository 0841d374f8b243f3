"""Composition root of the gateway process: the data port. No SQL, no key-encryption key, no web framework in here."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop
from msgspec import structs

from bursar.app import collector
from bursar.app.backing import OpenBacking, open_embedded
from bursar.app.board import BoardDesk
from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.descriptors import most_connections
from bursar.app.learning import Learning
from bursar.app.logs import set_up_logs
from bursar.app.rates import CannotServe, RatesDesk
from bursar.app.signatures import Ed25519
from bursar.app.spec import NodeSpec, Ready, read_spec, say_ready
from bursar.app.tls import TlsFiles
from bursar.app.upstreams import Upstreams, build_providers
from bursar.app.vigil import Vigil
from bursar.config import Config, issuer_of
from bursar.core.calls import DialectName
from bursar.core.directory import Delta, Snapshot
from bursar.core.errors import Refusal
from bursar.core.ledger import LedgerEvent
from bursar.core.networks import read_networks
from bursar.core.tokens import digester
from bursar.gateway.answer import refusal_body, refusal_headers
from bursar.gateway.batch_jobs import take_up_for_ever
from bursar.gateway.decisions import Decisions
from bursar.gateway.explain import refused_at_the_door
from bursar.gateway.freshness import STALE_AFTER_S
from bursar.gateway.lease import Leases
from bursar.gateway.node import Answered, BatchRoom, Handed, Node
from bursar.gateway.pipeline import Pipeline
from bursar.gateway.strangers import Observing
from bursar.gateway.uses import UsesFlush
from bursar.link import messages as m
from bursar.link.gateway_end import GatewayEnd
from bursar.ports import Dialect
from bursar.providers.anthropic import Anthropic
from bursar.providers.openai import OpenAI
from bursar.stores.catalogue import load as load_catalogue
from bursar.stores.journal import JournalDamaged
from bursar.stores.restore_marker import is_paused
from bursar.wire.client import Client, ClientConfig
from bursar.wire.dial import Proxy
from bursar.wire.server import Server, ServerConfig
from bursar.wire.sse import EventSplitter

_SHIP_SECONDS = 1.0  # metrics and events to control
_FIRST_DIRECTORY_S = 5.0
_USES_SECONDS = 5.0  # uses of provider keys to the audit: at most 10 s (S6)
_LAST_USES_S = 2.0
_log = logging.getLogger("bursar.gateway")


class Gateway:
    """Everything of one gateway process, built once."""

    def __init__(self, spec: NodeSpec, open_backing: OpenBacking = open_embedded) -> None:
        settings = spec.config
        self._spec = spec
        self._happened: list[m.Happened] = []
        clock, folder = SystemClock(), Path(spec.data)
        dialects: dict[DialectName, Dialect] = {"openai": OpenAI(), "anthropic": Anthropic()}
        self._backing = open_backing(spec, clock, self._ledger_event)
        self._client = Client(_client_config(settings))
        self._link = GatewayEnd(
            folder / "run" / "link.sock",
            m.Hello(node=spec.node, pid=os.getpid()),
            on_welcome=self._welcome,
            on_delta=self._delta,
            on_revoked=self._revoked,
            holds=lambda: self.node.tenants.version if self.node.ready else 0,
            on_fresh=self._fresh,
            on_recorded=self._recorded,
            on_taken=self._taken,
        )
        boot = SystemEntropy().token_bytes(5).hex()
        self._rates = RatesDesk(
            settings.rates, boot, self._alone, self._happen, fleet=settings.store.kind != "embedded"
        )
        self._leases = Leases(self._link, clock)
        self._learning = Learning(folder)
        self._uses = UsesFlush(boot, self._leases.take_uses)
        self.node = Node(
            clock=clock,
            boot=boot,
            dialects=dialects,
            providers=build_providers(settings, dialects, spec.emulator_url),
            prices=load_catalogue(),
            money=self._backing.money,
            rates=self._rates.doorway,
            leases=self._leases,
            upstream=Upstreams(self._client),
            splitter=EventSplitter,
            digest=digester(b""),
            made_ids=self._backing.made_ids,
            id_lives=settings.ids.lives,
        )
        limits, alone = settings.batches, settings.store.kind == "embedded"
        self.node.batches = BatchRoom(limits.most_lines, limits.most_bytes, alone=alone)
        self.node.estimate = self._learning.estimate
        self.node.most_top_keys = settings.metrics.top_keys
        self.node.happenings, self.node.observing = self._happen, self._observing()
        self._board = BoardDesk(settings.breaker, settings.rates, clock, self.node.counters.add, self._happen)
        self.node.board, self.node.breaker = self._board.doorway, settings.breaker.mode
        self.node.tenants.on_closed = self._board.close
        self.node.decisions = Decisions(boot, **structs.asdict(settings.explain.record))
        self.node.paused = is_paused(folder)
        if settings.store.kind != "embedded":
            self.node.fresh_until = 0.0
        self.node.tokens.issuer = issuer_of(settings)
        self._ed25519 = self.node.tokens.verify = Ed25519()
        self.node.proxies = read_networks(settings.listen.data.proxies)
        self.node.forwarded_header = settings.listen.data.forwarded_header.lower()
        self.node.control = self._hand_over
        self._server = Server(_server_config(spec), Pipeline(self.node).serve, self._refuse_at_door)
        self._tls = TlsFiles(settings.listen.data.tls)
        self._reload: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Serve until told to stop, then drain: streams in flight finish, money is written, uses reach the audit."""
        context = self._tls.context()
        if context is None and self._tls.wanted:
            raise CannotServe("the certificate of the data port cannot be used; see listen.data.tls")
        link = asyncio.create_task(self._link.run())
        rates = asyncio.create_task(self._rates.run())
        board = asyncio.create_task(self._board.run())
        vigil = Vigil(on_reload=self._reload_tls)
        sockets = [socket.socket(fileno=fd) for fd in self._spec.data_fds]
        # Without a directory every key would look wrong: callers wait in the kernel's queue for a moment, and are told
        # `not_ready` only when control stays away.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._link.connected.wait(), _FIRST_DIRECTORY_S)
        await self._backing.start()  # after control: that is who makes the tables
        await self._rates.begun()
        await self._server.start(sockets, context)
        collector.release()
        say_ready(self._spec.ready_fd, Ready(name="gateway"))
        ship = asyncio.create_task(self._ship_for_ever())
        batches = asyncio.create_task(take_up_for_ever(self.node))
        keep = asyncio.create_task(self._learning.keep_for_ever())
        await vigil.stopped()
        self.node.drains.most = 0  # who leaves from now on, or is cut off at the end, is not read on for
        await self._server.drain(self._spec.config.drain)
        ship.cancel()
        batches.cancel()
        await self._let_go()
        keep.cancel()
        await self._backing.close()
        await self._learning.keep()
        await self._ship_the_last()
        link.cancel()
        rates.cancel()
        board.cancel()
        await self._client.close()

    async def _let_go(self) -> None:
        """What is followed is taken up at the next start; nobody books anything on what is being closed."""
        followed = list(self.node.followed)
        for task in followed:
            task.cancel()
        await asyncio.gather(*followed, return_exceptions=True)

    # ---- what control says

    def _welcome(self, snapshot: Snapshot, pepper: bytes) -> None:
        self.node.digest = digester(pepper)
        self.node.tenants.replace(snapshot)
        if snapshot.token_keys:
            self._ed25519.load()
        self._apply_prices()
        self.node.ready = True

    def _delta(self, delta: Delta) -> None:
        if delta.version != self.node.tenants.version + 1:
            self._link.reconnect()  # something was missed: ask for the whole directory again
            return
        self.node.tenants.change(delta)
        if delta.token_keys:
            self._ed25519.load()
        gone = [name for kind, name in delta.gone if kind == "provider_key"]
        for key_id in (*gone, *(key.id for key in delta.provider_keys)):
            self._leases.forget(key_id)
        if delta.prices or any(kind == "price" for kind, _ in delta.gone):
            self._apply_prices()
        self._link.send(m.Applied(version=delta.version))

    def _recorded(self, flush: str) -> None:
        self._uses.recorded(flush)

    def _taken(self, number: int) -> None:
        self.node.decisions.taken(number)

    async def _hand_over(self, handed: Handed) -> Answered:
        request = m.Handed(ask=0, **{name: getattr(handed, name) for name in Handed.__struct_fields__})
        back = await self._link.hand_over(request)
        return back.status, back.fields, back.body

    def _revoked(self, secret_id: str, version: int) -> None:
        self._leases.forget(secret_id, version)

    def _fresh(self, at: float, live_nodes: int) -> None:
        self.node.fresh_until = at + STALE_AFTER_S
        self._rates.heard_of(live_nodes)

    def _apply_prices(self) -> None:
        self.node.prices = self.node.prices.with_overrides(self.node.tenants.prices)

    # ---- what control is told

    async def _ship_for_ever(self) -> None:
        beats = 0
        while True:
            await asyncio.sleep(_SHIP_SECONDS)
            beats += 1
            if self._tls.changed():
                self._reload_tls()
            if self.node.paused and not is_paused(Path(self._spec.data)):
                self.node.paused = False
                _log.warning("released after a restore: serving again")
            self.node.decisions.beat()
            self._ship(uses=beats % int(_USES_SECONDS / _SHIP_SECONDS) == 0)

    def _ship(self, *, uses: bool) -> None:
        """Send what was counted; while control is away it stays here and is sent later."""
        if not self._link.connected.is_set():
            return
        node = self.node
        node.counters.gauges.update(
            bursar_in_flight=node.in_flight,
            bursar_connections=self._server.connections,
            bursar_bytes_in_flight=self._server.bytes_in_flight,
            bursar_followed=len(node.followed),
            bursar_observed_keys=len(node.tenants.observed),
            bursar_open_holds=node.money.open_holds,
            bursar_directory_version=node.tenants.version,
            bursar_rates_shared=float(self._rates.shared),
            bursar_rates_nodes=self._rates.live_nodes(),
            bursar_breakers_by_hand=sum(mark.shuts(node.clock.now()) for mark in node.tenants.shut.values()),
            **self._board.gauges(),
        )
        self._link.send(m.Metrics(delta=node.counters.take()))
        for happened in self._happened:
            self._link.send(happened)
        self._happened.clear()
        if (seen := self._board.seen(node.clock.now())) is not None:
            self._link.send(m.Circuits(at_ns=node.clock.now(), seen=seen))
        if (batch := node.decisions.next(node.clock.now(), self._link.connections)) is not None:
            self._link.send(m.Decided(batch=batch))
        if uses and (flush := self._uses.next()) is not None:
            self._link.send(m.Uses(counts=flush[1], flush=flush[0]))

    async def _ship_the_last(self) -> None:
        """Until control has every use on record, or does not say so in time."""
        self._ship(uses=True)
        deadline = asyncio.get_running_loop().time() + _LAST_USES_S
        while self._uses.next() is not None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            self._ship(uses=True)
        await asyncio.sleep(0.05)  # let the link's last frames leave

    def _refuse_at_door(self, refusal: Refusal) -> tuple[int, list[tuple[str, str]], bytes]:
        """A refusal made before any route is known: OpenAI's shape, which every client can show."""
        request_id = self.node.next_id()
        refused_at_the_door(self.node, request_id, refusal)
        fields = refusal_headers(refusal, "openai", request_id)
        return refusal.rule.status, fields, refusal_body(refusal, "openai", request_id)

    def _observing(self) -> Observing:
        observe = self._spec.config.observe
        return Observing(observe.team if observe.enabled else "", observe.most, self._seen)

    def _seen(self, key_id: str, digest: bytes, provider: str) -> bool:
        return self._link.send(m.Seen(key_id=key_id, digest=digest, provider=provider))

    def _alone(self, why: str) -> None:
        self.node.counters.add("bursar_rates_alone_total", (why,))

    def _ledger_event(self, event: LedgerEvent) -> None:
        facts = {name: value for name, value in msgspec.to_builtins(event).items() if isinstance(value, str | int)}
        self._happen(f"ledger_{event.kind}", event.budget_id, facts)

    def _happen(self, word: str, subject: str, facts: dict[str, str | int]) -> None:
        _log.warning("%s %s", word, subject)
        self._happened.append(m.Happened(word=word, subject=subject, facts=facts))

    def _reload_tls(self) -> None:
        context = self._tls.context()
        if context is not None:
            self._reload = asyncio.ensure_future(self._server.reload_tls(context))


def _client_config(settings: Config) -> ClientConfig:
    """As many connections upstream as the door lets in: a stream each."""
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or None
    try:
        if proxy is not None:
            Proxy.parse(proxy)
    except ValueError as fault:
        raise CannotServe(f"HTTPS_PROXY cannot be used: {fault}") from None
    return ClientConfig(
        proxy=proxy,
        no_proxy=os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "",
        ca_file=os.environ.get("SSL_CERT_FILE") or None,
        max_connections_per_origin=settings.wire.max_connections,
    )


def _server_config(spec: NodeSpec) -> ServerConfig:
    wire = spec.config.wire
    return ServerConfig(
        head_timeout=wire.head_timeout,
        body_timeout=wire.body_timeout,
        min_body_rate=wire.min_body_rate,
        idle_timeout=wire.idle_timeout,
        max_body=wire.max_body,
        max_connections=_most_connections(wire.max_connections),
        max_bytes_in_flight=wire.max_bytes_in_flight,
    )


def _most_connections(wanted: int) -> int:
    most = most_connections(wanted)
    if most < wanted:
        _log.warning("open files are limited: %d client connections instead of %d (see ulimit -n)", most, wanted)
    return most


def main(open_backing: OpenBacking = open_embedded) -> int:
    spec = read_spec()
    set_up_logs("gateway")
    collector.hold()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    try:
        uvloop.run(_serve(spec, open_backing))
    except (JournalDamaged, CannotServe, Refusal) as fault:
        say_ready(spec.ready_fd, Ready(name="gateway", problem=f"gateway: {fault}"))
        return 1
    return 0


async def _serve(spec: NodeSpec, open_backing: OpenBacking) -> None:
    await Gateway(spec, open_backing).run()


if __name__ == "__main__":
    sys.exit(main())
