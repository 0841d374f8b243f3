"""One suite for both stores of decisions: what was shipped is found again, counted once, and pruned as said."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.control.decisions import Decisions
from bursar.core.calls import Call, ServerTool
from bursar.core.decisions import (
    HOUR_NS,
    Batch,
    CallFacts,
    Decision,
    Dropped,
    RuleAsked,
    ShadowSum,
    Wanted,
    call_of,
    decode,
    encode,
    facts_of,
)
from bursar.core.errors import Refusal
from bursar.stores.decisions_db import DecisionsDb
from bursar.stores.decisions_postgres import DecisionsPostgres
from bursar.stores.postgres import Postgres
from bursar.stores.postgres_schema import migrate
from tests.stores.journal_kit import NOON, FakeClock

HOUR = NOON // HOUR_NS
EVER = 2**62


@pytest.fixture(params=["sqlite", "postgres"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path, store: Postgres) -> AsyncIterator[Any]:
    if request.param == "sqlite":
        opened = DecisionsDb(tmp_path / "explain.db")
        yield opened
        opened.close()
        return
    await migrate(store, "explain")
    yield DecisionsPostgres(store)


def refused(number: int, **changes: Any) -> Decision:
    values = {
        "request_id": f"req_{number:04}",
        "at_ns": NOON + number,
        "outcome": "refused",
        "word": "budget_exhausted",
        "key_id": "k1",
        "team_id": "search",
        "rules": (
            RuleAsked(control="budgets", rule="b1", verdict="refuses", unit="pico_usd", limit=10**12, left=0, asked=7),
        ),
    }
    return Decision(**(values | changes))


def allowed(number: int, **changes: Any) -> Decision:
    return refused(number, outcome="allowed", word="", rules=(), **changes)


def batch(number: int, *decisions: Decision, session: str = "s", **more: Any) -> tuple[str, Batch, list[Decision]]:
    records = [encode(decision) for decision in decisions]
    return "node-1", Batch(session=session, number=number, at_ns=NOON, records=records, **more), list(decisions)


def shadow(**changes: Any) -> ShadowSum:
    values = {
        "hour": HOUR,
        "team_id": "search",
        "key_id": "k1",
        "control": "limits",
        "rule": "rpm",
        "verdict": "refuses",
        "word": "rate_limited",
        "calls": 3,
        "cost_pico": 2**62,
        "saved_pico": 5,
    }
    return ShadowSum(**(values | changes))


async def test_what_was_kept_is_found_by_its_id(kept: Any) -> None:
    assert await kept.keep(*batch(1, refused(1), allowed(2)))
    assert await kept.find("req_0001") == (refused(1), "node-1")
    assert await kept.find("req_0002") == (allowed(2), "node-1")
    assert await kept.find("req_0003") is None


async def test_those_of_many_requests_are_found_at_once(kept: Any) -> None:
    assert await kept.keep(*batch(1, refused(1), allowed(2), allowed(3)))
    found = await kept.of_requests(["req_0003", "req_0001", "none", "req_0003"])
    assert sorted(found, key=lambda it: it.request_id) == [refused(1), allowed(3)]
    assert await kept.of_requests([]) == []


async def test_a_batch_that_comes_again_is_counted_once(kept: Any) -> None:
    more = {"sums": [shadow()], "dropped": [Dropped(HOUR, "k1", "flood", 9)]}
    assert await kept.keep(*batch(1, refused(1), **more))
    assert not await kept.keep(*batch(1, refused(1), **more))
    assert await kept.keep(*batch(2, refused(2), **more))
    assert not await kept.keep(*batch(1, refused(1), **more))
    assert await kept.keep(*batch(1, refused(1), session="another life", **more))  # the id is known, the sums are new
    (found,) = await kept.sums(HOUR, HOUR + 1)
    assert (found.calls, found.cost_pico, found.saved_pico) == (9, str(3 * 2**62), "15")
    assert await kept.dropped(HOUR) == [Dropped(HOUR, "k1", "flood", 27)]
    assert [decision.request_id for _, decision, _ in await kept.page(Wanted(), EVER, 10)] == ["req_0002", "req_0001"]


async def test_of_many_deliveries_at_once_each_batch_counts_once(kept: Any) -> None:
    await asyncio.gather(*(kept.keep(*batch(1, session=f"s{i % 3}", sums=[shadow()])) for i in range(9)))
    (found,) = await kept.sums(HOUR, HOUR + 1)
    assert found.calls == 9


async def test_pages_lead_through_all_and_hold_to_what_is_wanted(kept: Any) -> None:
    dice = random.Random(5)
    made = [dice.choice((refused, allowed))(i, key_id=dice.choice("ab"), team_id=dice.choice("xy")) for i in range(60)]
    for number, start in enumerate(range(0, 60, 20), 1):
        await kept.keep(*batch(number, *made[start : start + 20]))
    for wanted in (
        Wanted(),
        Wanted(key_id="a"),
        Wanted(team_id="x", ordinary=False),
        Wanted(ordinary=True, until_ns=NOON + 30),
        Wanted(word="budget_exhausted", since_ns=NOON + 10),
    ):
        expected = [
            d
            for d in reversed(made)
            if wanted.since_ns <= d.at_ns < wanted.until_ns
            and wanted.key_id in ("", d.key_id)
            and wanted.team_id in ("", d.team_id)
            and wanted.word in ("", d.word)
            and wanted.ordinary in (None, d.ordinary)
        ]
        found, before = [], EVER
        while page := await kept.page(wanted, before, 7):
            found += [decision for _, decision, _ in page]
            before = page[-1][0]
        assert found == expected


async def test_what_is_old_goes_and_of_too_many_the_ordinary_go_first(kept: Any) -> None:
    await kept.keep(*batch(1, *(refused(i, at_ns=NOON - 10) for i in range(5)), sums=[shadow(hour=HOUR - 9)]))
    await kept.keep(*batch(2, *(allowed(i) for i in range(10, 40)), *(refused(i) for i in range(50, 80))))
    assert await kept.prune(NOON, HOUR - 5, 40) == 5 + 10 + 10
    left = [decision for _, decision, _ in await kept.page(Wanted(), EVER, 100)]
    assert [d.request_id for d in left if d.ordinary] == [f"req_{i:04}" for i in range(39, 19, -1)]
    assert [d.request_id for d in left if not d.ordinary] == [f"req_{i:04}" for i in range(79, 59, -1)]
    assert await kept.sums(0, HOUR + 1) == []
    assert await kept.prune(NOON, HOUR - 5, 40) == 0
    await kept.prune(EVER, HOUR, 40)
    assert await kept.page(Wanted(), EVER, 100) == []


async def test_a_file_that_cannot_be_written_costs_explanations_only(tmp_path: Path) -> None:
    path = tmp_path / "explain.db"
    path.write_bytes(b"this is no database" * 100)
    decisions = Decisions(DecisionsDb(path), FakeClock(), keep_s=3600, most=10)
    _, first, _ = batch(1, refused(1))
    await decisions.take("node-1", first)
    assert decisions.lost == 1
    assert "explain.db" in decisions.fault
    with pytest.raises(Refusal) as refusal:
        await decisions.find("req_0001")
    assert refusal.value.word == "decisions_unavailable"
    path.unlink()
    await decisions.take("node-1", first)
    assert decisions.fault == ""
    assert (await decisions.find("req_0001")) == refused(1, node="node-1")
    decisions.close()


async def test_what_a_newer_node_wrote_is_told_as_that(tmp_path: Path) -> None:
    kept = DecisionsDb(tmp_path / "explain.db")
    decisions = Decisions(kept, FakeClock(), keep_s=3600, most=10)
    record = msgspec.msgpack.encode(msgspec.to_builtins(refused(1)) | {"outcome": "foretold"})
    await kept.keep("n", Batch(session="s", number=1, at_ns=NOON, records=[record]), [refused(1)])
    with pytest.raises(Refusal, match="newer Bursar"):
        await decisions.find("req_0001")
    await decisions.take("n", Batch(session="s", number=2, at_ns=NOON, records=[record]))
    assert decisions.lost == 1
    decisions.close()


async def test_the_file_is_the_users_own(tmp_path: Path) -> None:
    kept = DecisionsDb(tmp_path / "explain.db")
    await kept.keep(*batch(1, refused(1)))
    assert (tmp_path / "explain.db").stat().st_mode & 0o777 == 0o600
    kept.close()
    with sqlite3.connect(tmp_path / "explain.db") as db:
        assert db.execute("SELECT count(*) FROM decision").fetchone() == (1,)


def test_a_record_holds_all_that_a_decision_says() -> None:
    rule = RuleAsked(control="limits", rule="rpm", mode="shadow", verdict="clamps", limit=str(2**70), used=None, left=3)
    decision = refused(
        1, rules=(rule,), call=CallFacts(route="chat", dialect="openai"), facts={"limit": 3, "name": "x"}
    )
    assert decode(encode(decision)) == decision
    assert decision.shadowed == (rule,)
    assert decision.binding is None


def test_a_call_can_be_asked_about_again() -> None:
    call = Call(
        route="messages",
        dialect="anthropic",
        purpose="inference",
        model="claude-x",
        stream=True,
        body=b'{"messages": "the text of the prompt"}',
        input_bytes=321,
        prompt_chars=300,
        messages=2,
        max_tokens=77,
        server_tools=(ServerTool("web_search", 3),),
        unknown_fields=("surprise",),
        user="somebody",
    )
    again = call_of(msgspec.convert(msgspec.to_builtins(facts_of(call)), CallFacts))
    assert again == msgspec.structs.replace(call, body=b"", unknown_fields=("field0",), user="")


async def test_a_full_disk_loses_whole_batches_is_told_and_ends_by_itself(tmp_path: Path) -> None:
    kept = DecisionsDb(tmp_path / "explain.db")
    decisions = Decisions(kept, FakeClock(), keep_s=3600, most=10**6)

    def shipped(number: int) -> Batch:
        return batch(number, *(refused(number * 100 + i, message="x" * 2000) for i in range(50)))[1]

    await decisions.take("node-1", shipped(1))
    assert kept._opened is not None
    kept._opened.execute("PRAGMA max_page_count = 40")  # SQLITE_FULL, as a full disk gives it
    await decisions.take("node-1", shipped(2))
    assert decisions.lost == 50
    assert "full" in decisions.fault
    assert await decisions.find("req_0200") is None  # all of a batch, or nothing
    await decisions.take("node-1", shipped(3))  # opened anew: there is room again
    assert decisions.fault == ""
    assert await decisions.find("req_0301") is not None
    assert decisions.lost == 50
    decisions.close()
