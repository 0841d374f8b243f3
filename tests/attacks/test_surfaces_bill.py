"""Embeddings and legacy completions made to cost more than is held or posted: the emulator's counts are the bill."""

import json
from typing import Any, Literal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar.core.calls import Edits
from bursar.core.ceiling import ceiling, inexact_cost
from bursar.core.decisions import call_of, facts_of
from bursar.core.errors import Refusal
from bursar.core.estimate import Estimate
from bursar.providers.emulator.answer import answer
from bursar.providers.emulator.request import Unfit, read_request
from bursar.providers.openai import OpenAI
from tests.gateway.answers import IN, MODEL, OUT
from tests.gateway.ground import price_table

DIALECT = OpenAI()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TOKENS = st.lists(st.integers(0, 9), min_size=1, max_size=60)  # the shortest way to write a token
PROMPTS = TEXTS | st.lists(TEXTS, min_size=1, max_size=40) | TOKENS | st.lists(TOKENS, min_size=1, max_size=9)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.none() | st.integers(1, 3_000),
        "n": st.none() | st.integers(1, 4),
        "best_of": st.none() | st.integers(1, 20),
        "echo": st.none() | st.booleans(),
        "suffix": st.none() | TEXTS,
        "stream": st.none() | st.booleans(),
        "logprobs": st.none() | st.integers(0, 5),
    },
)


@given(st.sampled_from(["completions", "embeddings"]), PROMPTS, FIELDS, st.integers(0, 5_000), st.booleans())
@example("completions", "x", {"max_tokens": 3_000, "best_of": 20}, 5_000, False)  # nineteen of them nobody sees
@example("completions", ["x", "y"], {"max_tokens": 3_000, "n": 2, "best_of": 9, "echo": True}, 5_000, False)
@settings(max_examples=300, deadline=None)
def test_no_body_is_billed_for_more_than_it_holds_or_posts(
    route: Literal["completions", "embeddings"], prompts: Any, fields: dict[str, Any], output: int, told: bool
) -> None:
    price = price_table().find("openai", MODEL, 1_795_000_000 * 10**9)
    assert price is not None
    body = (
        {"model": MODEL, "prompt": prompts, **fields} if route == "completions" else {"model": MODEL, "input": prompts}
    )
    raw = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    script = json.dumps({"output": output} | ({} if told else {"usage": "missing"})).encode()
    try:
        call = DIALECT.understand(route, raw)
        top = ceiling(call, price, call.max_tokens or 0, Estimate(), strict=True)
        assert ceiling(call_of(facts_of(call)), price, call.max_tokens or 0, Estimate(), strict=True) == top
        given_answer = answer(read_request("0" * 24, route, "", script, DIALECT.rewrite(call, Edits()), 0))
    except (Refusal, Unfit):
        return
    counts = given_answer.counts
    assert counts is not None
    bill = counts.input * IN + counts.output * OUT
    assert bill <= top.pico
    if call.stream:
        return
    whole = b"".join(step.data for step in given_answer.steps).partition(b"\r\n\r\n")[2]
    usage, visible, _ = DIALECT.read_usage(call, whole)
    if usage is None:
        assert bill <= inexact_cost(price, call, top.pico, visible)
    else:
        assert bill == usage.input_tokens * IN + usage.output_tokens * OUT
