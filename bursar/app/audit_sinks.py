"""From configured sinks to ones the audit can write to: addresses, credentials, certificates, places kept."""

import asyncio
import ssl
from collections.abc import MutableMapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import certifi

from bursar import __version__, config
from bursar.core.audit import Record
from bursar.core.audit_formats import cef, syslog_message
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import AuditSink, Clock
from bursar.stores.audit_cursor import AuditCursor
from bursar.stores.audit_file import AuditFile
from bursar.stores.audit_http import AuditHttp, Letter, ocsf_writer, webhook_writer
from bursar.stores.audit_syslog import AuditSyslog
from bursar.wire.client import Client, ClientConfig, Origin, Timeouts

_MOST_ANSWER = 64 * 1024


class ClosingSink(AuditSink, Protocol):
    def close(self) -> None: ...


def build_sinks(
    settings: config.Audit, folder: Path, node: str, env: MutableMapping[str, str], clock: Clock
) -> list[ClosingSink]:
    """Every sink beside the trail. Takes the credentials out of `env`. Raises Refusal(invalid_input)."""
    sinks: list[ClosingSink] = [
        AuditFile(folder / "audit.jsonl", timeout=settings.timeout),
        *(AuditFile(Path(f.path), required=f.required, timeout=settings.timeout) for f in settings.files),
    ]
    secrets = {sink.name: secret_of(sink, env) for sink in settings.sinks}
    for sink in settings.sinks:
        env.pop(sink.secret_env, None)
    for sink in settings.sinks:
        cursor = AuditCursor(folder / "audit-places" / f"{sink.name}.json", sink.name)
        if sink.kind == "syslog":
            sinks.append(_syslog(sink, cursor, node))
        else:
            sinks.append(_http(sink, cursor, node, secrets[sink.name], clock))
    return sinks


def secret_of(sink: config.Sink, env: MutableMapping[str, str]) -> Secret | None:
    """By what the sink is signed to or let in. Raises Refusal(invalid_input)."""
    if sink.secret_env:
        if not env.get(sink.secret_env):
            raise _unfit(sink, f"{sink.secret_env} is not set", "Set the variable, or name a secret_file")
        return Secret(env[sink.secret_env])
    if sink.secret_file:
        try:
            found = Path(sink.secret_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise _unfit(sink, f"{sink.secret_file} cannot be read: {type(error).__name__}", "Correct it") from None
        if not found:
            raise _unfit(sink, f"{sink.secret_file} is empty", "Write the key into it")
        return Secret(found)
    return None


def _syslog(sink: config.Sink, cursor: AuditCursor, node: str) -> AuditSyslog:
    url = urlsplit(sink.url)
    assert url.hostname is not None  # checked with the configuration
    assert url.port is not None

    def as_cef(record: Record, record_hash: bytes, line: bytes) -> bytes:
        del line
        # Without the mark: parsers look for "CEF:" at the very start.
        return syslog_message(record, cef(record, record_hash, node, __version__), node, mark=False)

    def as_line(record: Record, record_hash: bytes, line: bytes) -> bytes:
        del record_hash
        return syslog_message(record, line.decode(), node)

    return AuditSyslog(
        sink.name,
        (url.hostname, url.port),
        as_cef if sink.format == "cef" else as_line,
        cursor,
        context_of(sink) if url.scheme == "tls" else None,
        required=sink.required,
        timeout=sink.timeout,
    )


def context_of(sink: config.Sink) -> ssl.SSLContext:
    """Its TLS. Raises Refusal(invalid_input) when the certificates cannot be used."""
    try:
        context = ssl.create_default_context(cafile=sink.ca or certifi.where())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if sink.cert:
            context.load_cert_chain(sink.cert, sink.key)
    except (OSError, ssl.SSLError) as error:
        raise _unfit(sink, f"its certificates cannot be used: {error.strerror or error}", "Give PEM files") from None
    return context


def _http(sink: config.Sink, cursor: AuditCursor, node: str, secret: Secret | None, clock: Clock) -> AuditHttp:
    url = urlsplit(sink.url)
    assert url.hostname is not None  # checked with the configuration
    port = url.port or (443 if url.scheme == "https" else 80)
    origin = Origin(url.scheme, url.hostname, port, sink.allow_private)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        client = Client(ClientConfig(ca_file=sink.ca or None))
    except (OSError, ssl.SSLError) as error:
        raise _unfit(sink, f"{sink.ca} cannot be used: {error.strerror or error}", "Give a PEM file") from None
    span = sink.timeout
    timeouts = Timeouts(connect=span, write=span, first_byte=span, body=span, between_bytes=span, total=span)

    async def post(letter: Letter) -> int:
        response = await client.request(origin, "POST", target, letter.headers, letter.body, timeouts)
        await response.read(_MOST_ANSWER)
        return response.status

    if sink.kind == "webhook":
        assert secret is not None  # checked with the configuration
        writer = webhook_writer(node, secret, clock)
    else:
        writer = ocsf_writer(node, __version__, secret)
    return AuditHttp(
        sink.name, post, writer, cursor, required=sink.required, timeout=span, closing=lambda: _close(client)
    )


_closing: set[asyncio.Task[None]] = set()


def _close(client: Client) -> None:
    task = asyncio.ensure_future(client.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _unfit(sink: config.Sink, why: str, hint: str) -> Refusal:
    return Refusal(
        "invalid_input", f"The audit sink {sink.name} cannot be used: {why}", hint, facts={"sink": sink.name}
    )
