"""What the ledger knows of one request, and who holds money right now: for explanations."""

from collections.abc import Iterable

import msgspec


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a request as the ledger has it. Amounts are pico-USD."""

    hold_id: int
    attempt: int
    t_ns: int  # when it was held
    key_id: str
    team_id: str
    owner_id: str
    user: str
    provider: str
    model: str
    secret_id: str
    price_id: str
    credential: str = ""
    state: str  # HELD, POSTED, VOIDED
    held_pico: int  # on hard budgets, as last lowered
    cost_pico: int | None = None  # None = not posted
    overage_pico: int = 0
    corrected_pico: int = 0  # what was learned later, on top of the cost
    settled_ns: int | None = None
    exact: bool | None = None  # by the provider's own usage
    outcome: str = ""  # how it ended, or why it was voided
    input_tokens: int | None = None
    output_tokens: int | None = None


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """One open hold."""

    request_id: str
    key_id: str
    team_id: str
    user: str
    model: str
    t_ns: int
    amount_pico: int


class KeyHolding(msgspec.Struct, frozen=True, kw_only=True):
    """What one key holds."""

    key_id: str
    calls: int
    amount_pico: int
    oldest_ns: int


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds what: all of it in numbers, the keys that hold the most, the calls that hold the longest."""

    calls: int
    amount_pico: int
    keys: tuple[KeyHolding, ...]
    oldest: tuple[Holder, ...]


def gather(holders: Iterable[Holder], most_keys: int = 20, most_calls: int = 10) -> Holding:
    """Sums by key, the largest first."""
    found = sorted(holders, key=lambda holder: holder.t_ns)
    by_key: dict[str, list[Holder]] = {}
    for holder in found:
        by_key.setdefault(holder.key_id, []).append(holder)
    keys = [
        KeyHolding(key_id=key_id, calls=len(of), amount_pico=sum(h.amount_pico for h in of), oldest_ns=of[0].t_ns)
        for key_id, of in by_key.items()
    ]
    keys.sort(key=lambda key: (-key.amount_pico, -key.calls, key.key_id))
    return Holding(
        calls=len(found),
        amount_pico=sum(holder.amount_pico for holder in found),
        keys=tuple(keys[:most_keys]),
        oldest=tuple(found[:most_calls]),
    )
