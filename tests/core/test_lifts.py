"""Every word has a way out that somebody can take, and every command among them is one of the CLI's."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import bursar
from bursar.core.calls import Call, ServerTool
from bursar.core.decisions import Decision, RuleAsked, facts_of
from bursar.core.directory import BudgetDef, LimitDef, Policy, Team, VirtualKey
from bursar.core.errors import RULES
from bursar.core.lift_words import Lift
from bursar.core.lifts import Known, explained, lifts_of
from bursar.core.roles import RIGHTS
from bursar.core.units import usd_to_pico
from bursar.faces.cli import Offline, build_cli

ROOT = Path(bursar.__file__).parent
CALL = Call(
    route="chat",
    dialect="openai",
    purpose="batch",
    model="gpt-4o it's new",
    stream=False,
    body=b"",
    input_bytes=10,
    prompt_chars=900,
    messages=1,
    max_tokens=4000,
    unknown_fields=("x",),
    server_tools=(ServerTool("web_search", None),),
)
STRICT = Policy(
    models=("gpt-4o-mini", "claude-*"),
    purposes=("inference",),
    max_tokens_cap=100,
    max_prompt_chars=10,
    max_input_tokens=2,
    user_header="x-user",
    unpriced="refuse",
    networks=("10.0.0.0/8",),
    limits=(
        LimitDef(id="rpm", unit="requests", amount=60, burst=3),
        LimitDef(id="slots", unit="concurrency", amount=2, scope="user"),
        LimitDef(id="tpm", unit="tokens", amount=1000, per_seconds=3600, mode="shadow"),
    ),
)
TEAM = Team(id="search", name="Search", owner_id="acme", policy=STRICT, disabled=True)
KEY = VirtualKey(id="k1", name="app", team_id="search", secrets=(), policy=STRICT, disabled=True)
BUDGET = BudgetDef(id="b1", version=1, subject_kind="team", subject="search", limit_pico=usd_to_pico("10"))


def binding(word: str) -> tuple[RuleAsked, ...]:
    """The rule that refuses in this word, with numbers."""
    money = {"unit": "pico_usd", "limit": BUDGET.limit_pico, "used": usd_to_pico("9.99"), "asked": usd_to_pico("0.031")}
    rules: dict[str, dict[str, Any]] = {
        "rate_limited": {"control": "limits", "rule": "rpm", "unit": "requests", "limit": 60, "asked": 1},
        "concurrency_limited": {"control": "limits", "rule": "slots", "unit": "concurrency", "limit": 2, "asked": 1},
        "prompt_too_large": {"control": "prompt", "rule": "max_prompt_chars", "limit": 10, "asked": 900},
        "max_tokens_exceeded": {"control": "max_tokens", "rule": "max_tokens_cap", "limit": 100, "asked": 4000},
        "unbounded_request": {"control": "budgets", "rule": "b1", **money},
    }
    for name in ("budget_exhausted", "held_by_requests_in_flight", "can_never_fit"):
        rules[name] = {"control": "budgets", "rule": "b1", **money}
    return (RuleAsked(verdict="refuses", word=word, **rules[word]),) if word in rules else ()


def decision(word: str, **changes: Any) -> Decision:
    values = {"request_id": "r", "at_ns": 1, "outcome": "refused", "word": word, "key_id": "k1", "team_id": "search"}
    return Decision(**(values | {"rules": binding(word), "call": facts_of(CALL)} | changes))  # type: ignore[arg-type]


def known(word: str, **changes: Any) -> Known:
    values = {"decision": decision(word), "key": KEY, "team": TEAM, "budget": BUDGET, "used_pico": usd_to_pico("9.99")}
    return Known(**(values | changes))


def bare(word: str) -> Known:
    """Everything that it named is gone, and nothing was understood."""
    return Known(decision=decision(word, rules=(), call=None, key_id="", team_id=""))


def parses(command: str) -> None:
    """Through the CLI's own parser, down to the last option; nothing is run."""
    words = shlex.split(command)
    assert words.pop(0) == "bursar"
    here: Any = typer.main.get_command(build_cli(Offline(**dict.fromkeys(Offline.__dataclass_fields__))))  # type: ignore[arg-type]
    context: Any = None
    while hasattr(here, "resolve_command"):  # a group
        context = here.make_context(here.name, words, parent=context)
        _, found, words = here.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        here = found
    here.make_context(here.name, words, parent=context)


@pytest.mark.parametrize("word", RULES)
@pytest.mark.parametrize("known_of", [known, bare])
def test_every_word_says_who_can_lift_it_or_that_nobody_needs_to(word: str, known_of: Any) -> None:
    lifts = lifts_of(known_of(word))
    assert lifts
    for lift in lifts:
        assert lift.says
        assert lift.who in ("caller", "time", "role", "machine", "nobody")
        assert (lift.who == "role") == bool(lift.roles)
        if lift.command:
            parses(lift.command)


def test_the_parser_of_the_test_refuses_what_the_cli_does_not_know() -> None:
    for wrong in ("bursar budgets lift b1", "bursar keys enable", "bursar keys update k --sett x=1", "bursar no"):
        with pytest.raises(Exception):  # noqa: B017 - click's UsageError and its kin
            parses(wrong)


def test_every_word_of_the_way_of_a_request_has_ways_out_of_its_own() -> None:
    """Words that are written down where calls are decided, not those of the administration."""
    places = [*(ROOT / "gateway").glob("*.py"), *(ROOT / "wire").glob("*.py"), *(ROOT / "providers").glob("*.py")]
    places += [ROOT / "core" / f"{name}.py" for name in ("policy", "plans", "ceiling", "limits", "ledger_budget")]
    places += [ROOT / "core" / f"{name}.py" for name in ("access_tokens", "restore")]
    said = {word for place in places for word in re.findall(r'"(\w+)"', place.read_text()) if word in RULES}
    assert len(said) >= 30
    assert [word for word in sorted(said) if not explained(word)] == []


TPM = "--limit tokens=1000/1h,mode=shadow"


def commands(word: str, **changes: Any) -> list[str]:
    return [lift.command for lift in lifts_of(known(word, **changes)) if lift.command]


@pytest.mark.parametrize(
    ("word", "command"),
    [
        ("can_never_fit", "bursar budgets raise b1 '$10.03'"),
        ("budget_exhausted", "bursar budgets raise b1 '$10.03'"),
        ("budget_exhausted", "bursar keys update k1 --set shrink_to_budget=yes"),
        ("key_disabled", "bursar keys enable k1"),
        ("key_disabled", "bursar teams enable search"),
        ("model_not_allowed", "bursar keys update k1 --set 'models=gpt-4o-mini,claude-*,gpt-4o it'\"'\"'s new'"),
        ("purpose_not_allowed", "bursar teams update search --set purposes=inference,batch"),
        ("max_tokens_exceeded", "bursar teams update search --set max_tokens_cap=4000"),
        ("prompt_too_large", "bursar keys update k1 --set max_prompt_chars=900"),
        ("user_required", "bursar keys update k1 --set user_missing=shared"),
        ("unbounded_request", "bursar budgets update b1 --soft"),
        ("unbounded_request", "bursar keys update k1 --set unknown_fields=allow"),
        (
            "rate_limited",
            f"bursar keys update k1 --limit requests=120/1m,burst=6 --limit user:concurrency=2 {TPM}",
        ),
        (
            "concurrency_limited",
            f"bursar keys update k1 --limit requests=60/1m,burst=3 --limit user:concurrency=4 {TPM}",
        ),
    ],
)
def test_the_command_changes_what_bound(word: str, command: str) -> None:
    assert command in commands(word)


def test_a_budget_that_has_room_again_needs_nobody() -> None:
    (lift,) = lifts_of(known("budget_exhausted", used_pico=0))
    assert (lift.who, lift.command) == ("nobody", "")


def test_who_is_named_has_the_right() -> None:
    (enable, _) = lifts_of(known("key_disabled"))
    assert enable.roles == ("operator", "admin")
    for word in RULES:
        for lift in lifts_of(known(word)):
            assert set(lift.roles) <= set(RIGHTS)


def test_what_was_allowed_needs_no_lifting() -> None:
    assert lifts_of(known("", decision=decision(""))) == ()


def test_a_limit_that_no_option_can_say_is_named_with_its_route() -> None:
    closed = Policy(limits=(LimitDef(id="rpm", unit="requests", amount=60, on_outage="closed"),))
    key = VirtualKey(id="k", name="", team_id="", secrets=(), policy=closed)
    found: list[Lift] = [it for it in lifts_of(known("rate_limited", key=key, team=None)) if it.who == "role"]
    assert [lift.command for lift in found] == [""]
    assert "PATCH /v1/admin/keys/k" in found[0].says
