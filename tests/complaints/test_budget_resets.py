"""Budgets that were reset late, twice, never, or to another period (docs/complaints.md, 3.6)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.core.directory import Policy, WindowDef
from bursar.core.units import NS_PER_S
from tests.complaints.crowd import short_answer
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.gateway.answers import IN, OUT, ceiling_of, chat
from tests.gateway.ground import Stand, budget
from tests.stores.journal_kit import proven

MakeStand = Callable[..., Stand]
BODY = chat(max_tokens=100)
CEILING = ceiling_of(BODY, 100)
COST = 10 * IN + 2 * OUT
SUBJECTS = [("user", "ann"), ("user", "*"), ("team", "team-1"), ("owner", "owner-1"), ("model", "plain-1")]
WINDOWS = {
    "day": (WindowDef(period="day"), 12 * 3600),  # the clock of a stand begins on Monday the 23rd, at noon
    "week": (WindowDef(period="week"), 6 * 86_400 + 12 * 3600),
    "month": (WindowDef(period="month"), 7 * 86_400 + 12 * 3600),
    "rolling": (WindowDef(kind="rolling", seconds=3600), 3600),
}


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("window", WINDOWS)
async def test_a_spent_budget_has_room_again_when_its_window_is_over(
    make_stand: MakeStand, subject: tuple[str, str], window: str
) -> None:
    """litellm 8364, 5651, 7129: budgets of end users were never reset; users were deleted and made anew.

    litellm 16057, 32245: a reset came late, for a job had to do it. litellm v1.100.3: blocked after it.
    """
    kept, seconds = WINDOWS[window]
    limit = budget(CEILING, "b", *subject, window=kept)
    stand = make_stand(budgets=[limit], policy=Policy(user_header="x-user", user_missing="shared"))
    headers = {"x-user": "ann"}
    assert (await stand.ask(short_answer(), body=BODY, headers=headers)).status == 200
    assert (await stand.ask(body=BODY, headers=headers)).word == "budget_exhausted"
    stand.clock.advance(seconds - 1)
    assert (await stand.ask(body=BODY, headers=headers)).word == "budget_exhausted"
    stand.clock.advance(61)  # a rolling window lets go within a minute
    assert (await stand.ask(short_answer(), body=BODY, headers=headers)).status == 200
    assert (await stand.ask(body=BODY, headers=headers)).word == "budget_exhausted"


async def test_a_restart_neither_resets_nor_forgets_to(tmp_path: Path) -> None:
    """litellm 34270, 16057: resets that were done twice, or not at all, where a pod was restarted meanwhile."""
    limit = budget(CEILING, window=WindowDef(period="day"))
    stand = Stand(tmp_path, budgets=[limit])
    await stand.ask(short_answer(), body=BODY)
    stand.close()
    for hours, word in ((0, "budget_exhausted"), (11, "budget_exhausted"), (12, None), (13, "budget_exhausted")):
        again = Stand(tmp_path, budgets=[limit])
        again.clock.wall += hours * 3600 * NS_PER_S
        assert (await again.ask(short_answer(), body=BODY)).word == word, hours
        again.close()
    proven(tmp_path)


def test_an_edit_of_the_limit_leaves_the_window(broker: Broker, tenants: Tenants) -> None:
    """terraform-provider-litellm PR 113: what was monthly became daily, silently."""
    window = {"kind": "calendar", "period": "month", "zone": "Asia/Kolkata", "week_start": 0}
    budget_id = tenants.budget("owner", tenants.owner, limit_usd="5", window=window)
    path = f"/v1/admin/budgets/{budget_id}"
    before = broker.admin("GET", path).json()
    for changes in ({"limit_usd": "6"}, {"hard": False}, {"name": "Another"}, {}):
        edited = broker.admin("PATCH", path, json=changes)
        assert edited.status_code == 200, edited.text
        assert edited.json()["window"] == before["window"]
    assert before["window"].items() >= {"kind": "calendar", "period": "month", "zone": "Asia/Kolkata"}.items()
    strange = broker.admin("PATCH", path, json={"window": {"kind": "calendar", "period": "monthly"}})
    assert strange.status_code == 400
