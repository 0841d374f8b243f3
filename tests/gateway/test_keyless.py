"""Providers that take no key: a local server is reached without one, and none is asked of control."""

from collections.abc import Callable

from bursar.core.directory import BudgetDef
from tests.gateway.answers import MODEL, completion, usage
from tests.gateway.ground import Stand, budget, provider

MakeStand = Callable[..., Stand]


def _hard() -> list[BudgetDef]:
    return [budget(10**12)]


async def test_no_key_is_needed_released_or_sent(make_stand: MakeStand) -> None:
    stand = make_stand(providers=[provider("openai", auth="none")], provider_keys=(), budgets=_hard())
    exchange = await stand.ask(completion("Hi", usage(3, 2)))
    assert exchange.status == 200
    assert stand.releases.asked == []
    sent = stand.upstream.sent[-1]
    assert "authorization" not in sent.headers
    assert stand.journal.open_holds == 0


async def test_its_models_are_listed(make_stand: MakeStand) -> None:
    stand = make_stand(providers=[provider("openai", auth="none")], provider_keys=())
    exchange = await stand.ask(method="GET", path="/v1/models")
    assert MODEL in {row["id"] for row in exchange.json["data"]}
