"""`bursar explain` and the admin API behind it: records of every outcome, from the ledger alone, and of nobody's."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from bursar.core.decisions import Batch, CallFacts, Decision, Dropped, RuleAsked, encode
from bursar.core.errors import RULES
from bursar.core.holders import AttemptRow, Holder
from bursar.core.units import NS_PER_S, usd_to_pico
from bursar.faces.cli_terminal import REFUSED, USAGE
from tests.control.tenants import START_NS
from tests.faces.stand import Stand, balance, standing
from tests.faces.test_cli import Cli


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("node")) as one:
        yield one


@pytest.fixture
def cli(stand: Stand) -> Cli:
    return Cli(stand)


BUDGET_RULE = RuleAsked(
    control="budgets",
    rule="b1",
    verdict="refuses",
    word="budget_exhausted",
    subject="team/search",
    unit="pico_usd",
    limit=usd_to_pico("10"),
    used=usd_to_pico("9.99"),
    held=usd_to_pico("1.5"),
    asked=usd_to_pico("0.25"),
    left=usd_to_pico("0.01"),
    resets_ns=START_NS,
    says="hard",
)
LIMIT = RuleAsked(control="limits", rule="rpm", subject="key/k1", unit="requests", per_seconds=60, limit=60, left=9)
SHADOW = RuleAsked(
    control="models", rule="models", mode="shadow", verdict="refuses", word="model_not_allowed", says="x"
)
numbers = iter(range(1, 10**6))


def put(stand: Stand, request_id: str, **changes: Any) -> None:
    values: dict[str, Any] = {"outcome": "refused", "word": "budget_exhausted", "status": 429, "key_id": "k1"}
    values |= {"team_id": "search", "owner_id": "acme", "message": "The budget is spent", "rules": (LIMIT, BUDGET_RULE)}
    values |= {"call": CallFacts(route="chat", dialect="openai", model="gpt-4o", max_tokens=50, input_bytes=1234)}
    decision = Decision(request_id=request_id, at_ns=START_NS, **(values | changes))
    batch = Batch(session="s", number=next(numbers), at_ns=START_NS, records=[encode(decision)])
    stand.run(stand.decisions_db.keep("node-7", batch, [decision]))


def attempt(**changes: Any) -> AttemptRow:
    values: dict[str, Any] = {"hold_id": 1, "attempt": 1, "t_ns": START_NS, "key_id": "k1", "team_id": "search"}
    values |= {"owner_id": "acme", "user": "", "provider": "openai", "model": "gpt-4o", "secret_id": "s"}
    values |= {"price_id": "p", "state": "POSTED", "held_pico": 10**12, "cost_pico": 10**11, "exact": True}
    values |= {"settled_ns": START_NS, "outcome": "ok", "input_tokens": 5, "output_tokens": 7}
    return AttemptRow(**(values | changes))


def test_a_refusal_is_told_with_what_holds_the_budget_now(stand: Stand, cli: Cli) -> None:
    cli("owners", "create", "ACME", "--contact", "money@acme.example", "--id", "acme")
    cli("teams", "create", "Search", "--owner", "acme", "--id", "search")
    cli("budgets", "create", "team/search", "--limit", "$10", "--id", "b1")
    put(stand, "req_1")
    stand.ledger.standing = [balance("b1", "10", "9.99", "1.5")]
    one = Holder(
        request_id="a", key_id="k9", team_id="search", user="", model="m", t_ns=START_NS, amount_pico=3 * 10**11
    )
    stand.ledger.held["b1"] = [one, msgspec.structs.replace(one, request_id="b", amount_pico=5 * 10**11)]
    found = cli.json("explain", "req_1")
    assert found["recorded"]
    assert found["decision"]["binding"] == "budgets/b1"
    rule = found["decision"]["rules"][1]
    assert (rule["unit"], rule["limit"], rule["asked"], rule["left"]) == ("usd", "10.00", "0.25", "0.01")
    assert found["decision"]["rules"][0]["limit"] == 60
    (holder,) = found["holding"]["keys"]
    assert (holder["key"], holder["calls"], holder["held_usd"]) == ("k9", 2, "0.80")
    assert found["stands"]["held_usd"] == "1.50"
    assert found["owner_contacts"] == ["money@acme.example"]
    said = cli("explain", "req_1", width=120).stdout
    for told in (
        "✗ refused by the budget b1",
        "who can lift it",
        "role admin",
        "2 calls hold $0.80",
        "money@acme.example",
    ):
        assert told in said
    assert "bursar budgets raise b1 '$11.74'" in said


@pytest.mark.parametrize("word", RULES)
def test_a_refusal_of_every_word_is_told(stand: Stand, cli: Cli, word: str) -> None:
    put(stand, f"req_{word}", word=word, rules=(), message=RULES[word].title)
    found = cli.json("explain", f"req_{word}")
    assert found["lifts"]
    assert RULES[word].title in found["told"]
    assert "who can lift it" in cli("explain", f"req_{word}", width=100).stdout


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outcome": "cut", "word": "", "output_cap": 12, "rules": ()}, "ended at its allowance of 12 output tokens"),
        ({"outcome": "gone", "word": "client_gone", "rules": ()}, "the caller left"),
        ({"outcome": "failed", "word": "upstream_timeout", "rules": ()}, "failed upstream"),
        ({"outcome": "allowed", "word": "", "rules": (LIMIT,)}, "allowed"),
        ({"outcome": "allowed", "word": "", "rules": (LIMIT, SHADOW)}, "1 rules in shadow would have said otherwise"),
    ],
)
def test_other_ends_are_told_in_their_own_words(stand: Stand, cli: Cli, changes: dict[str, Any], told: str) -> None:
    request_id = f"req_{next(numbers)}_end"
    put(stand, request_id, **changes)
    assert told in cli("explain", request_id, width=100).stdout


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (attempt(), "allowed"),
        (attempt(state="HELD", cost_pico=None, exact=None, outcome="", settled_ns=None), "in flight: its hold is open"),
        (attempt(outcome="unreconciled", exact=False), "whole hold is booked (unreconciled)"),
        (attempt(state="VOIDED", cost_pico=None, exact=None, outcome="unsent"), "nothing was sent or billed (unsent)"),
        (attempt(outcome="cut", exact=False), "ended early (cut)"),
    ],
)
def test_without_a_record_the_ledger_tells(stand: Stand, cli: Cli, row: AttemptRow, told: str) -> None:
    stand.ledger.requests["req_ledger"] = [row]
    found = cli.json("explain", "req_ledger")
    assert (found["recorded"], found["decision"], found["lifts"]) == (False, None, [])
    assert told in found["told"]
    said = cli("explain", "req_ledger", width=100).stdout
    assert "in the ledger" in said
    assert told in said


def test_an_unknown_id_is_told_with_what_was_dropped(stand: Stand, cli: Cli) -> None:
    dropped = [Dropped(START_NS // (3600 * NS_PER_S), "k1", "flood", 41)]
    lost = Batch(session="t", number=1, at_ns=START_NS, dropped=dropped)
    stand.run(stand.decisions_db.keep("node-7", lost, []))
    said = cli("explain", "req_nowhere", code=REFUSED).stderr
    assert "unknown_id" in said
    assert "records are kept for 30d; 41 decisions of that time were counted and not recorded" in said


def test_the_newest_are_listed_by_whom_they_concern(stand: Stand, cli: Cli) -> None:
    put(stand, "req_of_k5", key_id="k5")
    put(stand, "req_fine_k5", key_id="k5", outcome="allowed", word="", rules=())
    assert [it["id"] for it in cli.json("explain", "--of", "key/k5")] == ["req_of_k5"]
    assert [it["id"] for it in cli.json("explain", "--of", "key/k5", "--all")] == ["req_fine_k5", "req_of_k5"]
    assert cli.json("explain", "--of", "team/nobody") == []
    assert cli.json("explain", "--of", "word/budget_exhausted", "--limit", "1")[0]["word"] == "budget_exhausted"
    cli("explain", "--of", "k5", code=USAGE)
