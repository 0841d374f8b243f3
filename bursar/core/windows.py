"""When a budget starts anew: spans computed from an instant, never by a job that resets something.

Calendar spans begin at the first instant of the local day, so that a day around a change of daylight saving time
lasts 23 or 25 hours. Rolling windows are cut into buckets: a bucket counts until the last money in it has left the
window, so a rolling budget is never more generous than asked, and at most one bucket less.
"""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from bursar.core.directory import WindowDef
from bursar.core.units import NS_PER_S

FOREVER = 2**63 - 1  # the end of a lifetime window, ns
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUCKETS = 60
_MOST_CACHED = 4096


class Span(msgspec.Struct, frozen=True, gc=False):
    """One window, or one bucket of a rolling window: `start_ns` <= instant < `end_ns`."""

    start_ns: int
    end_ns: int
    id: str  # for people: "2026-11", "2026-11-23", "lifetime", ...


_latest: dict[WindowDef, Span] = {}


def span_of(window: WindowDef, now_ns: int) -> Span:
    """The span of `window` that holds `now_ns`; the last one of each definition is remembered.

    Raises ValueError for a definition that means nothing.
    """
    span = _latest.get(window)
    if span is not None and span.start_ns <= now_ns < span.end_ns:
        return span
    if len(_latest) >= _MOST_CACHED:
        _latest.clear()
    span = _latest[window] = _compute(window, now_ns)
    return span


def bucket_ns(window: WindowDef) -> int:
    """Length of one bucket of a rolling window: a sixtieth, at least a second."""
    return max(1, window.seconds // _BUCKETS) * NS_PER_S


def counts_until(window: WindowDef, end_ns: int) -> int:
    """The instant from which a span that ended at `end_ns` no longer counts against `window`."""
    return end_ns + window.seconds * NS_PER_S if window.kind == "rolling" else end_ns


def _compute(window: WindowDef, now_ns: int) -> Span:
    if window.kind == "lifetime":
        return Span(0, FOREVER, "lifetime")
    if window.kind == "rolling":
        if window.seconds < 1:
            raise ValueError("a rolling window needs a length of at least a second")
        length = bucket_ns(window)
        number = now_ns // length
        return Span(number * length, (number + 1) * length, f"{window.seconds}s/{number}")
    return _calendar(window, now_ns)


def _calendar(window: WindowDef, now_ns: int) -> Span:
    zone = _zone(window.zone)
    today = (_EPOCH + timedelta(seconds=now_ns // NS_PER_S)).astimezone(zone).date()
    first, after = _period(window, today)
    if _midnight(after, zone) <= now_ns:  # a clock set back over midnight: the repeated hour belongs to the new day
        first, after = _period(window, after)
    start = _midnight(first, zone)
    name = {"day": str(first), "week": f"week of {first}", "month": f"{first:%Y-%m}", "year": f"{first:%Y}"}
    return Span(start, _midnight(after, zone), name[window.period])


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:  # unknown, a folder, or not a relative path
        raise ValueError(f"not a time zone: {name!r}") from error


def _period(window: WindowDef, day: date) -> tuple[date, date]:
    """First day of the period around `day`, and the first day after it."""
    if window.period == "day":
        return day, day + timedelta(days=1)
    if window.period == "week":
        first = day - timedelta(days=(day.weekday() - window.week_start) % 7)
        return first, first + timedelta(days=7)
    if window.period == "month":
        first = day.replace(day=1)
        return first, (first + timedelta(days=32)).replace(day=1)
    return day.replace(month=1, day=1), date(day.year + 1, 1, 1)


def _midnight(day: date, zone: ZoneInfo) -> int:
    """First instant of a local day, ns. Where midnight is skipped it is the instant of the change."""
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    since = local.astimezone(UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * NS_PER_S
