"""Restored from a backup and not released: nobody is served, and nothing is held, leased or sent."""

from collections.abc import Callable

import pytest

from tests.gateway.answers import completion, usage
from tests.gateway.ground import Stand, budget

MakeStand = Callable[..., Stand]


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer bsr_unknown"}, None], ids=["no key", "wrong", "good"]
)
async def test_nobody_is_served_until_released(make_stand: MakeStand, headers: dict[str, str] | None) -> None:
    stand = make_stand(budgets=[budget(10**12)])
    stand.node.paused = True
    more = {} if headers is None else {"headers": headers}
    exchange = await stand.ask(**more)
    assert (exchange.status, exchange.json["error"]["code"]) == (503, "restore_unacknowledged")
    assert stand.releases.asked == []
    assert stand.upstream.sent == []
    assert stand.journal.open_holds == 0
    stand.node.paused = False
    assert (await stand.ask(completion("Hi", usage(1, 1)))).status == 200


async def test_a_call_that_was_let_in_before_holds_nothing(make_stand: MakeStand) -> None:
    """The second lock, at the money itself."""
    stand = make_stand(budgets=[budget(10**12)])

    def pause() -> None:
        stand.node.paused = True

    guard = type("Guard", (), {"name": "pausing", "look": staticmethod(lambda _call, _content: pause())})
    stand.node.screens = [guard()]
    exchange = await stand.ask()
    assert exchange.json["error"]["code"] == "restore_unacknowledged"
    assert stand.journal.open_holds == 0
    assert stand.upstream.sent == []
