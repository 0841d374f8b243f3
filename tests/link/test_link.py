"""Both ends of the link over a real unix socket: order, gaps, leases, a control process that goes and comes back."""

import asyncio
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.core.circuits import CircuitSeen
from bursar.core.decisions import Batch
from bursar.core.directory import Delta, Owner, Snapshot
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.telemetry import MetricsDelta
from bursar.link import control_end, gateway_end
from bursar.link import messages as m
from bursar.link.control_end import ControlEnd
from bursar.link.frames import MAX_FRAME, Channel, LinkBroken
from bursar.link.gateway_end import GatewayEnd

CANARY = "sk-canary-0123456789"
PEPPER = b"pepper" * 6


class Services:
    """Control's use cases, as the link sees them."""

    def __init__(self) -> None:
        self.version = 1
        self.changes: dict[int, list[Delta]] = {}  # what there is since a version
        self.asked_since: list[int] = []
        self.refusal: Refusal | None = None
        self.hangs = False
        self.handed = 0
        self.asked: list[tuple[str, str, int]] = []
        self.uses: list[tuple[str, int, int]] = []
        self.counted: list[MetricsDelta] = []
        self.told: list[tuple[str, str, str, dict[str, str | int]]] = []
        self.batches: list[tuple[str, Batch]] = []
        self.seen_keys: list[tuple[str, str, bytes, str]] = []
        self.circuits: list[tuple[str, int, list[CircuitSeen]]] = []

    def snapshot(self) -> Snapshot:
        return Snapshot(version=self.version, owners=[Owner(id="o", name="O")])

    def directory_version(self) -> int:
        return self.version

    async def changes_since(self, version: int) -> list[Delta] | None:
        self.asked_since.append(version)
        return self.changes.get(version)

    def pepper(self) -> bytes:
        return PEPPER

    async def release(self, node: str, secret_id: str, version: int) -> tuple[Secret, int]:
        self.asked.append((node, secret_id, version))
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if self.refusal is not None:
            raise self.refusal
        return Secret(CANARY), 99

    async def count_uses(self, node: str, counts: list[tuple[str, int, int]], flush: str) -> bool:
        self.uses += counts
        return flush != "not yet"

    def count(self, node: str, delta: MetricsDelta) -> None:
        self.counted.append(delta)

    async def happened(self, node: str, word: str, subject: str, facts: dict[str, str | int]) -> None:
        self.told.append((node, word, subject, facts))

    async def seen(self, node: str, key_id: str, digest: bytes, provider: str) -> None:
        self.seen_keys.append((node, key_id, digest, provider))

    def see_circuits(self, node: str, at_ns: int, seen: list[CircuitSeen]) -> None:
        self.circuits.append((node, at_ns, seen))

    async def keep_decisions(self, node: str, batch: Batch) -> None:
        self.batches.append((node, batch))
        if self.hangs:
            await asyncio.Event().wait()

    async def answer(self, request: m.Handed) -> tuple[int, list[tuple[str, str]], bytes]:
        self.handed += 1
        if self.hangs:
            await asyncio.Event().wait()
        return 200, [("x-path", request.path)], request.body[::-1]


class Pair:
    """A control end and a gateway end that wants to talk to it, and what the gateway was told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.services = Services()
        self.control = ControlEnd(self.services)
        self.snapshots: list[int] = []
        self.peppers: list[bytes] = []
        self.versions: list[int] = []
        self.revoked: list[tuple[str, int]] = []
        self.recorded: list[str] = []
        self.taken: list[int] = []
        self.gateway = GatewayEnd(
            path,
            m.Hello(node="n1", pid=7),
            on_welcome=self._welcome,
            on_delta=self._delta,
            on_revoked=lambda *what: self.revoked.append(what),
            holds=lambda: self.versions[-1] if self.versions else 0,
            on_recorded=self.recorded.append,
            on_taken=self.taken.append,
        )
        self.task: asyncio.Task[None] | None = None

    def _welcome(self, snapshot: Snapshot, pepper: bytes) -> None:
        self.snapshots.append(snapshot.version)
        self.peppers.append(pepper)
        self.versions.append(snapshot.version)

    def _delta(self, delta: Delta) -> None:
        """As the composition root does it."""
        if delta.version != self.versions[-1] + 1:
            self.gateway.reconnect()
            return
        self.versions.append(delta.version)
        self.gateway.send(m.Applied(version=delta.version))

    async def up(self) -> "Pair":
        await self.control.start(self.path)
        self.task = self.task or asyncio.ensure_future(self.gateway.run())
        await asyncio.wait_for(self.gateway.connected.wait(), 5)
        return self

    def change(self, version: int) -> None:
        self.services.version = version
        self.control.publish(Delta(version=version))

    async def down(self) -> None:
        """Control ends."""
        await self.control.close()
        self.control = ControlEnd(self.services)


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come about")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path / "link.sock")
    yield made
    if made.task is not None:
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)
    await made.control.close()


# ---- the directory ---------------------------------------------------------------------------------------------------


async def test_a_gateway_says_hello_and_is_told_everything(pair: Pair) -> None:
    await pair.up()
    assert pair.snapshots == [1]
    assert pair.peppers == [PEPPER]
    await until(lambda: [(s.node, s.pid, s.version) for s in pair.control.sessions] == [("n1", 7, 1)])


async def test_changes_come_in_their_order(pair: Pair) -> None:
    await pair.up()
    for version in range(2, 200):
        pair.change(version)
    await until(lambda: pair.versions[-1] == 199)
    assert pair.versions == list(range(1, 200))
    assert pair.snapshots == [1]
    await until(lambda: pair.control.sessions[0].version == 199)


async def test_after_a_gap_the_whole_directory_is_told_again(pair: Pair) -> None:
    await pair.up()
    pair.change(2)
    pair.change(4)
    await until(lambda: pair.versions[-1] == 4)
    assert pair.snapshots == [1, 4]
    pair.change(5)
    await until(lambda: pair.versions[-1] == 5)


async def test_a_gateway_that_comes_back_is_told_only_what_it_missed(pair: Pair) -> None:
    """Also by a control that was started anew: the changes are the store's."""
    await pair.up()
    await pair.down()
    pair.services.version = 5
    pair.services.changes = {1: [Delta(version=2), Delta(version=3)], 3: [Delta(version=4), Delta(version=5)]}
    await pair.up()
    await until(lambda: pair.versions[-1] == 5)
    assert pair.versions == [1, 2, 3, 4, 5]
    assert pair.snapshots == [1]
    await until(lambda: pair.control.sessions and pair.control.sessions[0].version == 5)
    pair.change(6)
    await until(lambda: pair.versions[-1] == 6)


async def test_a_gateway_that_missed_nothing_is_told_nothing(pair: Pair) -> None:
    await pair.up()
    await pair.down()
    await pair.up()
    assert pair.snapshots == pair.versions == [1]
    assert pair.services.asked_since == []


@pytest.mark.parametrize("present", [0, 1, 9])
async def test_a_version_that_leads_nowhere_is_told_the_whole(pair: Pair, present: int) -> None:
    """The store was restored from a backup, or has forgotten that long ago."""
    await pair.up()
    pair.change(2)
    await until(lambda: pair.versions[-1] == 2)
    await pair.down()
    pair.services.version = present
    await pair.up()
    await until(lambda: pair.snapshots == [1, present])


async def test_every_gateway_is_told(pair: Pair) -> None:
    await pair.up()
    reader, writer = await asyncio.open_unix_connection(str(pair.path))
    other: Channel[Any] = Channel(reader, writer, m.ToGateway)  # type: ignore[arg-type]
    other.send(m.Hello(node="n2", pid=8))
    assert isinstance(await other.receive(), m.Welcome)
    await until(lambda: len(pair.control.sessions) == 2)
    pair.change(2)
    assert await other.receive() == m.Changed(delta=Delta(version=2))
    await until(lambda: pair.versions[-1] == 2)
    other.close()
    await until(lambda: len(pair.control.sessions) == 1)


async def test_what_is_revoked_is_told(pair: Pair) -> None:
    await pair.up()
    pair.control.revoke("pk", 3)
    await until(lambda: pair.revoked == [("pk", 3)])


# ---- leases ----------------------------------------------------------------------------------------------------------


async def test_a_lease_is_granted(pair: Pair) -> None:
    await pair.up()
    granted = await pair.gateway.release("pk", 2)
    assert (granted.value.reveal(), granted.expires_at) == (CANARY, 99)
    assert pair.services.asked == [("n1", "pk", 2)]


async def test_answers_find_who_asked(pair: Pair) -> None:
    await pair.up()
    await asyncio.gather(*(pair.gateway.release(f"pk-{number}", 1) for number in range(50)))
    assert len(pair.services.asked) == 50
    assert pair.gateway._asks == {}


async def test_a_lease_is_refused_in_controls_words(pair: Pair) -> None:
    await pair.up()
    pair.services.refusal = Refusal("audit_unavailable", "The audit is full", "Free space", 3.5)
    with pytest.raises(Refusal) as refused:
        await pair.gateway.release("pk", 1)
    told = refused.value
    assert (told.word, told.message, told.hint) == ("audit_unavailable", "The audit is full", "Free space")
    assert told.retry_after == 3.5


async def test_without_control_a_lease_is_refused_clearly(pair: Pair) -> None:
    with pytest.raises(Refusal) as refused:
        await pair.gateway.release("pk", 1)
    assert "control process" in refused.value.message
    assert refused.value.rule.status == 503
    assert refused.value.rule.retry  # it comes back: the hint says so, the SDKs must hear so


async def test_control_that_goes_while_it_is_asked(pair: Pair) -> None:
    await pair.up()
    pair.services.hangs = True
    asking = asyncio.ensure_future(pair.gateway.release("pk", 1))
    await until(lambda: pair.services.asked)
    await pair.down()
    with pytest.raises(Refusal):
        await asyncio.wait_for(asking, 1)
    assert pair.gateway._asks == {}


async def test_control_that_does_not_answer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    await pair.up()
    monkeypatch.setattr(gateway_end, "_LEASE_WAIT", 0.01)
    pair.services.hangs = True
    with pytest.raises(Refusal):
        await pair.gateway.release("pk", 1)
    assert pair.gateway._asks == {}


async def test_an_answer_that_nobody_waits_for_any_more(pair: Pair) -> None:
    await pair.up()
    asking = asyncio.ensure_future(pair.gateway.release("pk", 1))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await pair.gateway.release("pk", 1)).value.reveal() == CANARY


# ---- what control is told --------------------------------------------------------------------------------------------


async def test_control_is_told_what_was_counted_and_what_happened(pair: Pair) -> None:
    await pair.up()
    delta = MetricsDelta(counters={"bursar_requests_total": [(("t", "m", "k", "200", "ok"), 2.0)]})
    assert pair.gateway.send(m.Metrics(delta=delta))
    assert pair.gateway.send(m.Uses(counts=[("pk", 1, 5)]))
    assert pair.gateway.send(m.Happened(word="ledger_overage", subject="b", facts={"pico": 1}))
    circuit = CircuitSeen(name="provider/openai", state="open", failures=5, last_ns=1, since_ns=2, next_try_ns=3)
    assert pair.gateway.send(m.Circuits(at_ns=4, seen=[circuit]))
    assert pair.gateway.send(m.Hello(node="n1", pid=7))  # twice: harmless
    assert pair.gateway.send(m.Seen(key_id="abc", digest=b"\0\xff", provider="openai"))
    await until(lambda: pair.services.seen_keys)
    assert pair.services.seen_keys == [("n1", "abc", b"\0\xff", "openai")]
    assert pair.services.counted == [delta]
    assert pair.services.uses == [("pk", 1, 5)]
    assert pair.services.told == [("n1", "ledger_overage", "b", {"pico": 1})]
    assert pair.services.circuits == [("n1", 4, [circuit])]


async def test_the_gateway_hears_which_uses_are_on_record(pair: Pair) -> None:
    await pair.up()
    assert pair.gateway.send(m.Uses(counts=[("pk", 1, 5)], flush="not yet"))
    assert pair.gateway.send(m.Uses(counts=[("pk", 1, 5)], flush="b-2"))
    await until(lambda: pair.recorded)
    assert pair.recorded == ["b-2"]
    assert pair.services.uses == [("pk", 1, 5)] * 2


async def test_while_the_link_is_down_nothing_is_taken(pair: Pair) -> None:
    assert not pair.gateway.send(m.Uses(counts=[]))
    pair.gateway.reconnect()  # nothing to break off


# ---- gone and back ---------------------------------------------------------------------------------------------------


async def test_control_gone_and_back(pair: Pair) -> None:
    await pair.up()
    await pair.down()
    await until(lambda: not pair.gateway.connected.is_set())
    assert not pair.gateway.send(m.Uses(counts=[]))
    pair.services.version = 9
    await pair.up()
    assert pair.versions[-1] == 9
    assert (await pair.gateway.release("pk", 1)).value.reveal() == CANARY


async def test_it_tries_again_with_patience_and_at_once_after_a_welcome(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = asyncio.sleep
    pauses: list[float] = []

    async def hurried(seconds: float) -> None:
        if seconds >= 0.01:
            pauses.append(seconds)
        await sleep(0.002)

    monkeypatch.setattr(gateway_end.asyncio, "sleep", hurried)
    pair.task = asyncio.ensure_future(pair.gateway.run())
    await until(lambda: len(pauses) >= 8)
    assert pauses[:8] == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1, 0.1]
    await pair.up()
    pauses.clear()
    await pair.down()
    await until(lambda: pauses)
    assert pauses[0] == 0.01


async def test_the_socket_is_this_users_alone(pair: Pair) -> None:
    mask = os.umask(0)
    try:
        await pair.up()
    finally:
        os.umask(mask)
    assert stat.S_IMODE(pair.path.stat().st_mode) == 0o600


async def test_another_user_is_told_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_end, "_peer_uid", lambda _: os.getuid() + 1)
    await pair.control.start(pair.path)
    assert await ask_raw(pair.path, frame(m.Hello(node="n", pid=1))) == b""
    assert pair.control.sessions == []


async def test_a_peer_that_cannot_be_named_is_nobody(tmp_path: Path) -> None:
    class Nameless:
        def get_extra_info(self, name: str) -> socket.socket:
            closed = socket.socket()
            closed.close()
            return closed

    assert control_end._peer_uid(Nameless()) == -1  # type: ignore[arg-type]


# ---- frames that are none of ours ------------------------------------------------------------------------------------


def frame(message: Any) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return struct.pack(">I", len(payload)) + payload


def raw(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


async def ask_raw(path: Path, sent: bytes) -> bytes:
    """All that control says to these bytes until it closes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""  # closed without having read what was sent
    finally:
        writer.close()


GARBAGE = [
    raw(b""),
    raw(b"\xc1"),
    raw(msgspec.msgpack.encode({"type": "Nothing"})),
    raw(msgspec.msgpack.encode({"type": "Hello", "node": 5, "pid": CANARY})),
    raw(b"\x83\xa4type\xa5Hello\xa4node\xa2\xff\xfe\xa3pid\x01"),  # not UTF-8
    raw(b"\x83\xa4type\xacLeaseRefused\xa3ask\x01\xa4word\xa2\xff\xfe"),  # nor this
    raw(b"\x91" * 100_000),  # deeply nested
    struct.pack(">I", MAX_FRAME + 1),
]
NO_GREETING = frame(m.Uses(counts=[]))


@pytest.mark.parametrize("sent", GARBAGE)
async def test_garbage_ends_the_session_and_nothing_else(
    pair: Pair, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await pair.up()
    assert await ask_raw(pair.path, sent) == b""
    await ask_raw(pair.path, frame(m.Hello(node="n2", pid=1)) + sent)
    await until(lambda: [session.node for session in pair.control.sessions] == ["n1"])
    assert (await pair.gateway.release("pk", 1)).value.reveal() == CANARY
    assert CANARY not in caplog.text
    assert not caplog.records


async def test_who_does_not_greet_is_not_heard(pair: Pair) -> None:
    await pair.up()
    assert await ask_raw(pair.path, NO_GREETING) == b""


@pytest.mark.parametrize("sent", GARBAGE)
async def test_a_control_that_speaks_garbage_is_left_and_tried_again(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pair = Pair(tmp_path / "link.sock")
    greetings = 0

    async def mad(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greetings
        greetings += 1
        writer.write(sent)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(mad, str(pair.path))
    pair.task = asyncio.ensure_future(pair.gateway.run())
    await until(lambda: greetings >= 2)
    assert not pair.task.done()
    server.close()
    await pair.up()
    assert pair.snapshots == [1]
    assert CANARY not in caplog.text
    pair.task.cancel()
    await asyncio.gather(pair.task, return_exceptions=True)
    await pair.control.close()


async def test_a_frame_that_cannot_be_read_is_not_quoted() -> None:
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=left)
    channel: Channel[Any] = Channel(reader, writer, m.ToGateway)  # type: ignore[arg-type]
    payload = {"type": "LeaseGranted", "ask": 1, "secret_id": "s", "version": "x", "value": CANARY, "expires_at": 1}
    right.sendall(raw(msgspec.msgpack.encode(payload)))
    with pytest.raises(LinkBroken) as broken:
        await channel.receive()
    assert CANARY not in repr(broken.value)
    assert broken.value.__cause__ is None
    assert broken.value.__suppress_context__
    right.close()
    channel.close()
    channel.send(m.Applied(version=1))  # a closed link drops it


def test_no_secret_in_any_repr() -> None:
    granted = m.LeaseGranted(ask=1, secret_id="pk", version=2, value=CANARY, expires_at=9)
    kept = gateway_end.Granted(Secret(CANARY), 9)
    for text in (repr(granted), str(granted), f"{granted}", repr(kept), repr([granted, kept])):
        assert CANARY not in text
    assert "pk" in repr(granted)


def test_a_welcome_does_not_show_the_pepper() -> None:
    assert b"pepper" not in repr(m.Welcome(snapshot=Snapshot(version=1), pepper=PEPPER)).encode()


# ---- requests that control answers


def handed(body: bytes = b"abc") -> m.Handed:
    return m.Handed(ask=0, method="POST", path="/oauth/token", query="", headers={}, body=body, peer="127.0.0.1")


async def test_a_request_is_handed_over_and_comes_back(pair: Pair) -> None:
    await pair.up()
    back = await asyncio.gather(*(pair.gateway.hand_over(handed(body)) for body in (b"abc", b"xyz")))
    assert [answer.body for answer in back] == [b"cba", b"zyx"]
    assert back[0].fields == [("x-path", "/oauth/token")]
    assert b"abc" not in repr(handed()).encode()
    assert "cba" not in repr(back[0])


async def test_without_control_a_request_is_refused_at_once(pair: Pair) -> None:
    with pytest.raises(Refusal) as refused:
        await pair.gateway.hand_over(handed())
    assert refused.value.word == "control_unavailable"


async def test_a_control_that_dies_meanwhile_leaves_nobody_waiting(pair: Pair) -> None:
    await pair.up()
    pair.services.hangs = True
    waiting = asyncio.ensure_future(pair.gateway.hand_over(handed()))
    await until(lambda: pair.services.handed)
    await pair.control.close()
    with pytest.raises(Refusal) as refused:
        await waiting
    assert refused.value.word == "control_unavailable"


# ---- decisions -------------------------------------------------------------------------------------------------------


async def test_a_batch_of_decisions_is_answered_when_control_has_dealt_with_it(pair: Pair) -> None:
    await pair.up()
    sent = Batch(session="b", number=7, at_ns=5, records=[b"one", b"two"])
    assert pair.gateway.send(m.Decided(batch=sent))
    await until(lambda: pair.taken)
    assert pair.taken == [7]
    assert pair.services.batches == [("n1", sent)]
    pair.services.hangs = True
    assert pair.gateway.send(m.Decided(batch=sent))
    await until(lambda: len(pair.services.batches) == 2)
    assert pair.taken == [7]
    before = pair.gateway.connections
    await pair.down()
    await pair.up()
    assert pair.gateway.connections == before + 1  # by which a gateway knows to send it again
