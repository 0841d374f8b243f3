"""A release: on record before the value is opened, and nothing without a record."""

import asyncio
import contextlib
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bursar.control.release import Releases
from bursar.control.verify_audit import verify_file
from bursar.core.audit import GENESIS, AuditFailed, Record, decode_record, unframe
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.wrap.local import LocalWrapper
from tests.secrets.driving import at_once

Desk = Any  # tests/control/conftest.py
ADDRESS = "openai/*/api/prod/alpha"


class Random:
    token_bytes = staticmethod(os.urandom)


class Watched(EmbeddedStore):
    """The real store; counts what it opens and notes what stood in the audit at that moment."""

    file: Path
    opened: list[list[Record]]

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        self.opened.append(records(self.file))
        return await super().get(secret_id, version)


class Hanging:
    name = "siem"
    required = True
    timeout = 0.2

    async def write(self, records: Sequence[bytes]) -> None:
        await asyncio.Event().wait()

    async def position(self) -> tuple[int, bytes] | None:
        return 0, GENESIS


def records(path: Path) -> list[Record]:
    return [decode_record(unframe(line)[1]) for line in path.read_bytes().splitlines()]


@pytest.fixture
def store(desk: Desk, tmp_path: Path) -> Watched:
    wrapper = LocalWrapper("test:one", os.urandom(32), Random())
    store = at_once(Watched.open(tmp_path / "secrets.db", [wrapper], desk.clock, Random()))
    store.file, store.opened = desk.file, []
    return store


async def test_the_record_stands_before_the_value_is_opened(desk: Desk, store: Watched, canary: Secret) -> None:
    secret_id, _ = await store.put(ADDRESS, canary, {"billing_owner": "ann"})
    lease = await Releases(store, desk.open(), desk.clock, lease_s=60).release(secret_id, None, "n1", "start")
    assert lease.value == canary
    assert (lease.secret_id, lease.version, lease.expires_at) == (secret_id, 1, desk.clock.ns + 60 * 10**9)
    (before,) = store.opened
    record = before[-1]
    assert (record.actor, record.action, record.target) == ("node:n1", "secret.release", f"secret/{secret_id}")
    assert record.facts == {
        "version": 1,
        "reason": "start",
        "address": ADDRESS,
        "billing_owner": "ann",
        "expires_at": lease.expires_at,
    }
    assert canary.reveal() not in repr(lease) + str(lease) + f"{lease}"
    assert canary.reveal().encode() not in desk.file.read_bytes()


async def test_without_a_durable_record_nothing_is_opened(desk: Desk, store: Watched, canary: Secret) -> None:
    secret_id, _ = await store.put(ADDRESS, canary, {})
    releases = Releases(store, desk.open([desk.sink(desk.file), Hanging()]), desk.clock)
    for _ in range(3):
        with pytest.raises(AuditFailed) as refused:
            await releases.release(secret_id, None, "n1", "start")
        assert refused.value.word == "audit_unavailable"
        report = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
        assert canary.reveal() not in "".join(report.format())
    assert store.opened == []


async def test_what_is_unknown_off_or_destroyed_is_refused_and_on_record(
    desk: Desk, store: Watched, canary: Secret
) -> None:
    secret_id, _ = await store.put(ADDRESS, canary, {})
    await store.put_version(secret_id, Secret("newer"))
    await store.destroy(secret_id, 1)
    releases = Releases(store, desk.open(), desk.clock)
    words = []
    for asked, version in [("sec_none", None), (secret_id, 1), (secret_id, 9)]:
        with pytest.raises(Refusal) as refused:
            await releases.release(asked, version, "n1", "start")
        words.append(refused.value.word)
    await store.set_disabled(secret_id, True)
    with pytest.raises(Refusal) as refused:
        await releases.release(secret_id, 2, "n1", "start")
    words.append(refused.value.word)
    assert words == ["no_provider_key"] * 4
    assert [record.outcome for record in records(desk.file)[1:]] == ["refused"] * 4
    assert store.opened == []


async def test_a_value_that_does_not_open_is_on_record_as_failed(desk: Desk, store: Watched, canary: Secret) -> None:
    secret_id, _ = await store.put(ADDRESS, canary, {})
    store._db.execute("""UPDATE secret SET tags = '{"billing_owner":"thief"}'""")
    with pytest.raises(Refusal) as refused:
        await Releases(store, desk.open(), desk.clock).release(secret_id, None, "n1", "start")
    assert refused.value.word == "tags_changed"
    assert [(r.outcome, r.facts.get("word")) for r in records(desk.file)[1:]] == [
        ("allowed", None),
        ("failed", "tags_changed"),
    ]


async def test_uses_are_counted_on_record_or_refused_to_be_kept_by_the_caller(desk: Desk, store: Watched) -> None:
    releases = Releases(store, desk.open(), desk.clock)
    for _ in range(3):  # the answer may get lost: recorded once
        await releases.count_uses("n1", [("sec_a", 1, 40), ("sec_b", 2, 0), ("sec_b", 3, 2)], "b-1")
    await releases.count_uses("n1", [])
    used = [(r.target, r.facts) for r in records(desk.file)[1:]]
    assert used == [
        ("secret/sec_a", {"version": 1, "uses": 40, "flush": "b-1"}),
        ("secret/sec_b", {"version": 3, "uses": 2, "flush": "b-1"}),
    ]
    assert verify_file(desk.file).fault == ""
    stuck = Releases(store, desk.open([Hanging()], trail=desk.trail()), desk.clock)
    with pytest.raises(AuditFailed):
        await stuck.count_uses("n1", [("sec_a", 1, 1)])


async def test_a_caller_that_leaves_during_the_audit_opens_nothing(desk: Desk, store: Watched, canary: Secret) -> None:
    secret_id, _ = await store.put(ADDRESS, canary, {})
    releases = Releases(store, desk.open([desk.sink(desk.file), Hanging()]), desk.clock)
    task = asyncio.create_task(releases.release(secret_id, None, "n1", "start"))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert store.opened == []
