"""What a replay says of a recorded call is what the gateway would have said of it, and what its shadow told."""

from collections.abc import Callable

import msgspec
import pytest

from bursar.core.decisions import decode, number
from bursar.core.replay import Past, World
from tests.gateway.ground import Stand
from tests.gateway.test_modes import CASES, LEVELS, Case, Level, ask, stand_for

MakeStand = Callable[..., Stand]
REPLAYED = [
    case for case in CASES if case.control in ("models", "purposes", "prompt", "max_tokens", "unpriced", "limits")
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", REPLAYED)
async def test_a_replay_says_what_the_shadow_told(make_stand: MakeStand, case: Case, level: Level) -> None:
    shadowed = msgspec.structs.replace(case.says, modes={case.control: "shadow"})
    stand = stand_for(make_stand, case, level, shadowed)
    await ask(stand, case)
    batch = stand.node.decisions.next(stand.clock.now(), 1)
    assert batch is not None
    (record,) = batch.records
    told = decode(record)
    (would,) = told.shadowed
    past = Past(
        t_ns=told.at_ns,
        ended_ns=told.at_ns,
        request_id=told.request_id,
        key_id=told.key_id,
        team_id=told.team_id,
        user=told.user,
        provider=told.provider or "openai",
        model=told.model or case.asked.get("body", {}).get("model", ""),
        price_id=told.price_id,
        secret_id="pk-openai",
        cost=number(told.cost_pico),
        input_tokens=told.input_tokens or 0,
        output_tokens=told.output_tokens or 0,
        call=told.call,
    )
    tenants = stand.node.tenants
    key, team, owner = tenants.keys[told.key_id], stand.team, stand.owner

    def verdict_of(says: object) -> tuple[str, bool]:
        holder = msgspec.structs.replace(key if level == "key" else team, policy=says)
        holders = (holder, team, owner) if level == "key" else (key, holder, owner)
        made = World(lambda _: holders, (), stand.node.prices.find, told.at_ns)  # type: ignore[arg-type, return-value]
        said = made.ask(past)
        assert said is not None
        return said.word, said.cap is not None

    assert verdict_of(shadowed) == ("", False), "in shadow it changes nothing"
    word, cut = verdict_of(case.says)
    assert word == would.word == case.word
    if not case.word and would.rule == "max_tokens_cap":
        assert cut
