"""History as lines for a replay: each attempt of the ledger, with what was recorded of its decision, in order.

Before its first attempt a key is told with its team and owner, as they are now; budgets and own prices come first. One
piece is read at a time, whatever the length of the history. Of secrets nothing is among it.
"""

from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from bursar.control.decisions import Decisions
from bursar.control.directory import Book, Directory
from bursar.control.usage import LedgerReader
from bursar.core.access_tokens import trust_plan
from bursar.core.decisions import Decision, Wanted, number
from bursar.core.directory import BudgetDef, Owner, PriceOverride, Team, TrustRule, VirtualKey
from bursar.core.replay import Past

_PIECE = 2_000
_REFUSED = 1_000
_RULE = trust_plan("")
_LAST_NS = 2**63 - 1


class Start(msgspec.Struct, frozen=True, tag="start", tag_field="is"):
    """What holds for all."""

    since_ns: int
    until_ns: int
    budgets: list[BudgetDef]
    prices: list[PriceOverride]


class Holder(msgspec.Struct, frozen=True, tag="key", tag_field="is"):
    key: VirtualKey
    team: Team
    owner: Owner


class Tried(msgspec.Struct, frozen=True, tag="past", tag_field="is"):
    past: Past


class End(msgspec.Struct, frozen=True, tag="end", tag_field="is"):
    """The history was told to its end. `left_out`: pieces of it in which more calls were refused than are told."""

    left_out: int


FeedLine = Start | Holder | Tried | End
_encode = msgspec.json.Encoder().encode


class ReplayFeed:
    def __init__(self, directory: Directory, ledger: LedgerReader, decisions: Decisions) -> None:
        self._directory = directory
        self._ledger = ledger
        self._decisions = decisions

    async def lines(self, since_ns: int, until_ns: int) -> AsyncIterator[bytes]:
        """JSON lines. Raises Refusal(ledger_unreadable | decisions_unavailable)."""
        book, known, left_out = self._directory.book, set[str](), 0
        yield _line(Start(since_ns, until_ns, book.all(BudgetDef), book.all(PriceOverride)))
        after, reached = 0, since_ns
        while True:
            rows = await self._ledger.history(since_ns, until_ns, after, _PIECE)
            last = max((past.t_ns for _, past in rows), default=until_ns - 1) if len(rows) == _PIECE else until_ns - 1
            refused, more = await self._refused(reached, last + 1)
            left_out += more
            recorded = {it.request_id: it for it in await self._decisions.of_requests([p.request_id for _, p in rows])}
            pasts = [_with_call(past, recorded.get(past.request_id)) for _, past in rows] + refused
            pasts.sort(key=lambda past: past.t_ns)
            yield b"".join(_told(book, pasts, known))
            if len(rows) < _PIECE:
                break
            after, reached = rows[-1][0], last + 1
        yield _line(End(left_out))

    async def _refused(self, since_ns: int, until_ns: int) -> tuple[list[Past], int]:
        """Calls that were refused in a piece of the span, and how many were too many to be told."""
        wanted = Wanted(since_ns=since_ns, until_ns=until_ns, ordinary=False)
        found = await self._decisions.page(wanted, _LAST_NS, _REFUSED)
        pasts = [_refused(decision) for _, decision in found if decision.outcome == "refused" and decision.key_id]
        return pasts, 1 if len(found) == _REFUSED else 0


def _told(book: Book, pasts: Sequence[Past], known: set[str]) -> Iterator[bytes]:
    for past in pasts:
        if past.key_id not in known:
            known.add(past.key_id)
            holder = _holder(book, past.key_id)
            if holder is not None:
                yield _line(holder)
        yield _line(Tried(past))


def _holder(book: Book, key_id: str) -> Holder | None:
    key = book.find(VirtualKey, key_id)
    if key is None and key_id.startswith(_RULE):
        rule = book.find(TrustRule, key_id.removeprefix(_RULE))
        if rule is not None:
            key = VirtualKey(id=key_id, name=rule.id, team_id=rule.team_id, secrets=(), policy=rule.policy)
    team = None if key is None else book.find(Team, key.team_id)
    owner = None if team is None else book.find(Owner, team.owner_id)
    if key is None or team is None or owner is None:
        return None
    return Holder(replace(key, secrets=()), team, replace(owner, contacts=()))


def _with_call(past: Past, decision: Decision | None) -> Past:
    if decision is None or decision.call is None:
        return past
    return replace(past, call=decision.call, expected=number(decision.expected_pico))


def _refused(decision: Decision) -> Past:
    return Past(
        t_ns=decision.at_ns,
        ended_ns=decision.at_ns,
        request_id=decision.request_id,
        attempt=0,
        key_id=decision.key_id,
        team_id=decision.team_id,
        user=decision.user,
        provider=decision.provider,
        model=decision.model or (decision.call.model if decision.call is not None else ""),
        price_id=decision.price_id,
        expected=number(decision.expected_pico),
        call=decision.call,
    )


def _line(line: FeedLine) -> bytes:
    return _encode(line) + b"\n"
