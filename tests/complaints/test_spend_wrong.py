"""Spend that was told wrong: streams, caches, reasoning, prices (docs/complaints.md, 3.3).

Figures are worked out by hand from the round prices of `answers`: never taken from the code under test.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bursar.core.directory import Delta, Deployment, LimitDef, Policy
from bursar.gateway.routes import ROUTES
from bursar.stores.catalogue import load
from tests.complaints.test_budgets_overspent import PAYABLE
from tests.e2e.broker import ROOT, Broker
from tests.e2e.tenants import Tenants
from tests.gateway.answers import (
    BLOCK_START,
    CLAUDE,
    DONE,
    IN,
    MESSAGE_STOP,
    MODEL,
    OUT,
    chat,
    chunk,
    completion,
    message,
    message_delta,
    named,
    plain,
    stream,
    text_delta,
    usage,
    usage_chunk,
    whole_stream,
)
from tests.gateway.fakes import NOON, FakeResponse
from tests.gateway.ground import ANTHROPIC_KEY, PLENTY, PRICES, Stand, budget, override, price_table, provider_key

MakeStand = Callable[..., Stand]
CAP = 4_000


# ---- streams


@pytest.mark.parametrize(
    "last", [[chunk(finish="stop"), usage_chunk(0, 0), DONE], [chunk(finish="stop"), DONE], [usage_chunk(12, 0), DONE]]
)
async def test_a_stream_that_is_reported_as_nothing_is_not_free(make_stand: MakeStand, last: list[bytes]) -> None:
    """litellm 37923: streams were logged as zero: 830 billed, 1.47 shown."""
    stand = make_stand(budgets=[budget(PLENTY)])
    await stand.ask(stream(chunk("Hello"), *last), body=chat(max_tokens=CAP, stream=True))
    assert not stand.post.exact
    assert stand.post.cost_pico >= 5 * IN + 5 * OUT


@pytest.mark.parametrize("asked", [{}, {"stream_options": {"include_usage": False}}])
async def test_a_streams_usage_is_asked_for_though_its_caller_does_not(make_stand: MakeStand, asked: Any) -> None:
    """litellm 40100, 11789: usage of streams was dropped. The caller sees no more than he asked for."""
    stand = make_stand(budgets=[budget(PLENTY)])
    exchange = await stand.ask(whole_stream((1000, 50)), body=chat(max_tokens=CAP, stream=True, **asked))
    assert stand.upstream.sent[0].json["stream_options"]["include_usage"] is True
    assert (stand.post.cost_pico, stand.post.exact) == (1000 * IN + 50 * OUT, True)
    assert b"prompt_tokens" not in exchange.sent


USED = {"input_tokens": 1000, "output_tokens": 50}
SAID: dict[str, dict[str, Any]] = {
    "chat/completions": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]},
    "completions": {"choices": [{"index": 0, "text": "Hi"}]},
    "embeddings": {"data": [{"index": 0, "embedding": [0.5]}]},
    "responses": {
        "id": "resp_1",
        "status": "completed",
        "output": [{"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
    },
    "messages": {"type": "message", "content": [{"type": "text", "text": "Hi"}]},
}


def answer_of(path: str) -> FakeResponse:
    kind = next(kind for kind in SAID if path.endswith(f"/{kind}"))  # the first that fits is the longest
    said = dict(USED) if kind in ("responses", "messages") else usage(1000, 50)
    if kind == "embeddings":
        said = usage(1000, 0)
    return plain(SAID[kind] | {"usage": said})


@pytest.mark.parametrize("path", PAYABLE)
async def test_one_usage_costs_the_same_by_every_path(make_stand: MakeStand, path: str) -> None:
    """litellm 36168: off by 4 in one path; litellm 42663: 20 to 60 % under in another.

    obot 7557, 7511: what went to Azure was counted, and cost nothing.
    """
    any_use = provider_key("pk", "openai/*/api/prod/*", purposes=("inference", "embedding"))
    stand = make_stand(budgets=[budget(PLENTY)], provider_keys=[any_use, ANTHROPIC_KEY])
    stand.node.tenants.change(Delta(version=2, deployments=[Deployment(id="mine", model=MODEL)]))
    assert (await stand.ask(answer_of(path), path=path, body=PAYABLE[path])).status == 200
    output = 0 if "embeddings" in path else 50
    assert (stand.post.cost_pico, stand.post.exact) == (1000 * IN + output * OUT, True)
    assert stand.balance() == (1000 * IN + output * OUT, 0)


# ---- caches, reasoning, tiers

READ, WRITE = IN // 10, IN * 5 // 4
CACHED = [*PRICES, *(override(who, name, cache_read=READ, cache_write=WRITE) for who, name in
                     (("openai", MODEL), ("anthropic", CLAUDE)))]  # fmt: skip
CACHE_COST = 100 * IN + 800 * READ + 100 * WRITE + 50 * OUT
OPENAI_SAYS = usage(1000, 50, prompt_tokens_details={"cached_tokens": 800, "cache_write_tokens": 100})
ANTHROPIC_SAYS = {
    "input_tokens": 100,
    "cache_read_input_tokens": 800,
    "cache_creation_input_tokens": 100,
    "output_tokens": 50,
}


def cached_answers() -> dict[str, tuple[str, dict[str, Any], FakeResponse]]:
    begun = {"id": "m", "type": "message", "role": "assistant", "usage": ANTHROPIC_SAYS | {"output_tokens": 1}}
    told = [named("message_start", message=begun), BLOCK_START, text_delta("Hi"), message_delta(50), MESSAGE_STOP]
    chats, messages = "/v1/chat/completions", "/v1/messages"
    return {
        "chat": (chats, chat(max_tokens=CAP), completion("Hi", OPENAI_SAYS)),
        "chat-streamed": (
            chats,
            chat(max_tokens=CAP, stream=True),
            stream(chunk("Hi"), chunk(finish="stop"), chunk(usage=OPENAI_SAYS, choices=[]), DONE),
        ),
        "message": (messages, message(max_tokens=CAP), plain(SAID["messages"] | {"usage": ANTHROPIC_SAYS})),
        "message-streamed": (messages, message(max_tokens=CAP, stream=True), stream(*told)),
    }


@pytest.mark.parametrize("name", cached_answers())
async def test_what_lay_in_a_cache_is_billed_once_at_its_own_rate(make_stand: MakeStand, name: str) -> None:
    """litellm 11789, 16341: cached tokens mispriced. bifrost 904: charged in full; bifrost 3451: written ones twice.

    stakgraph PR 1688: a cap of $100 tripped at $23, for the budget counts what the ledger does.
    """
    path, body, answer = cached_answers()[name]
    stand = make_stand(budgets=[budget(PLENTY)], prices=price_table().with_overrides(CACHED))
    assert (await stand.ask(answer, path=path, body=body)).status == 200
    assert (stand.post.cost_pico, stand.post.exact) == (CACHE_COST, True)
    assert stand.balance() == (CACHE_COST, 0)


@pytest.mark.parametrize(
    "said",
    [
        usage(32, 103, completion_tokens_details={"reasoning_tokens": 94}),
        usage(32, 9, total_tokens=135, completion_tokens_details={"reasoning_tokens": 94}),
        usage(32, 9, total_tokens=135),
    ],
)
async def test_reasoning_is_billed_wherever_it_is_counted(make_stand: MakeStand, said: dict[str, Any]) -> None:
    """agentgateway 3228: about 95 % under where reasoning dominates, and some leave it out of the output."""
    stand = make_stand(budgets=[budget(PLENTY)])
    await stand.ask(completion("Hi", said), body=chat(max_tokens=CAP))
    assert stand.post.cost_pico == 32 * IN + 103 * OUT


@pytest.mark.parametrize(("tier", "dollars_in_ten_thousand"), [("flex", 15), ("default", 30), ("priority", 60)])
async def test_a_tier_costs_what_the_provider_says_it_was(
    make_stand: MakeStand, tier: str, dollars_in_ten_thousand: int
) -> None:
    """litellm 27588: discounts by tier were not seen, and the books drifted from the bill. Asked for is not billed."""
    stand = make_stand(budgets=[budget(10**14)])
    answer = completion("Hi", usage(1000, 100))
    said = msgspec.json.decode(answer.script[0]) | {"service_tier": tier}
    await stand.ask(plain(said), body=chat(model="gpt-6-sol", max_tokens=CAP, service_tier="auto"))
    assert stand.post.cost_pico == dollars_in_ten_thousand * 10**8


# ---- prices


async def test_no_price_is_no_reason_to_book_nothing(make_stand: MakeStand) -> None:
    """litellm 35904, 39501, PR 35913: prices missing or wrong, a silent zero turned $185 into $1.16."""
    unheard = chat(model="unheard-of", max_tokens=CAP)
    stand = make_stand(budgets=[budget(PLENTY)])
    assert (await stand.ask(body=unheard)).word == "unpriced_model"
    assert stand.upstream.sent == []
    assumed = make_stand(budgets=[budget(10**15)], policy=Policy(unpriced="assume_dearest"))
    await assumed.ask(completion("Hi", usage(1000, 50)), body=unheard)
    soft = make_stand(budgets=[budget(10**15, hard=False)])
    await soft.ask(completion("Hi", usage(1000, 50)), body=unheard)
    assert assumed.post.cost_pico == soft.post.cost_pico > 1000 * IN + 50 * OUT


def test_nothing_that_ships_is_priced_at_nothing() -> None:
    """litellm 35904, 39501: 41 of 85 prices were wrong, zeros among them."""
    table, seen = load(), 0
    for provider, row in table.book.providers.items():
        for model in row.models:
            price = table.find(provider, model, NOON)
            if price is not None:
                seen += 1
                assert all(band.input or band.output for band in price.bands), f"{provider}/{model}"
    assert seen > 1_500


@pytest.mark.parametrize("rate", ["0.00000015", "0.000003", "0.0003"])
def test_a_price_by_the_token_is_not_taken_for_one_by_the_million(broker: Broker, tenants: Tenants, rate: str) -> None:
    """bifrost 5243, 3559: a sheet about 100 times off, once because rates by the token were read as by the million."""
    answer = broker.admin("POST", "/v1/admin/prices/openai/own", json={"input": rate, "output": "10"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input"), answer.text
    assert "million" in answer.json()["detail"] + answer.json()["hint"]


async def test_a_price_that_was_set_is_the_one_that_is_billed(make_stand: MakeStand) -> None:
    """bifrost 2292: the sheet was ignored. One line, from its instant on, over what ships."""
    dear = override("openai", "gpt-4o-mini", input=7, output=11, from_ns=NOON)
    stand = make_stand(budgets=[budget(10**15)], prices=price_table().with_overrides([*PRICES, dear]))
    await stand.ask(completion("Hi", usage(1000, 50)), body=chat(model="gpt-4o-mini-2024-07-18", max_tokens=CAP))
    assert stand.post.cost_pico == 7 * 1000 + 11 * 50


# ---- counted by the call


@pytest.mark.parametrize("streamed", [False, True])
async def test_tokens_are_counted_by_the_token(make_stand: MakeStand, streamed: bool) -> None:
    """wso2/api-platform 2932: a quota of tokens was charged 1 for a request, and its headers still looked right."""
    tokens = LimitDef(id="tph", unit="tokens", amount=10_000, per_seconds=3600)
    stand = make_stand(policy=Policy(limits=(tokens,)))
    answer = whole_stream((1500, 500)) if streamed else completion("Hi", usage(1500, 500))
    await stand.ask(answer, body=chat(max_tokens=1000, stream=streamed))
    assert stand.tokens_taken(tokens, stand.key.id) == 2000
    told = (await stand.ask(completion("Hi", usage(10, 2)), body=chat(max_tokens=10))).header(
        "x-ratelimit-remaining-tokens"
    )
    assert told is not None
    assert int(told) <= 8000


def test_no_route_is_documented_that_is_not_metered_or_free() -> None:
    """litellm-docs PR 894: the docs told of coverage that was not there. Ours name what `ROUTES` has."""
    table = (ROOT / "docs/api.md").read_text().split("| route |")[1].split("\n\n")[0]
    for path in ROUTES:
        if path.startswith(("/v1/", "/openai/")) and not path.startswith("/v1/estimate/"):
            assert f"{path}`" in table, path
    named = {word.strip("`,|") for word in table.split() if word.strip("`,|").startswith("/v1/")}
    known = {path.rstrip("/") for path in ROUTES} | {"/v1/estimate"}
    assert {name.split("/{")[0].rstrip("/") for name in named} <= known
