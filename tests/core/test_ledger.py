"""The rules of the ledger, one at a time. What holds for any history is in tests/stores/test_journal_machine.py."""

from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.calls import Usage
from bursar.core.directory import BudgetDef, WindowDef
from bursar.core.errors import RULES, Refusal
from bursar.core.ledger import HoldRequest, Ledger, Settlement
from bursar.core.ledger_records import MAX_AMOUNT, CorrectRecord, Record, money
from bursar.core.units import NS_PER_S

DAY = 86_400 * NS_PER_S
NOON = int(datetime.fromisoformat("2026-11-23T12:00+00:00").timestamp()) * NS_PER_S


class Desk:
    """A ledger with a clock, in few words. Every record goes over the wire form, as in a replay."""

    def __init__(self, *budgets: BudgetDef) -> None:
        self.ledger = Ledger()
        self.now = NOON
        self.decoder = msgspec.msgpack.Decoder(Record)
        for budget in budgets:
            self.define(budget)

    def apply(self, record) -> None:
        self.ledger.apply(self.decoder.decode(msgspec.msgpack.encode(record)))

    def define(self, budget: BudgetDef) -> None:
        record = self.ledger.define(budget, self.now)
        if record is not None:
            self.apply(record)

    def hold(self, ceiling: int, *budgets: str, expected: int | None = None) -> int:
        request = asking(ceiling, *budgets, expected=expected)
        for record in self.ledger.due(request.budgets, self.now):
            self.apply(record)
        record, self.shadow = self.ledger.decide_hold(request, self.now)
        self.apply(record)
        return record.id

    def post(self, hold_id: int, cost: int, **settlement) -> None:
        settlement = {"usage": None, "exact": True, "outcome": "ok"} | settlement
        record = self.ledger.post(hold_id, Settlement(cost, **settlement), self.now)
        if record is not None:
            self.apply(record)

    def void(self, hold_id: int) -> None:
        record = self.ledger.void(hold_id, "unsent", self.now)
        if record is not None:
            self.apply(record)

    def shrink(self, hold_id: int, ceiling: int) -> None:
        record = self.ledger.shrink(hold_id, ceiling, self.now)
        if record is not None:
            self.apply(record)

    def refused(self, ceiling: int, *budgets: str, expected: int | None = None) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.hold(ceiling, *budgets, expected=expected)
        return caught.value

    def balance(self, budget: str = "b") -> tuple[int, int, int]:
        (found,) = [balance for balance in self.ledger.balances(self.now) if balance.budget_id == budget]
        return found.posted_pico, found.held_pico, found.overage_pico


def asking(ceiling: int, *budgets: str, expected: int | None = None) -> HoldRequest:
    return HoldRequest(
        request_id="r",
        attempt=1,
        key_id="k",
        team_id="t",
        owner_id="o",
        user="",
        provider="p",
        model="m",
        secret_id="s",
        price_id="p/m@1",
        price_digest="d",
        directory_version=1,
        ceiling_pico=ceiling,
        expected_pico=ceiling if expected is None else expected,
        input_ceiling=1,
        output_ceiling=1,
        budgets=budgets or ("b",),
    )


def budget(limit: int = 100, name: str = "b", **changes) -> BudgetDef:
    version = changes.pop("version", 1)
    return BudgetDef(id=name, version=version, subject_kind="team", subject="t", limit_pico=limit, **changes)


# ---- refusal words ---------------------------------------------------------------------------------------------------


def test_what_fits_to_the_last_pico_is_held():
    desk = Desk(budget(100))
    desk.post(desk.hold(60), 60)
    desk.hold(40)
    assert desk.balance() == (60, 40, 0)
    assert desk.refused(1).word == "held_by_requests_in_flight"


def test_the_word_says_whether_waiting_helps():
    desk = Desk(budget(100))
    assert desk.refused(101).word == "can_never_fit"
    hold = desk.hold(80)
    waiting = desk.refused(50)
    assert (waiting.word, waiting.retry_after) == ("held_by_requests_in_flight", 1.0)
    desk.post(hold, 80)
    spent = desk.refused(50)
    assert (spent.word, spent.retry_after) == ("budget_exhausted", None)
    assert spent.facts["window_ends"] == "2026-12-01T00:00:00Z"
    assert (spent.facts["limit_pico"], spent.facts["posted_pico"], spent.facts["asked_pico"]) == ("100", "80", "50")
    assert {waiting.word, spent.word, "can_never_fit"} <= RULES.keys()


def test_the_binding_budget_is_the_one_hardest_to_get_past_and_nothing_is_held():
    desk = Desk(budget(100, "team"), budget(50, "key"), budget(1000, "org"))
    desk.hold(40, "org", "key")
    refusal = desk.refused(70, "org", "team", "key")
    assert (refusal.word, refusal.facts["budget"]) == ("can_never_fit", "key")
    assert desk.refused(45, "team", "key").facts["budget"] == "key"
    assert desk.balance("team") == (0, 0, 0)
    assert desk.balance("key") == (0, 40, 0)
    assert len(desk.ledger.open) == 1


def test_an_undefined_budget_closes_money():
    assert Desk(budget()).refused(1, "b", "elsewhere").word == "store_unavailable"


def test_a_call_that_costs_nothing_passes_a_budget_that_is_spent():
    desk = Desk(budget(100))
    desk.post(desk.hold(100), 130)
    assert desk.refused(1).word == "budget_exhausted"
    desk.hold(0)


@pytest.mark.parametrize(("ceiling", "error"), [(-1, ValueError), (MAX_AMOUNT + 1, Refusal)])
def test_an_amount_that_no_call_can_have_is_not_held(ceiling, error):
    with pytest.raises(error):
        Desk(budget(10**30)).hold(ceiling)


def test_a_budget_cannot_be_asked_twice():
    with pytest.raises(ValueError):
        Desk(budget()).hold(1, "b", "b")


# ---- the life of a hold ----------------------------------------------------------------------------------------------


def test_a_hold_ends_once():
    desk = Desk(budget(100))
    hold = desk.hold(60)
    desk.post(hold, 10)
    desk.post(hold, 10)
    desk.void(hold)
    desk.shrink(hold, 1)
    assert desk.balance() == (10, 0, 0)
    assert desk.ledger.ignored == {"post": 1, "void": 1, "shrink": 1}


def test_a_hold_only_shrinks():
    desk = Desk(budget(100), budget(100, "soft", hard=False))
    hold = desk.hold(60, "b", "soft", expected=20)
    desk.shrink(hold, 70)
    assert desk.balance() == (0, 60, 0)
    desk.shrink(hold, 30)
    assert (desk.balance(), desk.balance("soft")) == ((0, 30, 0), (0, 20, 0))
    desk.void(hold)
    assert (desk.balance(), desk.balance("soft")) == ((0, 0, 0), (0, 0, 0))


def test_overage_is_booked_in_full_closes_the_budget_and_tells_the_owner():
    desk = Desk(budget(1000, thresholds=()))
    desk.post(desk.hold(60), 75)
    assert desk.balance() == (75, 0, 15)
    assert [(event.kind, event.amount_pico) for event in desk.ledger.events] == [("closed", 0), ("overage", 15)]
    assert desk.ledger.events[1].owner_id == "o"
    assert desk.refused(1).word == "budget_exhausted"
    desk.now += 10 * DAY
    desk.hold(1)  # the next month


def test_a_raised_limit_opens_a_closed_budget_and_a_lowered_one_does_not():
    desk = Desk(budget(1000))
    desk.post(desk.hold(60), 75)
    desk.define(budget(900, version=2))
    assert desk.refused(1).word == "budget_exhausted"
    desk.define(budget(901, version=3))
    desk.hold(826)
    assert desk.refused(1).word == "held_by_requests_in_flight"


def test_a_soft_budget_holds_what_is_expected_and_may_be_passed():
    desk = Desk(budget(100, hard=False))
    first = desk.hold(1000, expected=60)
    assert desk.refused(1000, expected=50).word == "held_by_requests_in_flight"
    desk.post(first, 500)
    assert desk.balance() == (500, 0, 0)
    assert not [event for event in desk.ledger.events if event.kind in ("overage", "closed")]
    assert desk.refused(1, expected=1).word == "budget_exhausted"


def test_a_lowered_limit_lets_holds_end_and_admits_no_more():
    desk = Desk(budget(100))
    hold = desk.hold(80)
    desk.define(budget(50, version=2))
    assert desk.refused(1).word == "held_by_requests_in_flight"
    desk.post(hold, 80)
    assert desk.balance() == (80, 0, 0)
    assert desk.refused(1).word == "budget_exhausted"


def test_a_shadow_budget_counts_and_reports_but_does_not_refuse():
    desk = Desk(budget(10, mode="shadow"), budget(1000, "other"), budget(5, "off", mode="off"))
    desk.post(desk.hold(60, "b", "other", "off"), 60)
    assert desk.shadow == ("b",)
    assert desk.balance() == (60, 0, 0)
    assert desk.balance("other") == (60, 0, 0)


def test_a_deleted_budget_refuses_nothing_and_its_holds_still_end():
    desk = Desk(budget(100))
    hold = desk.hold(100)
    desk.define(budget(100, version=2, deleted=True))
    desk.hold(500)
    desk.post(hold, 30)
    assert desk.ledger.balances(desk.now) == []


def test_a_correction_is_a_pair_and_counts_at_once():
    desk = Desk(budget(100))
    hold = desk.hold(90)
    desk.post(hold, 90, exact=False, outcome="unreconciled")
    legs = (("b", 1, 1, True),)
    desk.apply(CorrectRecord(desk.now, hold, (-70, 70), "provider's bill", legs))
    assert desk.balance() == (20, 0, 0)
    desk.apply(CorrectRecord(desk.now, hold, (90, -90), "late", legs))
    assert desk.balance() == (110, 0, 0)
    assert desk.ledger.events[-1].kind == "adjusted"
    assert desk.refused(1).word == "budget_exhausted"


def test_open_holds_cost_their_ceiling_after_a_restart():
    desk = Desk(budget(100))
    desk.post(desk.hold(10), 1)
    shrunk = desk.hold(50)
    desk.shrink(shrunk, 20)
    desk.hold(30)
    for record in desk.ledger.unreconciled(desk.now):
        desk.apply(record)
    assert desk.balance() == (51, 0, 0)
    assert [e.amount_pico for e in desk.ledger.events if e.kind == "unreconciled"] == [20, 30]


def test_a_cost_that_nobody_can_charge_is_capped_and_a_negative_one_is_refused():
    desk = Desk(budget(100))
    hold = desk.hold(10)
    with pytest.raises(ValueError):
        desk.post(hold, -1)
    desk.post(hold, 10**30)
    assert desk.balance()[0] == MAX_AMOUNT


def test_thresholds_are_told_once_each():
    desk = Desk(budget(100, thresholds=(50, 80, 100)))
    for _ in range(10):
        desk.post(desk.hold(10), 10)
    assert [event.percent for event in desk.ledger.events] == [50, 80, 100]
    desk.now += 10 * DAY
    desk.post(desk.hold(85), 85)
    assert [event.percent for event in desk.ledger.events][3:] == [80]  # the highest that was passed


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_a_hold_belongs_to_the_window_that_admitted_it():
    desk = Desk(budget(100, window=WindowDef(period="day")))
    hold = desk.hold(70)
    desk.now += DAY
    fresh = desk.hold(100)
    desk.post(hold, 70)
    assert desk.balance() == (0, 100, 0)
    desk.void(fresh)
    desk.now -= DAY  # the clock is set back: yesterday's window is still known
    assert desk.refused(40).word == "budget_exhausted"
    assert desk.balance() == (70, 0, 0)


def test_a_clock_far_back_finds_no_window_anew():
    desk = Desk(budget(100, window=WindowDef(period="day")))
    desk.post(desk.hold(90), 90)
    desk.now += 10 * DAY
    desk.post(desk.hold(80), 80)
    desk.now -= 10 * DAY
    assert desk.refused(50).word == "budget_exhausted"
    desk.hold(20)


@pytest.mark.parametrize("back", [True, False])
def test_a_clock_an_hour_off_over_midnight_spends_no_window_twice(back):
    desk = Desk(budget(100, window=WindowDef(period="day")))
    desk.now = NOON + DAY // 2 - 1800 * NS_PER_S
    desk.post(desk.hold(60), 60)
    desk.now += 3600 * NS_PER_S
    desk.post(desk.hold(60), 60)
    desk.now -= 3600 * NS_PER_S if back else 0
    assert desk.refused(50).word == "budget_exhausted"
    desk.hold(40)


def test_a_rolling_window_frees_what_has_left_it():
    desk = Desk(budget(100, window=WindowDef(kind="rolling", seconds=600)))
    desk.post(desk.hold(60), 60)
    desk.now += 300 * NS_PER_S
    desk.post(desk.hold(40), 40)
    refusal = desk.refused(50)
    assert refusal.word == "budget_exhausted"
    assert refusal.facts["window_ends"] == "2026-11-23T12:10:10Z"  # the bucket's end + 600 s
    desk.now = NOON + 600 * NS_PER_S
    assert desk.refused(50).word == "budget_exhausted"  # its bucket is not wholly out
    desk.now = NOON + 610 * NS_PER_S
    desk.post(desk.hold(60), 60)
    assert desk.refused(1).word == "budget_exhausted"


def test_a_rolling_window_stays_bounded():
    desk = Desk(budget(10**9, window=WindowDef(kind="rolling", seconds=60)))
    for _ in range(1000):
        desk.post(desk.hold(1), 1)
        desk.now += NS_PER_S
    assert len(desk.ledger.budgets["b"].rows) < 200
    assert desk.balance() == (60, 0, 0)


def test_another_zone_or_period_does_not_forget_what_was_spent():
    desk = Desk(budget(100, window=WindowDef(period="month")))
    desk.post(desk.hold(60), 60)
    desk.define(budget(100, version=2, window=WindowDef(period="month", zone="Asia/Tokyo")))
    assert desk.refused(50).word == "budget_exhausted"
    desk.define(budget(100, version=3, window=WindowDef(period="day")))
    desk.post(desk.hold(20), 20)
    assert desk.refused(50).word == "budget_exhausted"
    desk.now += DAY
    desk.hold(100)


def test_room_is_what_the_tightest_hard_budget_has_left():
    desk = Desk(budget(100), budget(70, "key"), budget(1, "soft", hard=False))
    desk.post(desk.hold(30, "b", "key", "soft", expected=0), 20)
    assert desk.ledger.room(("b", "key", "soft")) == 50
    assert desk.ledger.room(("soft",)) is None
    desk.define(budget(10, version=2))
    assert desk.ledger.room(("b", "key")) == 0


# ---- values ----------------------------------------------------------------------------------------------------------


def test_an_unchanged_definition_makes_no_record():
    desk = Desk(budget(100))
    desk.now += 5
    assert desk.ledger.define(budget(100), desk.now) is None
    assert desk.ledger.define(budget(100, version=2), desk.now) is not None
    with pytest.raises(ValueError):
        desk.ledger.define(budget(1, window=WindowDef(zone="Nowhere")), desk.now)
    with pytest.raises(ValueError):
        desk.ledger.define(budget(-1), desk.now)


def test_sums_beyond_64_bits_stay_exact():
    desk = Desk(budget(10**40))
    for _ in range(5):
        desk.post(desk.hold(MAX_AMOUNT), MAX_AMOUNT)
    restored = Ledger()
    restored.apply(desk.decoder.decode(msgspec.msgpack.encode(desk.ledger.snapshot(desk.now))))
    assert restored.balances(desk.now) == desk.ledger.balances(desk.now)
    assert desk.balance() == (5 * MAX_AMOUNT, 0, 0)


@given(st.integers(-(2**80), 2**80))
def test_money_is_written_exactly(amount):
    assert int(msgspec.msgpack.decode(msgspec.msgpack.encode(money(amount)))) == amount


def test_usage_travels_whole():
    desk = Desk(budget(100))
    usage = Usage(input_tokens=9, output_tokens=8, cache_read=7, reasoning=6, tool_uses=(("web_search", 2),))
    record = desk.ledger.post(desk.hold(10), Settlement(5, usage, True, "ok"), desk.now)
    assert record.usage == (9, 8, 7, 0, 0, 6, 0, 0, 0, (("web_search", 2),), "")
    desk.apply(record)
