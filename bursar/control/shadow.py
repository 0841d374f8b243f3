"""What rules in shadow would have done in a span: by team, key, control and rule, with the dollars.

From the sums that gateways ship with their decisions: exact, also where no record of a call was kept. A call that two
rules would have refused stands in both lines, so that the lines of one report do not add up to what all would save.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from bursar.control.decisions import Decisions
from bursar.control.directory import Directory
from bursar.core.decisions import HOUR_NS, ShadowSum, number
from bursar.core.directory import Team, VirtualKey

By = Literal["rule", "control", "key", "team"]
_PARTS: dict[By, tuple[str, ...]] = {
    "rule": ("team_id", "key_id", "control", "rule", "verdict", "word"),
    "control": ("team_id", "key_id", "control", "verdict"),
    "key": ("team_id", "key_id", "verdict"),
    "team": ("team_id", "verdict"),
}
_DAY_NS = 24 * HOUR_NS


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One group. Amounts are pico-USD; a part that is not grouped by is empty."""

    team_id: str = ""
    key_id: str = ""
    control: str = ""
    rule: str = ""
    verdict: str = ""
    word: str = ""
    calls: int
    cost_pico: int  # what these calls did cost
    saved_pico: int  # of that, what the rule would have saved
    ceiling_pico: int = 0  # the most that they could have cost


class Day(NamedTuple):
    """One day (UTC) of one control."""

    day_ns: int
    control: str
    verdict: str
    calls: int
    saved_pico: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    since_ns: int
    until_ns: int
    lines: Sequence[Line]  # the most calls first
    days: Sequence[Day]
    left_out: int  # lines beyond the wanted number
    not_recorded: int  # decisions of which only the sums are known


class Wanted(NamedTuple):
    """Empty = any."""

    team: str = ""
    key: str = ""
    control: str = ""
    rule: str = ""


class Shadow:
    def __init__(self, directory: Directory, decisions: Decisions) -> None:
        self._directory = directory
        self._decisions = decisions

    async def report(self, since_ns: int, until_ns: int, by: By, wanted: Wanted, most: int) -> Report:
        """Hours that begin before `until_ns` count, from the one around `since_ns` on.

        Raises Refusal(decisions_unavailable).
        """
        sums = [it for it in await self._decisions.sums(since_ns, until_ns) if _is_wanted(it, wanted)]
        dropped = [it for it in await self._decisions.dropped() if since_ns // HOUR_NS <= it.hour < until_ns / HOUR_NS]
        lines = lines_of(sums, by)
        return Report(
            since_ns=since_ns,
            until_ns=until_ns,
            lines=lines[:most],
            days=days_of(sums),
            left_out=max(0, len(lines) - most),
            not_recorded=sum(it.count for it in dropped),
        )

    def name_of(self, line: Line) -> tuple[str, str]:
        """Names of team and key, where they still exist."""
        team = self._directory.book.find(Team, line.team_id)
        key = self._directory.book.find(VirtualKey, line.key_id)
        return team.name if team is not None else "", key.name if key is not None else ""


def _is_wanted(it: ShadowSum, wanted: Wanted) -> bool:
    has = (it.team_id, it.key_id, it.control, it.rule)
    return all(not want or want == is_ for want, is_ in zip(wanted, has, strict=True))


def lines_of(sums: Iterable[ShadowSum], by: By) -> list[Line]:
    """Grouped, the most calls first."""
    parts = _PARTS[by]
    found: dict[tuple[str, ...], list[int]] = {}
    for it in sums:
        total = found.setdefault(tuple(getattr(it, part) for part in parts), [0, 0, 0, 0])
        for place, more in enumerate((it.calls, number(it.cost_pico), number(it.saved_pico), number(it.ceiling_pico))):
            total[place] += more
    lines = [
        Line(**dict(zip(parts, group, strict=True)), calls=calls, cost_pico=cost, saved_pico=saved, ceiling_pico=most)
        for group, (calls, cost, saved, most) in found.items()
    ]
    return sorted(lines, key=lambda it: (-it.calls, it.team_id, it.key_id, it.control, it.rule, it.verdict))


def days_of(sums: Iterable[ShadowSum]) -> list[Day]:
    """By day, control and verdict, in this order."""
    found: dict[tuple[int, str, str], list[int]] = {}
    for it in sums:
        day = it.hour * HOUR_NS // _DAY_NS * _DAY_NS
        total = found.setdefault((day, it.control, it.verdict), [0, 0])
        total[0] += it.calls
        total[1] += number(it.saved_pico)
    return [Day(*place, *total) for place, total in sorted(found.items())]
