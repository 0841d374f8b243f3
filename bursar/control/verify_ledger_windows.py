"""Whether a window lies where its definition says. The third part of `verify_ledger`, which shares no code with the
writer: the standard library's calendar is asked, nothing of `bursar.core.windows`.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

_DAY = 86_400 * 10**9


def on_boundaries(window: dict[str, Any], start: int, end: int) -> bool:
    if window["kind"] == "lifetime":
        return start == 0
    if window["kind"] == "rolling":
        length = int(max(1, window["seconds"] // 60) * 10**9)
        return end - start == length and start % length == 0
    return _on_calendar(window, start, end)


def _on_calendar(window: dict[str, Any], start: int, end: int) -> bool:
    zone = ZoneInfo(window["zone"])
    before, first, last, after = (_local(at, zone) for at in (start - 1, start, end - 1, end))
    if before.date() == first.date() or last.date() == after.date():
        return False  # a day has to begin at either end
    if window["period"] == "day":
        return after.date() - first.date() == timedelta(1)
    if window["period"] == "week":
        week = int(window["week_start"])
        return first.weekday() == week and after.date() - first.date() == timedelta(7)
    if window["period"] == "month":
        return first.day == after.day == 1 and (first + timedelta(32)).month == after.month and end - start < 32 * _DAY
    return (first.month, first.day, after.month, after.day) == (1, 1, 1, 1) and after.year == first.year + 1


def _local(at: int, zone: ZoneInfo) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at // 1000)).astimezone(zone)
