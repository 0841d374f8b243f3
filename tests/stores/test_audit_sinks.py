"""The sinks that leave the machine, on real sockets: in order, nothing lost, no sink that freezes the broker."""

import asyncio
import base64
import datetime
import hashlib
import hmac
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bursar.app.audit_sinks import build_sinks
from bursar.config import Audit, Sink
from bursar.control.audit import AuditLog
from bursar.control.audit_notary import Schedule, Signer
from bursar.control.verify_audit import verify_file
from bursar.core.audit import AuditFailed
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.stores.audit_db import AuditDb
from bursar.stores.audit_file import AuditFile
from tests.stores.receivers import HttpReceiver, Mood, Receiver, SyslogReceiver

KINDS = ("syslog", "cef", "tls", "ocsf", "webhook")
KEY = base64.b64encode(os.urandom(24)).decode()


class SetClock:
    def now(self) -> int:
        return 1_700_000_000_123_456_789

    def monotonic(self) -> float:
        return 0.0


async def until(truth: Callable[[], Any], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not truth():  # noqa: ASYNC110  what is waited for happens on a socket
            await asyncio.sleep(0.005)


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A self-signed pair for localhost: the server's context, and the file that a client may trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "pair.pem").write_bytes(pem + private)
    (folder / "ca.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    return context, folder / "ca.pem"


class Stand:
    """One receiver and audits that write to it, as starts of the same node do."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.ca: Path | None = None
        context = None
        if kind == "tls":
            context, self.ca = certificate(folder)
        self.receiver: Receiver = HttpReceiver() if kind in ("ocsf", "webhook") else SyslogReceiver(context)
        self.signer = Signer(Secret(os.urandom(32).hex()))
        self._opened: list[Callable[[], Awaitable[None]]] = []

    def sink(self, **changes: Any) -> Sink:
        port, kind = self.receiver.port, self.kind
        fields: dict[str, Any] = {"name": "siem", "timeout": 0.4}
        if kind in ("ocsf", "webhook"):
            fields |= {"kind": kind, "url": f"http://127.0.0.1:{port}/in?x=1", "secret_env": "HOOK"}
            fields |= {"allow_private": True}
        else:
            scheme = "tls" if kind == "tls" else "tcp"
            fields |= {"kind": "syslog", "url": f"{scheme}://localhost:{port}", "ca": str(self.ca or "")}
            fields |= {"format": "cef" if kind == "cef" else "rfc5424"}
        return Sink(**{**fields, **changes})

    def open(self, **changes: Any) -> AuditLog:
        settings = Audit(sinks=(self.sink(**changes),))
        sinks = build_sinks(settings, self.folder, "node-1", {"HOOK": KEY}, SetClock())
        trail, checkpoints = AuditDb(self.folder / "audit.db", 5), AuditFile(self.folder / "checkpoints")
        log = AuditLog(trail, sinks, checkpoints, self.signer, SetClock(), Schedule(records=10**6))

        async def close() -> None:
            await log.close()
            for one in (*sinks, trail, checkpoints):
                one.close()

        self._opened.append(close)
        return log

    async def close_audit(self) -> None:
        while self._opened:
            await self._opened.pop()()

    def numbers(self) -> list[int]:
        """The sequence numbers as received."""
        if isinstance(self.receiver, HttpReceiver):
            return [n for _, body in self.receiver.letters for n in _numbers_in(json.loads(body))]
        assert isinstance(self.receiver, SyslogReceiver)
        return [int(re.search(rb'sequenceId="(\d+)"', m)[1]) for m in self.receiver.messages]  # type: ignore[index]

    def complete(self, last: int) -> bool:
        return sorted(set(self.numbers())) == list(range(1, last + 1))


def _numbers_in(letter: Any) -> list[int]:
    if isinstance(letter, list):
        return [event["metadata"]["sequence"] for event in letter]
    return [line["record"]["seq"] for line in letter["lines"]]


@pytest.fixture
async def make_stand(tmp_path: Path) -> AsyncIterator[Callable[[str], Awaitable[Stand]]]:
    stands: list[Stand] = []

    async def make(kind: str) -> Stand:
        stand = Stand(tmp_path, kind)
        stands.append(stand)
        await stand.receiver.up()
        return stand

    yield make
    for stand in stands:
        await stand.close_audit()
        await stand.receiver.down()


MakeStand = Callable[[str], Awaitable[Stand]]


def act(log: AuditLog, number: int = 1, note: str = "") -> Any:
    return log.append("admin", "key.create", f"key/{number}", {"number": number, "note": note})


async def act_often(log: AuditLog, times: int, note: str) -> None:
    for n in range(times):
        await act(log, n, note)


@pytest.mark.parametrize("kind", KINDS)
async def test_records_arrive_once_and_in_order(make_stand: MakeStand, kind: str) -> None:
    stand = await make_stand(kind)
    log = stand.open(required=True, timeout=5)
    await asyncio.gather(*(act(log, n) for n in range(500)))
    assert stand.numbers() == list(range(1, 502))  # required: there when `append` returns
    await stand.close_audit()
    await until(lambda: stand.numbers() == list(range(1, 504)))


@pytest.mark.parametrize("kind", KINDS)
async def test_after_an_outage_a_sink_is_caught_up_in_order(make_stand: MakeStand, kind: str) -> None:
    stand = await make_stand(kind)
    log = stand.open()
    await act(log)
    await until(lambda: stand.complete(2))
    await stand.receiver.down()
    for n in range(150):
        await act(log, n)  # best effort: nobody waits
    await until(lambda: "siem" in log.faults())
    await stand.receiver.up()
    await until(lambda: stand.complete(152))
    tail = stand.numbers()[stand.numbers().index(152) - 149 :]
    assert tail == list(range(3, 153))
    await until(lambda: not log.faults())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_restart_goes_on_where_the_sink_stands(make_stand: MakeStand, kind: str) -> None:
    stand = await make_stand(kind)
    for _ in range(3):
        log = stand.open(required=True, timeout=5)
        await act(log)
        await stand.close_audit()
    await until(lambda: stand.numbers() == list(range(1, 13)))  # start, act, stop, checkpoint


@pytest.mark.parametrize("kind", ["syslog", "ocsf"])
async def test_an_outage_over_a_restart_loses_nothing(make_stand: MakeStand, kind: str) -> None:
    stand = await make_stand(kind)
    await stand.receiver.down()
    log = stand.open()
    for n in range(20):
        await act(log, n)
    await stand.close_audit()
    await stand.receiver.up()
    stand.open()
    await until(lambda: stand.complete(24))


HANGS: list[tuple[str, Mood]] = [
    ("syslog", "deaf"),
    ("tls", "deaf"),
    ("webhook", "mute"),
    ("webhook", "deaf"),
    ("webhook", "slow"),
    ("webhook", "reset"),
    ("ocsf", "broken"),
]


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(("kind", "mood"), HANGS)
async def test_a_sink_that_misbehaves_freezes_nothing(
    make_stand: MakeStand, kind: str, mood: Mood, required: bool
) -> None:
    stand = await make_stand(kind)
    big = "x" * 200_000  # more than a kernel keeps for a receiver that does not read
    log = stand.open(required=required)
    stand.receiver.mood = mood
    if required:
        with pytest.raises(AuditFailed) as refused:
            await act_often(log, 200, big)
        assert refused.value.word == "audit_unavailable"
        assert refused.value.facts == {"sink": "siem"}
    loop = asyncio.get_running_loop()
    began = loop.time()
    for n in range(60):
        if required:
            with pytest.raises(AuditFailed):
                await act(log, n)
        else:
            await act(log, n, big)
    assert loop.time() - began < 10  # no waiting in line: a sink that is away is not waited for
    await until(lambda: "siem" in log.faults())
    stand.receiver.mood = "well"
    await stand.receiver.down()
    await stand.receiver.up()
    await until(lambda: not log.faults())
    last = await act(log)
    await until(lambda: stand.complete(last))


async def test_a_certificate_that_is_not_trusted_gets_nothing(make_stand: MakeStand) -> None:
    stand = await make_stand("tls")
    log = stand.open(required=True, ca="", timeout=5)
    with pytest.raises(AuditFailed, match="certificate that is not trusted"):
        await act(log)
    assert stand.numbers() == []


async def test_a_handshake_that_never_ends_is_cut(make_stand: MakeStand) -> None:
    stand = await make_stand("syslog")  # speaks no TLS and says nothing
    log = stand.open(url=f"tls://localhost:{stand.receiver.port}", required=True)
    stand.receiver.mood = "deaf"
    with pytest.raises(AuditFailed, match=r"within 0\.4 s|failed"):
        await act(log)


# ---- what is sent ----------------------------------------------------------------------------------------------------


async def test_the_syslog_copy_can_be_proven_by_itself(make_stand: MakeStand, tmp_path: Path) -> None:
    stand = await make_stand("syslog")
    log = stand.open(required=True, timeout=5)
    await log.append("admin", "key.create", "key/Zoë", {"note": "line\nbreak | = \\"}, "refused")
    assert isinstance(stand.receiver, SyslogReceiver)
    form = re.compile(rb"<(\d+)>1 (\S+) node-1 bursar - (\S+) \[meta sequenceId=\"\d+\"\] \xef\xbb\xbf(.*)", re.DOTALL)
    found = [form.fullmatch(message) for message in stand.receiver.messages]
    assert found[1] is not None
    assert found[1][1] == b"108"  # facility 13, severity 4: refused
    assert found[1][2] == b"2023-11-14T22:13:20.123456Z"
    assert found[1][3] == b"key.create"
    (tmp_path / "copy").write_bytes(b"".join(match[4] + b"\n" for match in found if match))
    report = verify_file(tmp_path / "copy")
    assert (report.records, report.broken, report.fault) == (2, None, "")


async def test_a_webhook_is_signed_and_its_retry_has_the_same_numbers(make_stand: MakeStand, tmp_path: Path) -> None:
    stand = await make_stand("webhook")
    assert isinstance(stand.receiver, HttpReceiver)
    log = stand.open(required=True, timeout=5)
    await act(log)
    headers, body = stand.receiver.letters[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    want = base64.b64encode(hmac.new(KEY.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{want}"
    letter = json.loads(body)
    assert headers["webhook-id"] == f"node-1-{letter['first']}-{letter['last']}"
    assert KEY not in repr(headers) + body.decode()
    raw = body[body.index(b'"lines":[') + 9 : -2].replace(b'},{"hash"', b'}\n{"hash"') + b"\n"
    (tmp_path / "copy").write_bytes(raw)
    assert verify_file(tmp_path / "copy").fault == ""


async def test_ocsf_events_have_what_the_class_requires(make_stand: MakeStand) -> None:
    stand = await make_stand("ocsf")
    assert isinstance(stand.receiver, HttpReceiver)
    log = stand.open(required=True, timeout=5)
    for action, outcome in (("key.create", "allowed"), ("secret.release", "refused"), ("key.remove", "failed")):
        await log.append("admin", action, "key/a", {}, outcome)  # type: ignore[arg-type]
    assert stand.receiver.letters[0][0]["authorization"] == f"Bearer {KEY}"
    events = [event for _, body in stand.receiver.letters for event in json.loads(body)]
    for event in events:
        assert (event["class_uid"], event["category_uid"]) == (6003, 6)
        assert event["type_uid"] == 600300 + event["activity_id"]
        assert event["metadata"]["version"] == "1.6.0"
        assert event["metadata"]["product"]["vendor_name"] == "Bursar"
        assert event["actor"]["user"]["name"]
        assert event["api"]["operation"]
        assert event["src_endpoint"]["name"] == "node-1"
        assert event["time"] == 1_700_000_000_123
        assert re.fullmatch("[0-9a-f]{64}", event["unmapped"]["hash"])
    assert [event["activity_id"] for event in events] == [1, 1, 2, 4]
    assert [event["status_id"] for event in events] == [1, 1, 2, 2]


async def test_cef_escapes_what_has_a_meaning_in_it(make_stand: MakeStand) -> None:
    stand = await make_stand("cef")
    log = stand.open(required=True, timeout=5)
    await log.append("a=b\\c|d", "key.create", "key/1\n2", {"k": "v=1"})
    assert isinstance(stand.receiver, SyslogReceiver)
    text = stand.receiver.messages[1].decode()
    cef = text[text.index("] CEF:0|") + 2 :]
    head, extension = cef[:80].split("|"), cef.split("|", 7)[7]
    assert head[:3] == ["CEF:0", "Bursar", "Bursar"]
    assert "suser=a\\=b\\\\c|d " in extension
    assert "cs1=key/1\\n2 " in extension
    assert 'cs3={"k":"v\\=1"}' in extension
    assert "\n" not in cef


# ---- what can be wrong at the start ----------------------------------------------------------------------------------


async def test_a_place_that_cannot_be_read_is_named_and_can_be_mended(make_stand: MakeStand, tmp_path: Path) -> None:
    stand = await make_stand("ocsf")
    log = stand.open(required=True, timeout=5)
    await act(log)
    await stand.close_audit()
    place = tmp_path / "audit-places" / "siem.json"
    assert place.stat().st_mode & 0o777 == 0o600
    place.write_text("{")
    log = stand.open(required=True, timeout=5)
    with pytest.raises(AuditFailed, match="place of the audit sink siem is unknown"):
        await act(log)
    place.unlink()
    await until(lambda: not log.faults())
    last = await act(log)
    assert stand.complete(last)


def test_a_credential_that_is_missing_is_named_and_one_that_is_there_is_taken(tmp_path: Path) -> None:
    sink = Sink(name="hook", kind="webhook", url="https://siem.example/", secret_env="HOOK")
    with pytest.raises(Refusal, match="HOOK is not set"):
        build_sinks(Audit(sinks=(sink,)), tmp_path, "n", {}, SetClock())
    (tmp_path / "empty").write_text("\n")
    empty = Sink(name="hook", kind="webhook", url="https://siem.example/", secret_file=str(tmp_path / "empty"))
    with pytest.raises(Refusal, match="is empty"):
        build_sinks(Audit(sinks=(empty,)), tmp_path, "n", {}, SetClock())
    env = {"HOOK": KEY}
    build_sinks(Audit(sinks=(sink,)), tmp_path, "n", env, SetClock())
    assert env == {}
