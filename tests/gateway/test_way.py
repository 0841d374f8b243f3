"""The eleven steps in their order, and what stands beside the way: vital signs, the list of models, the report."""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.calls import Call
from bursar.core.directory import LimitDef, Policy
from bursar.core.errors import ClientGone
from tests.gateway.answers import CLAUDE, IN, MODEL, OUT, chat, completion, message, plain, usage, whole_stream
from tests.gateway.fakes import FakeExchange
from tests.gateway.ground import ANTHROPIC_KEY, OPENAI_KEY, PLENTY, Stand, budget, provider, provider_key

MakeStand = Callable[..., Stand]


class Trace:
    """Notes who was asked what, in order."""

    name = "trace"

    def __init__(self) -> None:
        self.steps: list[str] = []

    def look(self, call: Call, content: Any) -> None:
        self.steps.append("guard")

    def watch(self, owner: Any, name: str, step: str) -> None:
        inner = getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.steps.append(step)
            return inner(*args, **kwargs)

        setattr(owner, name, noted)


@pytest.mark.parametrize("body", [chat(max_tokens=50), chat(max_tokens=50, stream=True)])
async def test_the_steps_are_taken_in_their_order(make_stand: MakeStand, body: Any) -> None:
    limits = (LimitDef(id="rpm", unit="requests", amount=9), LimitDef(id="tpm", unit="tokens", amount=10**6))
    stand = make_stand(policy=Policy(limits=limits), budgets=[budget(PLENTY)])
    trace = Trace()
    node = stand.node
    node.screens = [trace]
    exchange = stand.exchange(body=body)
    trace.watch(node, "digest", "authenticate")
    trace.watch(node.rates, "admit", "admit")
    trace.watch(exchange, "body", "body")
    trace.watch(node.prices, "find", "policy")
    trace.watch(node.rates, "hold", "tokens")
    trace.watch(node.money, "hold", "hold")
    trace.watch(stand.releases, "release", "lease")
    trace.watch(stand.upstream, "request", "send")
    trace.watch(exchange, "start" if body.get("stream") else "respond", "answer")
    trace.watch(node.money, "post", "post")
    trace.watch(node.rates, "release", "leave")
    stand.upstream.will(whole_stream() if body.get("stream") else completion("Hi", usage(10, 2)))
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert trace.steps[0] == "authenticate"
    assert list(dict.fromkeys(trace.steps)) == [
        *("authenticate", "admit", "body", "policy", "guard", "tokens", "hold", "lease", "send", "answer", "post"),
        "leave",
    ]


async def test_what_is_sent_is_durable_before(make_stand: MakeStand) -> None:
    """The journal's file holds the hold when the first byte goes out."""
    stand = make_stand(budgets=[budget(PLENTY)])
    seen: list[bool] = []
    (segment,) = stand.folder.glob("journal-*.log")
    stand.upstream.before = lambda: seen.append(stand.key.id.encode() in segment.read_bytes())
    await stand.ask(completion("Hi", usage(10, 2)))
    assert seen == [True]


async def test_the_body_goes_up_as_it_came_where_nothing_changes(make_stand: MakeStand) -> None:
    raw = b'{ "model" : "plain-1", "messages": [{"role":"user","content":"a\\u00e4"}],\n "max_tokens": 5, "seed": 1e0 }'
    stand = make_stand()
    await stand.ask(completion("Hi", usage(1, 1)), body=raw)
    assert stand.upstream.sent[0].body == raw


async def test_one_who_leaves_before_his_body_came_is_told_nothing(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = await stand.ask(body=ClientGone())
    assert not exchange.started
    assert stand.count("bursar_requests_total", word="client_gone") == 1


async def test_requests_are_numbered(make_stand: MakeStand) -> None:
    stand = make_stand()
    first = await stand.ask(completion("Hi", usage(1, 1)))
    second = await stand.ask(path="/v1/none")
    assert first.header("x-bursar-request-id") == "req_b00t0000000001"
    assert second.header("x-bursar-request-id") == "req_b00t0000000002"


async def test_a_fault_of_our_own_leaves_nothing_behind(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(limits=(LimitDef(id="slots", unit="concurrency", amount=1),)))

    class Broken:
        name = "broken"

        def look(self, call: Call, content: Any) -> None:
            raise ZeroDivisionError

    stand.node.screens = [Broken()]
    with pytest.raises(ZeroDivisionError):
        await stand.pipeline.serve(stand.exchange())
    stand.at_rest()


# ---- what the caller is told -----------------------------------------------------------------------------------------


LIMITS = (
    LimitDef(id="rpm", unit="requests", amount=60),
    LimitDef(id="rph", unit="requests", amount=5, per_seconds=3600),
    LimitDef(id="tpm", unit="tokens", amount=1_000_000),
    LimitDef(id="itpm", unit="input_tokens", amount=400_000),
    LimitDef(id="otpm", unit="output_tokens", amount=400_000),
    LimitDef(id="slots", unit="concurrency", amount=7),
)


async def test_the_tightest_limits_are_told_in_openais_words(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(limits=LIMITS))
    exchange = await stand.ask(completion("Hi", usage(10, 2)), body=chat(max_tokens=100))
    assert exchange.header("x-ratelimit-limit-requests") == "5"
    assert exchange.header("x-ratelimit-remaining-requests") == "4"
    assert exchange.header("x-ratelimit-reset-requests") == "12m0s"
    assert exchange.header("x-ratelimit-limit-tokens") == "1000000"
    remaining = exchange.header("x-ratelimit-remaining-tokens")
    assert remaining is not None
    assert 999_000 < int(remaining) < 1_000_000
    assert exchange.header("x-ratelimit-reset-tokens").endswith("ms")  # type: ignore[union-attr]
    assert exchange.header("x-ratelimit-limit-input-tokens") == "400000"
    assert exchange.header("x-ratelimit-limit-output-tokens") == "400000"
    assert exchange.header("x-ratelimit-limit-concurrency") is None
    assert exchange.header("ratelimit-policy") == '"requests";q=5;w=3600'
    assert exchange.header("ratelimit") == '"requests";r=4;t=720'


async def test_the_tightest_limits_are_told_in_anthropics_words(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(limits=LIMITS))
    answer = plain({"content": [], "usage": {"input_tokens": 1, "output_tokens": 0}})
    exchange = await stand.ask(answer, path="/v1/messages", body=message())
    assert exchange.header("anthropic-ratelimit-requests-limit") == "5"
    assert exchange.header("anthropic-ratelimit-requests-remaining") == "4"
    assert exchange.header("anthropic-ratelimit-requests-reset") == "2026-11-23T12:12:00Z"
    assert exchange.header("anthropic-ratelimit-input-tokens-limit") == "400000"
    assert exchange.header("ratelimit") == '"requests";r=4;t=720'
    assert not [name for name, _ in exchange.lines if name.startswith("x-ratelimit")]


async def test_a_refusal_by_a_token_limit_tells_how_the_limits_stand(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(limits=(LimitDef(id="tpm", unit="tokens", amount=100, burst=600),)))
    assert (await stand.ask(completion("Hi", usage(500, 2)))).status == 200
    exchange = await stand.ask()
    assert exchange.word == "rate_limited"
    assert exchange.header("x-ratelimit-limit-tokens") == "100"
    assert exchange.header("retry-after") is not None


@pytest.mark.parametrize(
    ("policy", "asked", "applied", "truncated"),
    [
        (Policy(), {"max_tokens": 50}, None, None),
        (Policy(max_tokens_cap=20), {"max_tokens": 50}, "20", "policy"),
        (Policy(max_tokens_profile="conservative"), {}, "256", None),
    ],
)
async def test_what_policy_applied_is_told(
    make_stand: MakeStand, policy: Policy, asked: Any, applied: str | None, truncated: str | None
) -> None:
    stand = make_stand(policy=policy)
    exchange = await stand.ask(completion("Hi", usage(10, 2)), body=chat(**asked))
    assert exchange.header("x-bursar-max-tokens-applied") == applied
    assert exchange.header("x-bursar-truncated") == truncated
    assert stand.upstream.sent[0].json.get("max_tokens") == (int(applied) if applied else asked["max_tokens"])


async def test_the_providers_headers_come_back_by_allow_list(make_stand: MakeStand) -> None:
    stand = make_stand()
    answer = completion("Hi", usage(10, 2))
    answer.headers |= {
        "openai-processing-ms": "5",
        "x-request-id": "theirs",
        "set-cookie": "a=b",
        "openai-organization": "org-ours",
        "x-ratelimit-remaining-requests": "3",
        "connection": "close",
    }
    exchange = await stand.ask(answer)
    names = {name for name, _ in exchange.lines}
    assert names == {"content-type", "openai-processing-ms", "x-bursar-request-id", "x-request-id"}
    assert exchange.header("x-request-id") == exchange.header("x-bursar-request-id") != "theirs"


# ---- beside the way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "ready", "status"), [("/healthz", False, 200), ("/readyz", False, 503), ("/readyz", True, 200)]
)
async def test_vital_signs_need_no_key(make_stand: MakeStand, path: str, ready: bool, status: int) -> None:
    stand = make_stand()
    stand.node.ready = ready
    exchange = FakeExchange("GET", path, {}, AssertionError("read"))
    await stand.pipeline.serve(exchange)
    assert exchange.status == status
    assert exchange.header("cache-control") == "no-store"
    assert stand.node.flights == 0


async def models(stand: Stand, **headers: str) -> Any:
    exchange = await stand.ask(path="/v1/models", method="GET", headers=headers)
    assert exchange.status == 200
    assert not exchange.body_asked
    return exchange.json


async def test_the_models_that_a_key_may_use_in_openais_shape(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(models=("plain-*", "clear-1", "gpt-4o")))
    told = await models(stand)
    assert told["object"] == "list"
    assert {row["id"]: row["owned_by"] for row in told["data"]} == {
        MODEL: "openai",
        "gpt-4o": "openai",
        CLAUDE: "anthropic",
    }
    assert {row["object"] for row in told["data"]} == {"model"}


async def test_the_models_in_anthropics_shape(make_stand: MakeStand) -> None:
    told = await models(make_stand(policy=Policy(models=("clear-1",))), **{"anthropic-version": "2023-06-01"})
    assert told == {
        "data": [{"type": "model", "id": CLAUDE, "display_name": CLAUDE, "created_at": "1970-01-01T00:00:00Z"}],
        "has_more": False,
        "first_id": CLAUDE,
        "last_id": CLAUDE,
    }


async def test_no_models_are_an_empty_list(make_stand: MakeStand) -> None:
    told = await models(make_stand(provider_keys=[]), **{"anthropic-version": "2023-06-01"})
    assert told == {"data": [], "has_more": False, "first_id": None, "last_id": None}


async def test_only_models_for_which_there_is_a_provider_key_are_listed(make_stand: MakeStand) -> None:
    tagged = provider_key("k", OPENAI_KEY.address, allowed_models=(MODEL,))
    told = await models(make_stand(provider_keys=[tagged]))
    assert [row["id"] for row in told["data"]] == [MODEL]


async def test_configured_names_and_deployments_are_listed(make_stand: MakeStand) -> None:
    local = provider("local", models=("llama", "qwen-*"), deployments={"mine": "llama"})
    stand = make_stand(providers=[local], provider_keys=[provider_key("k", "local/*/api/prod/*"), ANTHROPIC_KEY])
    assert [row["id"] for row in (await models(stand))["data"]] == ["llama", "mine"]


# ---- the report ------------------------------------------------------------------------------------------------------


async def test_what_happened_is_counted(make_stand: MakeStand) -> None:
    stand = make_stand()
    said = usage(10, 2, prompt_tokens_details={"cached_tokens": 4})
    await stand.ask(completion("Hi", said))
    who = {"team": "team-1", "model": MODEL, "key": stand.key.id}
    assert stand.count("bursar_requests_total", **who, status="200", word="ok") == 1
    assert stand.count("bursar_input_tokens_total", **who) == 10
    assert stand.count("bursar_output_tokens_total", **who) == 2
    assert stand.count("bursar_cached_tokens_total", team="team-1", model=MODEL) == 4
    assert stand.count("bursar_cost_usd_total", **who) == pytest.approx((6 * IN + 4 * IN + 2 * OUT) / 1e12)
    assert stand.count("bursar_refusals_total") == 0


async def test_labels_are_bounded(make_stand: MakeStand) -> None:
    """Neither the keys nor the names that callers make up can fill the metrics."""
    stand = make_stand()
    stand.node.most_top_keys = 0
    await stand.ask(completion("Hi", usage(10, 2)), body=chat(model="made-up-by-a-caller"))
    assert stand.count("bursar_requests_total", team="team-1", model="other", key="other") == 1


async def test_a_caller_without_a_key_has_no_team(make_stand: MakeStand) -> None:
    stand = make_stand()
    await stand.ask(headers={"authorization": "Bearer x"})
    assert stand.count("bursar_requests_total", team="", model="other", key="", word="key_invalid") == 1


async def test_counts_are_taken_once(make_stand: MakeStand) -> None:
    stand = make_stand()
    await stand.ask(whole_stream(), body=chat(stream=True))
    stand.node.counters.gauges["bursar_in_flight"] = 3
    delta = stand.node.counters.take()
    assert dict(delta.counters["bursar_requests_total"])
    ((labels, buckets, total),) = delta.histograms["bursar_duration_seconds"]
    assert (labels, sum(buckets), total) == ((MODEL,), 1, 0.0)
    assert delta.gauges == {"bursar_in_flight": [((), 3)]}
    assert stand.node.counters.take().counters == {}
    assert stand.node.counters.take().histograms == {}
