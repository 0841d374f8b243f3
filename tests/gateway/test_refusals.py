"""Every word of the one table reaches the caller in his dialect; every stage's words come out of the pipeline."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bursar
from bursar.core.calls import Call
from bursar.core.directory import LimitDef, Policy
from bursar.core.errors import RULES, Refusal
from bursar.gateway import answer
from bursar.gateway.answer import go_duration, refusal_headers
from tests.gateway.answers import (
    DONE,
    MODEL,
    broken,
    ceiling_of,
    chat,
    chunk,
    completion,
    error,
    plain,
    stream,
    unsent,
    usage,
)
from tests.gateway.fakes import turns
from tests.gateway.ground import ANTHROPIC_KEY, PLENTY, Stand, budget, provider
from tests.stores.journal_kit import FailingFiles

MakeStand = Callable[..., Stand]
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


class Screen:
    """A guard that refuses everything, with the word it is told."""

    name = "test"

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal

    def look(self, call: Call, content: Any) -> Refusal | None:
        return self.refusal


# ---- the one table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", RULES)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_word_is_told_as_the_table_says(make_stand: MakeStand, word: str, path: str) -> None:
    stand = make_stand()
    rule = RULES[word]
    facts: dict[str, str | int] = {"allow": "POST", "limit": 5}
    stand.node.screens = [Screen(Refusal(word, "What happened", "What to do", retry_after=1.2, facts=facts))]
    exchange = await stand.ask(path=path)
    assert exchange.status == rule.status
    body = exchange.json
    request_id = exchange.header("x-bursar-request-id")
    assert request_id is not None
    assert request_id.startswith("req_b00t")
    assert body["bursar"] == {"word": word, "request_id": request_id, "facts": facts}
    why = f". Why: bursar explain {request_id}" if word in answer._EXPLAINED else ""
    said = {"message": f"What happened. What to do{why}", "code": word}
    if path == MESSAGES:
        assert body["type"] == "error"
        assert body["error"] == said | {"type": rule.anthropic_type}
        assert body["request_id"] == exchange.header("request-id") == request_id
        assert exchange.header("x-request-id") is None
    else:
        assert body["error"] == said | {
            "type": rule.openai_type,
            "param": "model" if word in answer._OF_THE_MODEL else None,
        }
        assert exchange.header("x-request-id") == request_id
        assert exchange.header("request-id") is None
    assert exchange.header("content-type") == "application/json"
    assert exchange.word == word
    assert exchange.header("x-should-retry") == ("true" if rule.retry else "false")
    assert exchange.header("retry-after") == ("2" if rule.retry else None)  # whole seconds, rounded up
    assert (exchange.header("www-authenticate") is not None) == (rule.status == 401)
    assert (exchange.header("allow") is not None) == (word == "method_not_allowed")
    assert stand.count("bursar_refusals_total", team="team-1", word=word) == 1
    assert stand.count("bursar_requests_total", status=str(rule.status), word=word) == 1
    assert stand.ends == []


async def test_a_hint_is_left_out_where_there_is_none(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.node.screens = [Screen(Refusal("guard_blocked", "A screen refused it"))]
    exchange = await stand.ask()
    assert exchange.json["error"]["message"] == "A screen refused it"
    assert exchange.header("retry-after") is None
    assert stand.count("bursar_guard_total", verdict="block") == 1


def test_before_a_route_is_known_there_is_no_request_to_name() -> None:
    refusal = Refusal("head_too_large", "The head is too large")
    names = {name for name, _ in refusal_headers(refusal, "openai", "")}
    assert names == {"content-type", "x-bursar-word", "x-should-retry"}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0ms"), (0.0121, "13ms"), (0.9999, "1000ms"), (1, "1s"), (59.1, "1m0s"), (360, "6m0s"), (3601, "1h0m1s")],
)
def test_a_reset_is_told_as_go_writes_durations(seconds: float, told: str) -> None:
    assert go_duration(seconds) == told


# ---- each stage's own words ------------------------------------------------------------------------------------------

_LIMITED = Policy(limits=(LimitDef(id="l", unit="requests", amount=0),))
_SLOTS = Policy(limits=(LimitDef(id="l", unit="concurrency", amount=0),))
_TOKENS = Policy(limits=(LimitDef(id="l", unit="tokens", amount=0),))
_HARD = [budget(PLENTY)]

STAGES: list[tuple[str, dict[str, Any], dict[str, Any], list[Any]]] = [
    # word, how the stand is set up, what is asked, what the provider answers
    ("not_found", {}, {"path": "/v1/nothing"}, []),
    ("not_found", {}, {"path": "/v1/messages/batches"}, []),
    ("method_not_allowed", {}, {"method": "GET"}, []),
    ("key_missing", {}, {"headers": {"authorization": ""}}, []),
    ("key_invalid", {}, {"headers": {"authorization": "Bearer sk-1"}}, []),
    ("user_required", {"policy": Policy(user_header="X-User")}, {}, []),
    ("rate_limited", {"policy": _LIMITED}, {}, []),
    ("concurrency_limited", {"team_policy": _SLOTS}, {}, []),
    ("body_too_large", {}, {"body": Refusal("body_too_large", "Too large")}, []),
    ("malformed_request", {}, {"body": b"{"}, []),
    ("duplicate_field", {}, {"body": b'{"model":"m","MODEL":"n","messages":[]}'}, []),
    ("invalid_field", {}, {"body": chat(n="two")}, []),
    ("model_not_allowed", {"policy": Policy(models=("other",))}, {}, []),
    ("purpose_not_allowed", {"policy": Policy(purposes=("batch",))}, {}, []),
    ("prompt_too_large", {"policy": Policy(max_prompt_chars=3)}, {}, []),
    ("prompt_too_large", {"policy": Policy(max_input_tokens=3)}, {}, []),
    (
        "max_tokens_exceeded",
        {"policy": Policy(max_tokens_cap=5, over_max_tokens="refuse")},
        {"body": chat(max_tokens=6)},
        [],
    ),
    ("unknown_id", {}, {"body": chat(messages=[{"role": "assistant", "audio": {"id": "audio-none"}}])}, []),
    ("model_not_found", {"providers": [provider("openai", models=("gpt-*",))]}, {}, []),
    ("no_provider_key", {"provider_keys": [ANTHROPIC_KEY]}, {}, []),
    ("unpriced_model", {"budgets": _HARD}, {"body": chat(model="unheard-of")}, []),
    ("unpriced_model", {"policy": Policy(unpriced="refuse")}, {"body": chat(model="unheard-of")}, []),
    ("unbounded_request", {"budgets": _HARD}, {"body": chat(brand_new_field=1)}, []),
    ("rate_limited", {"policy": _TOKENS}, {}, []),
    ("can_never_fit", {"budgets": [budget(5)]}, {}, []),
    ("upstream_unreachable", {}, {}, [unsent]),
    ("upstream_unreachable", {}, {}, [lambda: unsent("tls")]),
    ("upstream_unreachable", {}, {}, [lambda: unsent("timeout_connect")]),
    ("upstream_timeout", {}, {}, [lambda: broken("timeout_first_byte")]),
    ("upstream_broken", {}, {}, [broken]),
    ("upstream_broken", {}, {}, [lambda: plain({}, 302)]),
    ("upstream_key_refused", {}, {}, [lambda: error(401)]),
    ("upstream_key_refused", {}, {}, [lambda: error(403, "invalid_api_key")]),
]


@pytest.mark.parametrize(("word", "settings", "asked", "answers"), STAGES)
async def test_a_stages_word_reaches_the_caller(
    make_stand: MakeStand, word: str, settings: Any, asked: Any, answers: Any
) -> None:
    stand = make_stand(**settings)
    exchange = await stand.ask(*(answer() for answer in answers), **asked)
    assert (exchange.status, exchange.word) == (RULES[word].status, word)
    assert exchange.json["error"]["code"] == word
    assert stand.key_text not in exchange.sent.decode()
    assert b"sk-pk" not in exchange.sent  # the provider key
    assert stand.upstream.answers == []


_RAISED = re.compile(r'Refusal\(\s*"([a-z_]+)"')
_TESTED_BELOW = {"not_ready", "budget_exhausted", "held_by_requests_in_flight", "store_unavailable"}
_TESTED_WITH_KEYS = {"key_expired", "key_disabled", "directory_stale"}
_TESTED_WITH_TOKENS = {"token_invalid", "token_expired", "token_revoked", "network_not_allowed"}
_TESTED_WITH_CONTROL = {"control_unavailable", "overloaded"}
_TESTED_WITH_BREAKERS = {"upstream_unavailable"}


def test_the_rows_above_are_all_words_that_the_data_path_raises() -> None:
    """A stage with a new word needs a row."""
    package = Path(bursar.__file__).parent
    rooms = [*(package / "gateway").glob("*.py"), *(package / "providers").glob("*.py")]
    rooms += [package / "core" / f"{name}.py" for name in ("policy", "plans", "ceiling", "ledger", "ledger_budget")]
    raised = {word for room in rooms for word in _RAISED.findall(room.read_text())}
    assert raised >= {"key_missing", "unbounded_request", "duplicate_field"}
    assert raised - {word for word, *_ in STAGES} <= (
        _TESTED_BELOW | _TESTED_WITH_KEYS | _TESTED_WITH_TOKENS | _TESTED_WITH_CONTROL | _TESTED_WITH_BREAKERS
    )


async def test_without_a_directory_every_key_would_look_wrong(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.node.ready = False
    exchange = await stand.ask()
    assert (exchange.status, exchange.word, exchange.header("retry-after")) == (503, "not_ready", "1")
    assert not exchange.body_asked


async def test_money_that_cannot_be_written_is_closed(make_stand: MakeStand) -> None:
    files = FailingFiles()
    stand = make_stand(budgets=[budget(PLENTY)], files=files)
    await stand.ask(completion("Hi", usage(1, 1)))
    files.room = 0
    exchange = await stand.ask()
    assert (exchange.status, exchange.word, exchange.header("retry-after")) == (503, "store_unavailable", "1")
    files.room = None
    stand.clock.advance(1)
    assert (await stand.ask(completion("Hi", usage(1, 1)))).status == 200


async def test_what_is_left_of_a_budget_is_told_in_numbers(make_stand: MakeStand) -> None:
    body = chat(max_tokens=100)
    top = ceiling_of(body, 100)
    stand = make_stand(budgets=[budget(top + 5)])
    await stand.ask(completion("Hi", usage(1, 5)), body=body)
    exchange = await stand.ask(body=body)
    assert (exchange.status, exchange.word, exchange.header("x-should-retry")) == (429, "budget_exhausted", "false")
    assert exchange.header("retry-after") is None
    facts = exchange.json["bursar"]["facts"]
    assert (facts["limit_pico"], facts["asked_pico"]) == (str(top + 5), str(top))
    assert facts["window_ends"] == "2026-12-01T00:00:00Z"


async def test_what_is_held_is_told_apart_from_what_is_spent(make_stand: MakeStand) -> None:
    body = chat(max_tokens=100, stream=True)
    stand = make_stand(budgets=[budget(ceiling_of(body, 100))])
    stand.upstream.will(stream(chunk("Hi"), *[chunk("!")] * 20, DONE))
    first = stand.exchange(body=body)
    under_way = asyncio.ensure_future(stand.pipeline.serve(first))
    await turns(10)
    assert first.started
    second = stand.exchange(body=body)
    await stand.pipeline.serve(second)
    assert (second.word, second.header("retry-after")) == ("held_by_requests_in_flight", "1")
    assert second.header("x-should-retry") == "true"
    await under_way
    stand.at_rest()


# ---- what is said when an answer is under way, or nobody listens -----------------------------------------------------


async def test_nothing_is_said_to_one_who_has_left(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = stand.exchange(body=b"{")
    exchange.leave()
    await stand.pipeline.serve(exchange)
    assert not exchange.started
    assert stand.count("bursar_requests_total", word="malformed_request") == 1


async def test_a_refusal_after_the_answer_began_breaks_it_off(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = stand.exchange()
    exchange.start(200, b"")
    stand.node.screens = [Screen(Refusal("guard_blocked", "Late"))]
    await stand.pipeline.serve(exchange)
    assert exchange.aborted
    stand.at_rest()


async def test_a_path_is_repeated_in_part_only(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = await stand.ask(path="/v1/" + "x" * 5000)
    assert "x" * 300 not in exchange.json["error"]["message"]


@pytest.mark.parametrize(
    ("policy", "tokens", "word"),
    [
        (Policy(max_prompt_chars=100), 12, None),
        (Policy(max_prompt_chars=100), 13, "prompt_too_large"),
        (Policy(max_input_tokens=100), 100, None),
        (Policy(max_input_tokens=100), 101, "prompt_too_large"),
    ],
)
async def test_a_prompt_of_token_ids_is_no_way_round(
    make_stand: MakeStand, policy: Policy, tokens: int, word: str | None
) -> None:
    stand = make_stand(policy=policy)
    answer = plain({"choices": [{"text": "Hi"}], "usage": usage(tokens, 1)})
    body = {"model": MODEL, "prompt": [7] * tokens}
    exchange = await stand.ask(*[] if word else [answer], path="/v1/completions", body=body)
    assert exchange.word == word
