"""`bursar check --connect`: asks everything that the configuration names, once each and at the same time.

Nothing is written anywhere, and no provider key is sent. `main` is the process in which that happens: one
JSON document on standard input, what was found as one on standard output; the command line does without the extras.
"""

import asyncio
import importlib
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from cryptography import x509

from bursar.app.audit_sinks import context_of, secret_of
from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.rates import CannotServe, url_of
from bursar.app.secret_stores import open_stores
from bursar.app.wrapping import open_ring
from bursar.config import Config, Listen, Provider, Sink, VaultStore
from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.secret import Secret
from bursar.ports import SecretStore
from bursar.secrets.sealed_file import sealed_under
from bursar.secrets.values import Fingerprint
from bursar.wire.client import Client, ClientConfig, Origin, Timeouts

_EXPIRES_SOON_DAYS = 14
_OLDEST_REDIS = (6, 2)


class Asked(msgspec.Struct, kw_only=True):
    config: Config
    seconds: float = 5.0  # that each question may take


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one question."""

    what: str
    ok: bool
    said: str
    mend: str = ""


class Wrong(Exception):
    """One line of what is wrong, one of what mends it. Neither holds a secret."""

    def __init__(self, said: str, mend: str = "") -> None:
        super().__init__(said)
        self.said = said
        self.mend = mend


Question = Callable[[], Awaitable[str]]
"""-> what was found, in a line. Raises Wrong, Refusal, UpstreamFault, OSError, TimeoutError."""


def questions(config: Config, env: MutableMapping[str, str], seconds: float) -> dict[str, Question]:
    """By what is asked about, in the order in which they are told."""
    found: dict[str, Question] = {"data folder": lambda: asyncio.to_thread(_folder, Path(config.data))}
    found["wrapping key"] = lambda: _wrapping_key(config, env)
    if config.store.kind == "postgres":
        found["store (PostgreSQL)"] = lambda: _postgres(config, env, seconds)
    if config.rates.kind == "redis":
        found["rates (Redis)"] = lambda: _redis(config, seconds)
    for name, store in _secret_stores(config, env).items():
        found[f"secret store {name}"] = store
    for sink in config.audit.sinks:
        found[f"audit sink {sink.name}"] = partial(_sink, sink, env, seconds)
    for name, provider in config.providers.items():
        if provider.enabled:
            found[f"provider {name}"] = partial(_provider, provider, env, seconds)
    if config.admin.oidc is not None:
        issuer, private = config.admin.oidc.issuer, config.admin.oidc.allow_private
        found["login (OpenID Connect)"] = lambda: _issuer(issuer, private, env, seconds)
    if config.listen.data.tls is not None:
        found["TLS of the data port"] = lambda: asyncio.to_thread(_certificate, config.listen)
    return found


async def ask_all(config: Config, env: MutableMapping[str, str], seconds: float) -> list[Answer]:
    """Every question at once; the slowest takes `seconds` and a bit."""
    asked = questions(config, env, seconds)
    return list(await asyncio.gather(*(_answered(what, question, seconds) for what, question in asked.items())))


async def _answered(what: str, question: Question, seconds: float) -> Answer:
    try:
        async with asyncio.timeout(seconds + 1):
            return Answer(what=what, ok=True, said=await question())
    except Wrong as wrong:
        return Answer(what=what, ok=False, said=wrong.said, mend=wrong.mend)
    except Refusal as refusal:
        return Answer(what=what, ok=False, said=refusal.message, mend=refusal.hint)
    except UpstreamFault as fault:
        return Answer(
            what=what, ok=False, said=f"cannot be reached ({fault.kind})", mend=_UPSTREAM.get(fault.kind, _NET)
        )
    except TimeoutError:
        return Answer(what=what, ok=False, said=f"no answer within {seconds:g} s", mend=_NET)
    except OSError as fault:
        said = f"cannot be reached: {fault.strerror or type(fault).__name__}"
        if isinstance(fault, ssl.SSLCertVerificationError):
            said = f"its certificate is not believed: {fault.verify_message}"
        return Answer(what=what, ok=False, said=said, mend=_TLS if isinstance(fault, ssl.SSLError) else _NET)


_NET = "See whether it runs, its address and port in bursar.yaml, and the firewall between"
_TLS = "See its certificate, and the ca_file (ca) that this node is to believe"
_UPSTREAM = {
    "tls": _TLS,
    "private_address": "It lies in a private network: allow_private, if that is meant",
    "proxy": "See HTTPS_PROXY",
}


def _folder(folder: Path) -> str:
    room = folder if folder.exists() else next(parent for parent in folder.resolve().parents if parent.exists())
    if not os.access(room, os.W_OK | os.X_OK):
        raise Wrong(f"{room} cannot be written", f"Give it to user {os.getuid()}, or choose another folder")
    return "can be written" if folder.exists() else f"will be made in {room}"


async def _wrapping_key(config: Config, env: MutableMapping[str, str]) -> str:
    """What is sealed must open; nothing is made. Where nothing is sealed yet, a key that a service keeps is asked."""
    folder, path = Path(config.data), Path(config.data) / "secrets.db"
    under = sealed_under(path) if config.store.kind == "embedded" else frozenset()
    if not under and config.wrapper.kind not in ("awskms", "transit"):
        if config.wrapper.kind == "passphrase" and not env.get(config.wrapper.passphrase_env):
            raise Wrong(f"{config.wrapper.passphrase_env} is not set", "Set it to the passphrase")
        return "nothing is sealed yet" if config.store.kind == "embedded" else "as configured"
    ring = await open_ring(config, folder, dict(env), SystemEntropy(), under or frozenset({("-",)}))
    mine = {wrapper.id for wrapper in (ring.sealing, *ring.opening)}
    lost = [ids for ids in under if not mine.intersection(ids)]
    if lost:
        raise Wrong("some secrets are sealed under a key that is not configured", "See: bursar secrets ring")
    return "opens all that is sealed" if under else "answers"


async def _postgres(config: Config, env: MutableMapping[str, str], seconds: float) -> str:
    checks = _extra("bursar.app.connecting_postgres", "postgres")
    found: str = await checks.look(config, env, seconds)
    return found


async def _redis(config: Config, seconds: float) -> str:
    """It is greeted, and runs a script as rates do."""
    place, pipes = _extra("bursar.stores.redis_place", "redis"), _extra("bursar.stores.redis_pipe", "redis")
    try:
        where = place.read_place(url_of(config.rates), config.rates.ca_file)
    except CannotServe as fault:
        raise Wrong(str(fault), "Give it in rates.url, rates.url_file or the variable") from None
    except ValueError as fault:
        raise Wrong(f"the URL of rates {fault}", "Write redis://HOST[:PORT][/DATABASE]") from None
    try:
        pipe = await place.connect(where, partial(pipes.Pipe), seconds)
        try:
            told = (await pipe.ask("INFO", "server")).decode()
            await pipe.ask("EVAL", "return redis.call('TIME')", 0)
        finally:
            pipe.cut("asked")
    except pipes.ReplyError as fault:
        raise Wrong(f"refuses: {_code(str(fault))}", "See user, password and its ACL: it needs INFO and EVAL") from None
    version = next(line.partition(":")[2] for line in told.splitlines() if line.startswith("redis_version"))
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_REDIS:
        raise Wrong(f"is Redis {version}", "Bursar needs 6.2 or later")
    return f"Redis {version}, runs scripts" + (", TLS" if where.tls else "")


def _secret_stores(config: Config, env: MutableMapping[str, str]) -> dict[str, Question]:
    """One question a store: what lies there is listed."""
    stores = config.secrets

    async def look(alone: Config) -> str:
        opened = open_stores(
            alone, cast(SecretStore, _Nothing()), dict(env), SystemClock(), Fingerprint(Secret("00" * 32))
        )
        try:
            listed = await opened.stores.entries()
            refusals = [state for state in opened.stores.states() if state.fault]
            if refusals:
                raise Wrong(refusals[0].message, "See its address, its login and its policy (bursar policy export)")
            return f"{len(listed)} provider keys"
        finally:
            await opened.close()

    found: dict[str, Question] = {}
    for kind in ("vault", "aws", "mounted", "environment"):
        for name, settings in getattr(stores, kind).items():
            only = msgspec.structs.replace(
                stores, **{other: {} for other in ("vault", "aws", "mounted", "environment")} | {kind: {name: settings}}
            )
            alone = msgspec.structs.replace(config, secrets=msgspec.structs.replace(only, default="embedded"))
            found[name] = partial(look, alone)
            if kind == "vault" and settings.login.wrapped:
                found[name] = partial(_wrapped, settings, env)
    return found


async def _wrapped(vault: VaultStore, env: MutableMapping[str, str]) -> str:
    """What opens once is not spent on a look."""
    ca_file = vault.ca_file or env.get("SSL_CERT_FILE", "")
    status = await _http("GET", f"{vault.url.rstrip('/')}/v1/sys/health", True, ca_file, vault.timeout)
    return f"answers {status}; its login opens once and was not tried"


class _Nothing:
    """In the place of the node's own store, which is asked about by itself."""

    name = "embedded"
    writable = True

    async def entries(self) -> list[Any]:
        return []


async def _sink(sink: Sink, env: MutableMapping[str, str], seconds: float) -> str:
    """Reached, with TLS where it has it; nothing is sent to a syslog, and an HTTP sink is asked for its options."""
    secret_of(sink, env)
    url = urlsplit(sink.url)
    if sink.kind != "syslog":
        status = await _http("OPTIONS", sink.url, sink.allow_private, sink.ca or "", seconds)
        return f"answers {status}"
    context = context_of(sink) if url.scheme == "tls" else None
    _, writer = await asyncio.open_connection(url.hostname, url.port, ssl=context)
    writer.close()
    return "connected" + (", TLS" if context else "")


async def _provider(provider: Provider, env: MutableMapping[str, str], seconds: float) -> str:
    """Any answer will do: without a key it is a refusal."""
    url = provider.base_url.rstrip("/") + "/models"
    status = await _http("GET", url, provider.allow_private, env.get("SSL_CERT_FILE", ""), seconds)
    return f"answers {status} without a key"


async def _issuer(issuer: str, private: bool, env: MutableMapping[str, str], seconds: float) -> str:
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    status = await _http("GET", url, private, env.get("SSL_CERT_FILE", ""), seconds)
    if status != 200:
        raise Wrong(f"its discovery document answers {status}", "See admin.oidc.issuer: exactly as in its tokens")
    return "its discovery document is there"


async def _http(method: str, url: str, private: bool, ca_file: str, seconds: float) -> int:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    client = Client(ClientConfig(ca_file=ca_file or None))
    try:
        origin = Origin(parts.scheme, parts.hostname or "", port, private)
        spans = Timeouts(connect=seconds, write=seconds, first_byte=seconds, body=seconds, total=seconds)
        answer = await client.request(origin, method, parts.path or "/", [], b"", spans)
        answer.abort()
        return answer.status
    finally:
        await client.close()


def _certificate(listen: Listen) -> str:
    files = listen.data.tls
    assert files is not None  # looked at before
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key)
        ends = x509.load_pem_x509_certificate(Path(files.cert).read_bytes()).not_valid_after_utc
    except (OSError, ssl.SSLError, ValueError) as fault:
        raise Wrong(
            f"cannot be used ({type(fault).__name__})", "Give listen.data.tls a matching pair of PEM files"
        ) from None
    days = (ends - datetime.fromtimestamp(SystemClock().now() / 1e9, UTC)).days
    if days < _EXPIRES_SOON_DAYS:
        raise Wrong(f"the certificate ends {ends:%Y-%m-%d}", "Put a new one in its place; a running node takes it up")
    return f"good until {ends:%Y-%m-%d}"


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise Wrong(f"{missing.name} is not installed", f"pip install 'bursar[{extra}]'") from None


def _code(reply: str) -> str:
    """The word of a refusal alone: the rest can quote a command."""
    return reply.lstrip("-").split(" ")[0][:40] or "no reason"


def main() -> int:
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    answers = asyncio.run(ask_all(asked.config, dict(os.environ), asked.seconds))
    sys.stdout.buffer.write(msgspec.json.encode(answers))
    return 0
