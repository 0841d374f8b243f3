"""Decisions on their way to control: bounded in number, in bytes and by the second; what has no room is counted.

Nothing here waits for anything. One batch is under way at a time; it is sent once a connection, and forgotten when
control has taken it. While control is away records gather here up to a bound. A process that is killed takes those of
its last second with it.
"""

from bursar.core.decisions import HOUR_NS, OTHERS, Batch, Dropped, RuleAsked, ShadowSum, Why
from bursar.core.ledger_records import money

_MOST_BYTES = 8 << 20
_BATCH_BYTES = 2 << 20
_MOST_SUMS = 2_000  # series between two batches; what comes beyond is summed for all others together
_MOST_KEYS = 1_000  # of which drops are counted each

_Sum = tuple[str, str, str, str, str, str]  # team, key, control, rule, verdict, word


class Decisions:
    """`refused`: records a second of one key's calls that something refused, or would have; `in_all`: of all keys'.
    `ordinary`: records a second of calls that nothing refused.
    """

    def __init__(self, session: str, *, refused: int = 20, in_all: int = 200, ordinary: int = 10) -> None:
        self.refused, self.in_all, self.ordinary = refused, in_all, ordinary
        self.ordinary_left = ordinary
        self._session = session
        self._number = 0
        self._this_second: dict[str, int] = {}
        self._all_left = in_all
        self._records: list[bytes] = []
        self._bytes = 0
        self._sums: dict[_Sum, list[int]] = {}
        self._dropped: dict[tuple[str, Why], int] = {}
        self._under_way: Batch | None = None
        self._sent_on = 0

    def beat(self) -> None:
        """A second has passed."""
        self.ordinary_left = self.ordinary
        self._all_left = self.in_all
        self._this_second.clear()

    def has_room(self, key_id: str) -> bool:
        """Whether one more record of this key may be made in this second; if not, it is counted as dropped."""
        made = self._this_second.get(key_id, 0)
        if made >= self.refused or self._all_left <= 0:
            self.drop(key_id, "flood")
            return False
        self._this_second[key_id] = made + 1
        self._all_left -= 1
        return True

    def drop(self, key_id: str, why: Why) -> None:
        place = (key_id, why)
        if place not in self._dropped and len(self._dropped) >= _MOST_KEYS:
            place = (OTHERS, why)
        self._dropped[place] = self._dropped.get(place, 0) + 1

    def put(self, key_id: str, record: bytes) -> None:
        if self._bytes + len(record) > _MOST_BYTES:
            self.drop(key_id, "buffer")
            return
        self._records.append(record)
        self._bytes += len(record)

    def add(self, team_id: str, key_id: str, rule: RuleAsked, amounts: tuple[int, int, int, int]) -> None:
        """Count what a rule in shadow would have done. `amounts`: expected, ceiling, cost, saved (pico-USD)."""
        place = (team_id, key_id, rule.control, rule.rule, rule.verdict, rule.word)
        found = self._sums.get(place)
        if found is None:
            if len(self._sums) >= _MOST_SUMS:
                place = (OTHERS, OTHERS, rule.control, OTHERS, rule.verdict, rule.word)
            found = self._sums.setdefault(place, [0, 0, 0, 0, 0])
        found[0] += 1
        for i, amount in enumerate(amounts, 1):
            found[i] += amount

    # ---- on the way

    def next(self, now_ns: int, connection: int) -> Batch | None:
        """What is to be sent now on the connection of this number; None = nothing, or it is under way on it."""
        if self._under_way is None:
            self._under_way = self._take(now_ns)
        elif self._sent_on == connection:
            return None
        self._sent_on = connection
        return self._under_way

    def taken(self, number: int) -> None:
        """Control has dealt with it."""
        if self._under_way is not None and self._under_way.number == number:
            self._under_way = None

    def _take(self, now_ns: int) -> Batch | None:
        if not (self._records or self._sums or self._dropped):
            return None
        count = size = 0
        for record in self._records:
            size += len(record)
            if count and size > _BATCH_BYTES:
                size -= len(record)
                break
            count += 1
        self._number += 1
        hour = now_ns // HOUR_NS
        batch = Batch(
            session=self._session,
            number=self._number,
            at_ns=now_ns,
            records=self._records[:count],
            sums=[_sum(hour, place, sums) for place, sums in self._sums.items()],
            dropped=[Dropped(hour, key_id, why, number) for (key_id, why), number in self._dropped.items()],
        )
        del self._records[:count]
        self._bytes -= size
        self._sums.clear()
        self._dropped.clear()
        return batch


def _sum(hour: int, place: _Sum, sums: list[int]) -> ShadowSum:
    team_id, key_id, control, rule, verdict, word = place
    calls, expected, ceiling, cost, saved = sums
    return ShadowSum(
        hour=hour,
        team_id=team_id,
        key_id=key_id,
        control=control,
        rule=rule,
        verdict=verdict,  # type: ignore[arg-type]  # as the rule said it
        word=word,
        calls=calls,
        expected_pico=money(expected),
        ceiling_pico=money(ceiling),
        cost_pico=money(cost),
        saved_pico=money(saved),
    )
