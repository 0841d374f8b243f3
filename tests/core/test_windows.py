"""Spans cover time without a gap, in every zone; the days on which the clocks change are 23 and 25 hours long."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.directory import WindowDef
from bursar.core.units import NS_PER_S
from bursar.core.windows import Span, bucket_ns, counts_until, span_of

HOUR = 3_600 * NS_PER_S
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Africa/Cairo", "Asia/Kathmandu", "Asia/Beirut")
INSTANTS = st.integers(0, 2**32).map(lambda s: s * NS_PER_S)


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * NS_PER_S


def hours(span: Span) -> float:
    return (span.end_ns - span.start_ns) / HOUR


@given(
    zone=st.sampled_from(ZONES),
    period=st.sampled_from(("day", "week", "month", "year")),
    week_start=st.integers(0, 6),
    now=INSTANTS,
)
def test_calendar_spans_hold_their_instant_and_meet_without_a_gap(zone, period, week_start, now):
    window = WindowDef(period=period, zone=zone, week_start=week_start)
    span = span_of(window, now)
    assert span.start_ns <= now < span.end_ns
    assert span_of(window, span.end_ns).start_ns == span.end_ns
    assert span_of(window, span.start_ns) == span


@pytest.mark.parametrize(
    ("zone", "day", "length"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("America/New_York", "2026-11-02", 24),
        ("UTC", "2026-03-29", 24),
    ],
)
def test_a_day_is_as_long_as_its_zone_says(zone, day, length):
    window = WindowDef(period="day", zone=zone)
    span = span_of(window, at(f"{day}T12:00", zone))
    assert hours(span) == length
    assert span.id == day
    first, last = span_of(window, span.start_ns), span_of(window, span.end_ns - 1)
    assert first == last == span


def test_a_day_begins_where_midnight_was_skipped():
    """Cairo: at 00:00 on 2024-04-26 the clocks went to 01:00."""
    span = span_of(WindowDef(period="day", zone="Africa/Cairo"), at("2024-04-26T12:00", "Africa/Cairo"))
    assert span.start_ns == at("2024-04-25T22:00")
    assert hours(span) == 23


def test_a_day_begins_once_where_midnight_came_twice():
    """Havana: at 01:00 on 2026-11-01 the clocks go back to 00:00."""
    window = WindowDef(period="day", zone="America/Havana")
    span = span_of(window, at("2026-11-01T12:00", "America/Havana"))
    assert hours(span) == 25
    assert span_of(window, span.start_ns + HOUR).start_ns == span.start_ns


@pytest.mark.parametrize(
    ("period", "week_start", "start", "end"),
    [
        ("month", 0, "2024-02-01T00:00", "2024-03-01T00:00"),
        ("week", 0, "2024-02-26T00:00", "2024-03-04T00:00"),
        ("week", 6, "2024-02-25T00:00", "2024-03-03T00:00"),
        ("year", 0, "2024-01-01T00:00", "2025-01-01T00:00"),
        ("day", 0, "2024-02-29T00:00", "2024-03-01T00:00"),
    ],
)
def test_periods_of_a_leap_day(period, week_start, start, end):
    window = WindowDef(period=period, week_start=week_start)
    span = span_of(window, at("2024-02-29T23:59:59"))
    assert (span.start_ns, span.end_ns) == (at(start), at(end))


@given(seconds=st.integers(1, 10**8), now=INSTANTS)
def test_a_bucket_counts_until_its_last_money_has_left_the_window(seconds, now):
    window = WindowDef(kind="rolling", seconds=seconds)
    span = span_of(window, now)
    assert span.start_ns <= now < span.end_ns
    assert span.end_ns - span.start_ns == bucket_ns(window) <= max(NS_PER_S, seconds * NS_PER_S // 60)
    assert counts_until(window, span.end_ns) > now + seconds * NS_PER_S


def test_a_lifetime_has_one_span():
    window = WindowDef(kind="lifetime")
    assert span_of(window, 0) == span_of(window, at("2200-01-01T00:00"))


@pytest.mark.parametrize(
    "window",
    [
        WindowDef(zone="Mars/Olympus"),
        WindowDef(zone="../etc/passwd"),
        WindowDef(zone=""),
        WindowDef(zone="Europe"),
        WindowDef(kind="rolling"),
    ],
)
def test_a_window_that_means_nothing_is_refused(window):
    with pytest.raises(ValueError):
        span_of(window, 0)


def test_an_earlier_instant_is_not_answered_from_memory():
    window = WindowDef(period="day")
    today, yesterday = at("2026-05-05T10:00"), at("2026-05-04T10:00")
    assert span_of(window, today).id == "2026-05-05"
    assert span_of(window, yesterday).id == "2026-05-04"
    assert datetime.fromtimestamp(span_of(window, today).start_ns / NS_PER_S, UTC).isoformat() == (
        "2026-05-05T00:00:00+00:00"
    )
