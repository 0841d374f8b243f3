"""Every control in every mode on every level: off never speaks, shadow changes nothing and tells, enforce does."""

import itertools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import pytest

from bursar.core.controls import CONTROLS
from bursar.core.directory import LimitDef, LimitUnit, Mode, Policy, SubjectKind
from bursar.core.errors import Refusal
from tests.gateway.answers import MODEL, chat, completion, message, plain, usage
from tests.gateway.fakes import FakeExchange, Sent
from tests.gateway.ground import PLENTY, Stand, budget
from tests.gateway.test_refusals import Screen

MakeStand = Callable[..., Stand]
Level = Literal["team", "key"]
LEVELS: tuple[Level, ...] = get_args(Level)
MODES: tuple[Mode, ...] = get_args(Mode)


class Case(NamedTuple):
    """A rule that a control has, a call that it catches, and in which word; "" = it changes the call."""

    control: str
    says: Policy
    word: str = ""
    asked: dict[str, Any] = {}  # noqa: RUF012 - of a tuple, and never written to
    rule: str = ""
    screened: bool = False


WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search"}
SCOPES: tuple[SubjectKind, ...] = ("key", "team", "owner", "model", "user", "tag", "provider_key", "node")


def nothing_left(unit: LimitUnit, scope: SubjectKind) -> Case:
    limit = LimitDef(id="none", unit=unit, amount=0, scope=scope)
    word = "concurrency_limited" if unit == "concurrency" else "rate_limited"
    asked = {"headers": {"x-user": "ann"}}
    return Case("limits", Policy(limits=(limit,), user_header="X-User"), word, asked, "none")


CASES = [
    Case("networks", Policy(networks=("10.0.0.0/8",)), "network_not_allowed"),
    Case("user", Policy(user_header="X-User"), "user_required", rule="user_missing"),
    Case("user", Policy(user_header="X-User", user_missing="deny"), "user_required", rule="user_missing"),
    Case("models", Policy(models=("other",)), "model_not_allowed"),
    Case("purposes", Policy(purposes=("batch",)), "purpose_not_allowed"),
    Case("prompt", Policy(max_prompt_chars=3), "prompt_too_large", rule="max_prompt_chars"),
    Case("prompt", Policy(max_input_tokens=3), "prompt_too_large", rule="max_input_tokens"),
    Case(
        "prompt",
        Policy(external=True, max_tokens_cap=1000, max_tokens_default=1000),
        "prompt_too_large",
        {"body": chat(max_tokens=9, messages=[{"role": "user", "content": "x" * 20_001}])},
        "max_prompt_chars",
    ),
    Case("max_tokens", Policy(max_tokens_cap=5), asked={"body": chat(max_tokens=6)}, rule="max_tokens_cap"),
    Case(
        "max_tokens",
        Policy(max_tokens_cap=5, over_max_tokens="refuse"),
        "max_tokens_exceeded",
        {"body": chat(max_tokens=6)},
        "max_tokens_cap",
    ),
    Case("max_tokens", Policy(max_tokens_cap=5), rule="max_tokens_default"),
    Case("max_tokens", Policy(max_tokens_default=7), rule="max_tokens_default"),
    Case("max_tokens", Policy(max_tokens_profile="standard"), rule="max_tokens_default"),
    Case("max_tokens", Policy(external=True), rule="max_tokens_default"),
    Case(
        "tools",
        Policy(tool_uses_cap=2),
        asked={"path": "/v1/messages", "body": message(tools=[WEB_SEARCH])},
        rule="tool_uses_cap",
    ),
    Case("stop", Policy(stop=("END",))),
    Case("unpriced", Policy(unpriced="refuse"), "unpriced_model", {"body": chat(model="unheard-of")}),
    Case("guard", Policy(), "guard_blocked", screened=True),
    *(nothing_left(unit, scope) for unit in get_args(LimitUnit) for scope in SCOPES),
]
IN_ALL_MODES = pytest.mark.parametrize(("case", "level", "mode"), list(itertools.product(CASES, LEVELS, MODES)))


def test_no_control_is_left_out() -> None:
    assert {case.control for case in CASES} == set(CONTROLS)
    stated = {field for case in CASES for field in Policy.__struct_fields__ if getattr(case.says, field)}
    assert {field for fields in CONTROLS.values() for field in fields} <= stated


class Told(NamedTuple):
    """All that anybody outside can see of a call: what its caller got, and what was sent on."""

    status: int
    lines: list[tuple[str, str]]
    answer: bytes
    sent: list[Sent]


def stand_for(make_stand: MakeStand, case: Case, level: Level, says: Policy, **settings: Any) -> Stand:
    stand = make_stand(**{"policy" if level == "key" else "team_policy": says}, **settings)
    snapshot = stand.snapshot
    snapshot.keys = [msgspec.structs.replace(stand.key, tags=("red",))]
    stand.node.tenants.replace(snapshot)
    if case.screened:
        stand.node.screens = [Screen(Refusal("guard_blocked", "No"))]
    return stand


async def ask(stand: Stand, case: Case) -> Told:
    anthropic = case.asked.get("path") == "/v1/messages"
    answered = {"content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}
    exchange: FakeExchange = await stand.ask(
        plain(answered) if anthropic else completion("Hi", usage(10, 2)), **case.asked
    )
    return Told(exchange.status, exchange.lines, exchange.sent, stand.upstream.sent)


def without(case: Case) -> Policy:
    """The same policy without its control: what a header names stays known."""
    if case.control == "limits":
        return msgspec.structs.replace(case.says, limits=())
    return Policy(user_header="X-User", user_missing="shared") if case.control == "user" else Policy()


@IN_ALL_MODES
async def test_off_never_speaks_shadow_only_tells_enforce_does(
    make_stand: MakeStand, case: Case, level: Level, mode: Mode
) -> None:
    unscreened = case._replace(screened=False)
    plainly = await ask(stand_for(make_stand, unscreened, level, without(case)), unscreened)
    assert plainly.status == 200
    stand = stand_for(make_stand, case, level, msgspec.structs.replace(case.says, modes={case.control: mode}))
    told = await ask(stand, case)
    noted = stand.node.counters.series("bursar_shadow_total")
    if mode == "enforce":
        assert not noted
        if case.word:
            assert (msgspec.json.decode(told.answer)["error"]["code"], told.sent) == (case.word, [])
        else:
            assert told.status == 200
            assert told.sent[0].body != plainly.sent[0].body
        return
    assert told == plainly
    verdict = "refuses" if case.word else "clamps"
    assert noted == (
        {} if mode == "off" else {("team-1", case.control, case.rule or case.control, verdict, case.word): 1}
    )


@IN_ALL_MODES
async def test_no_mode_of_a_control_opens_a_hard_budget(
    make_stand: MakeStand, case: Case, level: Level, mode: Mode
) -> None:
    says = msgspec.structs.replace(case.says, modes={case.control: mode})
    stand = stand_for(make_stand, case, level, says, budgets=[budget(5)])
    assert (await ask(stand, case)).sent == []
    assert stand.balance() == (0, 0)


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("mode", MODES)
async def test_a_budget_has_its_own_mode(make_stand: MakeStand, kind: Level, hard: bool, mode: Mode) -> None:
    plainly = await ask(make_stand(), CASE_OF_MONEY)
    stand = make_stand()
    subject = stand.key.id if kind == "key" else stand.team.id
    snapshot = stand.snapshot
    snapshot.budgets = [budget(5, "b", kind, subject, hard=hard, mode=mode)]
    stand.node.tenants.replace(snapshot)
    told = await ask(stand, CASE_OF_MONEY)
    rules = {name[2]: name[3:] for name in stand.node.counters.series("bursar_shadow_total")}
    if mode == "enforce":
        assert (told.status, told.sent, rules) == (402, [], {})
        return
    assert told == plainly
    assert rules == ({} if mode == "off" else {"b": ("refuses", "can_never_fit")})


CASE_OF_MONEY = Case("budgets", Policy(), "can_never_fit", {"body": chat(max_tokens=9)})


async def test_a_hard_budget_in_shadow_tells_what_it_would_demand_of_the_call(make_stand: MakeStand) -> None:
    async def noted(**body: Any) -> set[tuple[str, ...]]:
        stand = make_stand(budgets=[budget(PLENTY, mode="shadow")])
        await stand.ask(completion("Hi", usage(10, 2)), body=chat(**body))
        return {name[1:] for name in stand.node.counters.series("bursar_shadow_total")}

    assert await noted() == {("budgets", "hard", "clamps", "")}, "it would cap the answer"
    assert await noted(max_tokens=9) == set()
    assert await noted(max_tokens=9, new_field=1) == {("budgets", "hard", "refuses", "unbounded_request")}
    assert ("budgets", "hard", "refuses", "unpriced_model") in await noted(max_tokens=9, model="unheard-of")


# ---- one limit of several --------------------------------------------------------------------------------------------

TWO = LimitDef(id="rpm", unit="requests", amount=2)


@pytest.mark.parametrize("of_policy", MODES)
@pytest.mark.parametrize("own", [None, *MODES])
async def test_a_limits_own_mode_comes_before_its_policys(
    make_stand: MakeStand, of_policy: Mode, own: Mode | None
) -> None:
    limit = LimitDef(id="l", unit="requests", amount=0, mode=own)
    stand = make_stand(policy=Policy(limits=(limit,), modes={"limits": of_policy}))
    status = (await stand.ask(completion("Hi", usage(10, 2)))).status
    mode = own or of_policy
    assert status == (429 if mode == "enforce" else 200)
    assert stand.count("bursar_shadow_total", rule="l") == (mode == "shadow")


async def test_a_limit_in_shadow_takes_nothing_from_its_enforced_twin(make_stand: MakeStand) -> None:
    stand = make_stand(team_policy=Policy(limits=(TWO,)), policy=Policy(limits=(TWO,), modes={"limits": "shadow"}))
    assert [(await stand.ask(completion("Hi", usage(10, 2)))).status for _ in range(2)] == [200, 200]
    assert (await stand.ask()).status == 429


# ---- two levels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if case.control not in ("guard", "user")])
@pytest.mark.parametrize("mode", ["off", "shadow"])
async def test_a_key_cannot_loosen_what_its_team_enforces(make_stand: MakeStand, case: Case, mode: Mode) -> None:
    teams = stand_for(make_stand, case, "team", case.says)
    alone = await ask(teams, case)
    stand = stand_for(make_stand, case, "team", case.says, policy=Policy(modes={case.control: mode}))
    assert await ask(stand, case) == alone


async def test_a_price_that_is_assumed_would_be_refused_by_a_key_in_shadow(make_stand: MakeStand) -> None:
    stand = make_stand(
        team_policy=Policy(unpriced="assume_dearest"), policy=Policy(unpriced="refuse", modes={"unpriced": "shadow"})
    )
    exchange = await stand.ask(completion("Hi", usage(10, 2)), body=chat(model="unheard-of"))
    assert exchange.status == 200
    assert stand.count("bursar_shadow_total", control="unpriced", word="unpriced_model") == 1
    assert stand.post.cost_pico > 0


async def test_a_cap_in_shadow_tells_only_what_it_would_change_beyond_the_enforced_one(make_stand: MakeStand) -> None:
    def a_stand(own: int) -> Stand:
        return make_stand(
            team_policy=Policy(max_tokens_cap=100), policy=Policy(max_tokens_cap=own, modes={"max_tokens": "shadow"})
        )

    for own, noted in ((200, 0), (50, 1)):
        stand = a_stand(own)
        await stand.ask(completion("Hi", usage(10, 2)), body=chat(model=MODEL, max_tokens=150))
        assert stand.upstream.sent[0].json["max_tokens"] == 100
        assert stand.count("bursar_shadow_total", control="max_tokens") == noted
