"""Nobody learns from his answers how full a budget or limit is that counts others as well."""

import asyncio
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.directory import BudgetDef, LimitDef, Mode, Policy, SubjectKind, WindowDef
from bursar.core.ledger import HoldRequest, Settlement
from bursar.core.limits import bind
from bursar.core.units import pico_to_usd
from tests.gateway.answers import MODEL, ceiling_of, chat, completion, stream, usage, whole_stream
from tests.gateway.fakes import FakeExchange
from tests.gateway.ground import OPENAI_KEY, PLENTY, Stand, budget
from tests.gateway.test_explain import only

MakeStand = Callable[..., Stand]
BODY = chat(max_tokens=100)
COST = ceiling_of(BODY, 100)
WHOLE = "/v1/estimate/chat/completions"
USER = {"x-user": "alice"}
# What a call of the stand counts on besides its key and team, and by which name.
SUBJECTS: dict[SubjectKind, tuple[str, ...]] = {
    "owner": ("owner-1",),
    "tag": ("blue",),
    "node": ("node",),
    "model": (MODEL, "plain-*"),
    "user": ("alice", "*"),
    "provider_key": (OPENAI_KEY.id,),
}
SCOPES: tuple[SubjectKind, ...] = ("owner", "tag", "node", "provider_key")


class Foreign(NamedTuple):
    """Counters of others: budgets with what is spent on each, and how much of each limit is taken."""

    budgets: list[tuple[BudgetDef, int]]
    limits: list[tuple[LimitDef, int]]


def a_budget(name: str, kind: SubjectKind, subject: str, limit: int, **more: Any) -> BudgetDef:
    made = budget(limit, name, kind, subject, **more)
    return msgspec.structs.replace(made, name=f"called {name}")


@contextmanager
def standing(policy: Policy, own: list[BudgetDef], foreign: Foreign) -> Iterator[Stand]:
    with tempfile.TemporaryDirectory() as folder:
        stand = Stand(Path(folder), policy=policy)
        try:
            stand.snapshot.teams[:] = [msgspec.structs.replace(stand.team, tags=("blue",))]
            stand.snapshot.budgets[:] = [*own, *(it for it, _ in foreign.budgets)]
            stand.node.tenants.replace(stand.snapshot)
            yield stand
        finally:
            stand.close()


async def let_others_use(stand: Stand, foreign: Foreign) -> None:
    for made, spent in foreign.budgets:
        if spent:
            held = await stand.journal.hold(asking(made.id, spent))
            stand.journal.post(held.hold_id, Settlement(spent, usage=None, exact=True, outcome="ok"))
    subjects = {"owner": "owner-1", "tag": "blue", "node": "node", "provider_key": OPENAI_KEY.id}
    for limit, taken in foreign.limits:
        bound = bind(limit, subjects[limit.scope])
        stand.rates._full_at[bound.key] = stand.clock.monotonic() + taken * bound.seconds_per_unit


def asking(name: str, pico: int) -> HoldRequest:
    return HoldRequest(
        "others",
        1,
        "k",
        "t",
        "o",
        user="",
        provider="p",
        model="m",
        secret_id="s",
        price_id="p",
        price_digest="d",
        directory_version=1,
        ceiling_pico=pico,
        expected_pico=pico,
        input_ceiling=1,
        output_ceiling=1,
        budgets=(name,),
    )


def told(exchange: FakeExchange) -> str:
    """All that the caller gets, without the time at which to come back."""
    lines = "\n".join(f"{name}: {value}" for name, value in exchange.lines if name != "retry-after")
    text = f"{exchange.status}\n{lines}\n{exchange.sent.decode()}"
    return re.sub(r'"retry_after":[0-9.]+|20\d\d-\d\d-\d\dT[0-9:]+Z', "(then)", text)


def verdict(exchange: FakeExchange) -> tuple[Any, ...]:
    """What may depend on others: whether the call runs, and if not, in which word, at which kind of counter, of what
    unit, and whether that looks at what the call costs at worst or probably.
    """
    if exchange.status != 200:
        return exchange.status, exchange.word, *own_facts(exchange.json["bursar"]["facts"])
    if not exchange.sent.startswith(b'{"object":"estimate"'):
        return (200,)
    found = exchange.json
    refusal = found["refusal"] or {"word": "", "facts": {}}
    shadow = sorted((rule["rule"], rule["word"]) for rule in found["shadow"])
    return 200, refusal["word"], shadow, *own_facts(refusal["facts"])


def own_facts(facts: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(facts.get(name) for name in ("of", "unit", "asked_pico"))


async def story(stand: Stand, foreign: Foreign) -> list[tuple[tuple[Any, ...], str]]:
    """An estimate, a call, a stream and one more estimate, as the caller sees them."""
    await let_others_use(stand, foreign)
    seen = []
    for path, answer, body in (
        (WHOLE, None, BODY),
        ("/v1/chat/completions", completion("Hi", usage(10, 2)), BODY),
        ("/v1/chat/completions", whole_stream(), BODY | {"stream": True}),
        (WHOLE, None, BODY),
    ):
        exchange = await stand.ask(*filter(None, [answer]), path=path, body=body, headers=USER)
        stand.upstream.answers.clear()
        seen.append((verdict(exchange), told(exchange)))
    return seen


MODES: st.SearchStrategy[Mode] = st.sampled_from(("enforce", "enforce", "shadow"))
FIGURES = st.sampled_from((0, 1, COST - 1, COST, 2 * COST - 1, 3 * COST, PLENTY, 10**15)) | st.integers(0, 4 * COST)
WINDOWS = st.sampled_from(
    (WindowDef(), WindowDef(kind="lifetime"), WindowDef(kind="rolling", seconds=3600), WindowDef(period="day"))
)
KINDS: st.SearchStrategy[SubjectKind] = st.sampled_from(sorted(SUBJECTS))


@st.composite
def two_worlds(draw: st.DrawFn) -> tuple[Policy, list[BudgetDef], Foreign, Foreign]:
    """Twice the same, but for how much others may spend and have spent."""
    here: list[tuple[BudgetDef, int]] = []
    there: list[tuple[BudgetDef, int]] = []
    for n in range(draw(st.integers(1, 4))):
        kind = draw(KINDS)
        facts = {"hard": draw(st.booleans()), "mode": draw(MODES), "window": draw(WINDOWS)}
        subject = draw(st.sampled_from(SUBJECTS[kind]))
        for world in (here, there):
            made = a_budget(f"foreign-{n}", kind, subject, draw(FIGURES), **facts)
            world.append((made, draw(st.integers(0, made.limit_pico))))
    limits = draw(
        st.lists(
            st.builds(
                LimitDef,
                id=st.just("l"),
                unit=st.sampled_from(("requests", "tokens", "output_tokens")),
                amount=st.sampled_from((1, 3, 500, 10**6)),
                scope=st.sampled_from(SCOPES),
                mode=MODES,
            ),
            max_size=3,
            unique_by=lambda it: (it.unit, it.scope),
        )
    )
    own_limits = LimitDef(id="own", unit="requests", amount=10), LimitDef(id="tpm", unit="tokens", amount=9999)
    policy = Policy(limits=(*limits, *own_limits), user_header="x-user")
    own = [budget(draw(FIGURES) * 2, "own", hard=draw(st.booleans()))] if draw(st.booleans()) else []
    used = [[(limit, draw(st.integers(0, limit.amount))) for limit in limits] for _ in range(2)]
    return policy, own, Foreign(here, used[0]), Foreign(there, used[1])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(two_worlds())
def test_figures_of_others_change_no_byte(worlds: tuple[Policy, list[BudgetDef], Foreign, Foreign]) -> None:
    """While the same is said to the same calls, the answers are the same, whatever others may spend and have spent."""
    policy, own, here, there = worlds
    seen = []
    for world in (here, there):
        with standing(policy, own, world) as stand:
            seen.append(asyncio.run(story(stand, world)))
    for one, other in zip(*seen, strict=True):
        if one[0] != other[0]:
            break  # from here on the two have lived through different things
        assert one[1] == other[1]


@pytest.mark.parametrize("kind", [*SUBJECTS])
@pytest.mark.parametrize("word", ["can_never_fit", "budget_exhausted"])
async def test_a_budget_of_others_says_its_kind_and_no_more(kind: SubjectKind, word: str) -> None:
    limit, spent = (COST - 77_777, 0) if word == "can_never_fit" else (COST + 77_777, 77_778)
    made = a_budget("theirs", kind, SUBJECTS[kind][0], limit)
    foreign = Foreign([(made, spent)], [])
    with standing(Policy(user_header="x-user"), [budget(PLENTY)], foreign) as stand:
        await let_others_use(stand, foreign)
        asked = await stand.ask(path=WHOLE, body=BODY, headers=USER)
        called = await stand.ask(body=BODY, headers=USER)
        assert called.word == asked.json["refusal"]["word"] == word
        assert asked.json["binding"] == {
            "control": "budgets",
            "rule": kind,
            "mode": "enforce",
            "verdict": "refuses",
            "word": word,
            "subject": kind,
        }
        facts = called.json["bursar"]["facts"]
        assert facts.pop("window_ends", None) == (None if word == "can_never_fit" else "2026-12-01T00:00:00Z")
        assert facts == {"of": kind, "asked_pico": str(COST)}
        assert "for more" in called.json["error"]["message"]
        figures = (limit, spent, limit - spent)
        for exchange in (asked, called):
            text = told(exchange)
            for never in ("theirs", *filter(None, (it and str(it) for it in figures)), pico_to_usd(limit)):
                assert never not in text
        kept = only(stand)
        (rule,) = [rule for rule in kept.rules if rule.rule == "theirs"]
        assert (rule.limit, rule.used, kept.facts["limit_pico"]) == (limit, spent, str(limit))
        assert "called theirs" in kept.message


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_limit_that_others_share_has_no_header(scope: SubjectKind) -> None:
    limit = LimitDef(id="theirs", unit="requests", amount=7, per_seconds=70, scope=scope)
    foreign = Foreign([], [(limit, 6)])
    with standing(Policy(limits=(limit,)), [], foreign) as stand:
        await let_others_use(stand, foreign)
        served = await stand.ask(completion("Hi", usage(10, 2)), body=BODY)
        assert served.status == 200
        assert not [name for name, _ in served.lines if "ratelimit" in name]
        refused = await stand.ask(body=BODY)
        assert (refused.word, refused.header("retry-after")) == ("rate_limited", "10")
        assert refused.json["bursar"]["facts"] == {"of": scope, "unit": "requests"}
        assert "theirs" not in told(refused)
        assert (await stand.ask(path=WHOLE, body=BODY)).json["binding"]["rule"] == scope


@pytest.mark.parametrize(("kind", "subject"), [("team", "team-1"), ("key", "")])
async def test_the_own_ones_are_told_whole(make_stand: MakeStand, kind: SubjectKind, subject: str) -> None:
    stand = make_stand()
    stand.snapshot.budgets[:] = [budget(COST - 5, "mine", kind, subject or stand.key.id)]
    stand.node.tenants.replace(stand.snapshot)
    refused = await stand.ask(body=BODY)
    assert refused.json["bursar"]["facts"]["limit_pico"] == str(COST - 5)
    assert refused.json["bursar"]["facts"]["budget"] == "mine"
    assert (await stand.ask(path=WHOLE, body=BODY)).json["binding"]["limit"] == str(COST - 5)


@settings(max_examples=40, deadline=None)
@given(room=st.integers(16, 99), kind=KINDS, own=st.none() | st.integers(16, 99))
def test_what_others_leave_cuts_an_answer_by_powers_of_two(room: int, kind: SubjectKind, own: int | None) -> None:
    """`shrink_to_budget`: the cut itself would tell how much is left; of the own budget it may."""

    def left(tokens: int) -> int:
        return ceiling_of(BODY, tokens)

    mine = [] if own is None else [budget(left(own), "own")]
    foreign = Foreign([(a_budget("theirs", kind, SUBJECTS[kind][0], left(room)), 0)], [])
    with standing(Policy(shrink_to_budget=True, user_header="x-user"), mine, foreign) as stand:
        exchange = asyncio.run(stand.ask(stream(), body=BODY, headers=USER))
        applied = int(exchange.header("x-bursar-max-tokens-applied") or 0)
        if own is not None and own <= room:
            assert applied == own
        else:
            assert applied == 1 << (room.bit_length() - 1)
