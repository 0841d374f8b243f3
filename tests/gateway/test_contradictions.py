"""Counts that contradict one another, should a dialect ever hand them over, are not believed and lose no hold."""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.calls import Call, Edits, Usage
from bursar.providers.anthropic import Anthropic
from bursar.providers.anthropic_stream import AnthropicMeter
from bursar.providers.openai import OpenAI
from tests.gateway import ground
from tests.gateway.answers import OUT, SLACK, broken, ceiling_of, chat, completion, message, stream, text_delta, usage
from tests.gateway.ground import PLENTY, Stand, budget, provider

MakeStand = Callable[..., Stand]
IMPOSSIBLE = Usage(input_tokens=5, output_tokens=2, reasoning=9, cache_read=50)


class Lying(OpenAI):
    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]:
        return IMPOSSIBLE, 5, ""


class LyingMeter(AnthropicMeter):
    def feed(self, event: bytes) -> bytes:
        self.input_usage = IMPOSSIBLE
        return super().feed(event)


class LyingEarly(Anthropic):
    def stream_meter(self, call: Call, edits: Edits) -> AnthropicMeter:
        return LyingMeter(call)


@pytest.fixture
def stand(make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.setattr(ground, "DIALECTS", {"openai": Lying(), "anthropic": LyingEarly()})
    providers: list[Any] = [provider("openai"), provider("anthropic", "anthropic")]
    return make_stand(budgets=[budget(PLENTY)], providers=providers)


async def test_a_contradictory_total_is_not_believed(stand: Stand) -> None:
    body = chat(max_tokens=9000)
    await stand.ask(completion("Hello", usage(5, 2)), body=body)
    assert not stand.post.exact
    assert stand.post.cost_pico == ceiling_of(body, 5 + SLACK)
    assert stand.count("bursar_inexact_total", reason="contradictory") == 1


async def test_a_contradictory_input_neither_shrinks_nor_counts(stand: Stand) -> None:
    body = message(max_tokens=4000, stream=True)
    await stand.ask(stream(text_delta("Hello"), broken()), path="/v1/messages", body=body)
    assert stand.journal.shrunk == {}
    assert stand.post.cost_pico == ceiling_of(body, 5 + SLACK)
    assert stand.post.cost_pico > SLACK * OUT
