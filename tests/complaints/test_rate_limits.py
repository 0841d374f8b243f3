"""Rate limits that refused wrongly, or did not refuse (docs/complaints.md, 3.5).

Those of many nodes are in `tests/stores/test_redis_rates.py` and `tests/gateway/test_rates_shared.py`.
"""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.directory import Delta, LimitDef, LimitUnit, Policy, SubjectKind
from tests.complaints.crowd import crowd, short_answer
from tests.gateway.answers import MODEL, chat, completion, usage
from tests.gateway.ground import Stand

MakeStand = Callable[..., Stand]


@pytest.mark.parametrize("unit", ["tokens", "output_tokens", "input_tokens"])
@pytest.mark.parametrize("amount", [50, 5_000])
async def test_who_gives_no_max_tokens_is_served(make_stand: MakeStand, unit: LimitUnit, amount: int) -> None:
    """litellm 29193, 34728, PR 28805: without max_tokens the first call was refused, or 1 token reserved.

    tensorzero 3648: a token limit made every caller send max_tokens. Here what is expected is taken, and settled.
    """
    stand = make_stand(policy=Policy(limits=(LimitDef(id="tpm", unit=unit, amount=amount),)))
    (limit,) = stand.key.policy.limits
    seen: list[float] = []
    stand.upstream.before = lambda: seen.append(stand.tokens_taken(limit, stand.key.id))
    exchange = await stand.ask(completion("Hi", usage(30, 20)), body=chat())
    assert exchange.status == 200
    assert "max_tokens" not in stand.upstream.sent[0].json
    assert seen[0] > 1
    assert stand.tokens_taken(limit, stand.key.id) == {"tokens": 50, "output_tokens": 20, "input_tokens": 30}[unit]


async def test_at_once_no_more_pass_than_a_limit_allows(make_stand: MakeStand) -> None:
    """litellm 18730, PR 27001: concurrent calls all passed the tokens per minute; 16011: or the number in flight."""
    tokens = LimitDef(id="tpm", unit="tokens", amount=1_000)
    body = chat(max_tokens=200)
    stand = make_stand(policy=Policy(limits=(tokens,)))
    words = await crowd(stand, 40, body=body)
    assert words.keys() == {"sent", "rate_limited"}
    assert 1 <= words["sent"] <= 5
    slots = make_stand(policy=Policy(limits=(LimitDef(id="slots", unit="concurrency", amount=3),)))
    assert await crowd(slots, 40, body=body) == {"sent": 3, "concurrency_limited": 37}


SUBJECTS: dict[SubjectKind, str] = {
    "key": "{key}",
    "team": "team-1",
    "owner": "owner-1",
    "tag": "red",
    "model": "{key}/" + MODEL,
    "user": "{key}/ann",
    "provider_key": "pk-openai",
    "node": "node",
}


@pytest.mark.parametrize("scope", SUBJECTS)
@pytest.mark.parametrize(("unit", "units"), [("requests", 1), ("tokens", 60), ("input_tokens", 40)])
async def test_a_limit_counts_by_the_subject_and_unit_that_it_names(
    make_stand: MakeStand, scope: SubjectKind, unit: LimitUnit, units: int
) -> None:
    """higress 1080, Helicone 2217, agentgateway 2171: counted by another key, another unit, or apart."""
    limit = LimitDef(id="limit", unit=unit, amount=1_000, scope=scope)
    stand = make_stand(policy=Policy(limits=(limit,), user_header="x-user"))
    fields = {name: getattr(stand.key, name) for name in stand.key.__struct_fields__}
    stand.node.tenants.change(Delta(version=2, keys=[type(stand.key)(**fields | {"tags": ("red",)})]))
    for _ in range(3):
        await stand.ask(completion("Hi", usage(40, 20)), body=chat(max_tokens=100), headers={"x-user": "ann"})
    assert stand.tokens_taken(limit, SUBJECTS[scope].format(key=stand.key.id)) == 3 * units
    assert len(stand.rates._full_at) == 1


@pytest.mark.parametrize("times", [200])
async def test_what_is_refused_eats_nothing(make_stand: MakeStand, times: int) -> None:
    """litellm 39309: rejected calls still ate requests, so that a caller who retried was never let in again."""
    limit = LimitDef(id="rph", unit="requests", amount=2, per_seconds=3600)
    stand = make_stand(policy=Policy(limits=(limit,)))
    for _ in range(2):
        await stand.ask(short_answer())
    taken = stand.tokens_taken(limit, stand.key.id)
    for _ in range(times):
        refused = await stand.ask()
        assert refused.word == "rate_limited"
    assert stand.tokens_taken(limit, stand.key.id) == taken
    wait: Any = refused.header("retry-after")
    stand.clock.advance(int(wait))
    assert (await stand.ask(short_answer())).status == 200
