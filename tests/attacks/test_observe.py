"""Observed keys under attack: whatever a provider answers or a model is called, the key goes to its own provider."""

import random
from collections.abc import Callable

import msgspec
import pytest

from tests.core.key_samples import samples
from tests.gateway.answers import MODEL, chat, completion, usage
from tests.gateway.fakes import FakeExchange, FakeResponse
from tests.gateway.ground import Stand, provider, provider_key
from tests.gateway.test_observe import ANTHROPIC, OPENAI, bearer, call, observing

MakeStand = Callable[..., Stand]
AWAY = "https://elsewhere.example"
NAMES = ["other/", "anthropic/", "other/openai/", "openai/other/", "openai/openai/", "../", "other\\", "openai%2F"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 403, 429, 500, 503, 529])
async def test_no_answer_leads_it_elsewhere_or_shows_it(make_stand: MakeStand, status: int) -> None:
    stand = make_stand(provider_keys=[provider_key("pk", "openai/*/api/prod/*")])
    observing(stand)
    fields = {"location": AWAY, "content-type": "application/json", "retry-after": "0"}
    told = b'{"error":{"message":"wrong: %s"}}' % OPENAI.encode()
    exchange = await call(stand, OPENAI, FakeResponse([told], status, fields))
    assert exchange.status >= 400
    assert OPENAI.encode() not in exchange.sent
    assert AWAY.encode() not in exchange.sent
    assert [one.provider for one in stand.upstream.sent] == ["openai"]
    assert stand.releases.asked == []


@pytest.mark.parametrize("name", [*(before + MODEL for before in NAMES), "alias", "*", "openai/", "/", "\u2028"])
async def test_no_name_of_a_model_leads_it_elsewhere(make_stand: MakeStand, name: str) -> None:
    providers = [
        provider("openai", deployments={"alias": MODEL}),
        provider("other", prices="openai"),
        provider("anthropic", "anthropic"),
    ]
    stand = make_stand(providers=providers)
    observing(stand)
    await call(stand, OPENAI, body=chat(model=name))
    assert {one.provider for one in stand.upstream.sent} <= {"openai"}
    stand.upstream.answers.clear()


async def test_of_several_keys_only_the_one_that_was_told_by_goes_up(make_stand: MakeStand) -> None:
    stand = make_stand()
    observing(stand)
    other = samples(random.Random(99))["openai-key"]
    for text in (OPENAI, other, OPENAI):
        headers = bearer(text) | {"x-api-key": other, "api-key": ANTHROPIC}
        stand.upstream.will(completion("Hi", usage(10, 5)))
        exchange = FakeExchange("POST", "/v1/chat/completions", headers, msgspec.json.encode(chat()))
        await stand.pipeline.serve(exchange)
        sent = stand.upstream.sent[-1].headers
        assert sent["authorization"] == f"Bearer {text}"
        assert "x-api-key" not in sent
        assert "api-key" not in sent
