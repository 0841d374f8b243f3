"""The two accounts of one data folder, side by side: Bursar's ledger and the emulator's own bill."""

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from bursar.control import verify_ledger
from bursar.core.prices import Price
from bursar.providers.emulator import Charge, read_bill
from bursar.stores.catalogue import load as load_catalogue
from bursar.stores.journal_segment import JournalDamaged
from bursar.stores.projection import Projection

TABLE = load_catalogue()
_OPENAI = ("chat", "completions", "embeddings", "responses")
PROVIDERS = {**dict.fromkeys(_OPENAI, "openai"), "messages": "anthropic"}


class Attempt(NamedTuple):
    """One dispatch as the ledger has it. Amounts are pico-USD."""

    hold_id: int
    key_id: str
    model: str
    state: str
    held: int
    cost: int
    overage: int
    exact: bool
    outcome: str
    input_tokens: int
    output_tokens: int
    price_id: str
    attempt: int
    t_ns: int


_COLUMNS = (
    "hold_id, key_id, model, state, held, coalesce(cost, 0), coalesce(overage, 0), coalesce(exact, 0),"
    " coalesce(outcome, ''), coalesce(input_tokens, 0), coalesce(output_tokens, 0), price_id, attempt, t_ns"
)


def price_row(charge: Charge) -> Price:
    price = TABLE.find(PROVIDERS[charge.route], charge.model, charge.t)
    assert price is not None, charge.model
    return price


def price_of(charge: Charge, price: Price | None = None) -> int:
    """What a charge costs in pico-USD by the price table: an arithmetic of its own, for models of one band."""
    price = price or price_row(charge)
    (band,) = price.tiers.get("batch", price.bands) if charge.tier == "batch" else price.bands
    written = charge.cache_write_5m + charge.cache_write_1h
    plain = charge.input - charge.cached - written
    return (
        plain * band.input
        + charge.cached * band.cache_read
        + charge.cache_write_5m * band.cache_write_5m
        + charge.cache_write_1h * band.cache_write_1h
        + (charge.output - charge.reasoning) * band.output
        + charge.reasoning * band.reasoning
        + charge.searches * price.tools.get("web_search", 0)
        + price.request_fee
    )


def until(condition: Callable[[], object], seconds: float = 30.0, told: str = "") -> None:
    """Poll until it holds; the failure tells what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {told or condition}"
        time.sleep(0.01)


class Books:
    """`data`: Bursar's data folder; the bill lies where the supervisor has the emulator write it."""

    def __init__(self, data: Path) -> None:
        self.journal = data / "journal"
        self.database = data / "ledger.db"
        self.bill_path = data / "emulator" / "bill.jsonl"
        self._folder = tempfile.TemporaryDirectory()  # of a projection of our own

    def charges(self, inputs: Iterable[int] = (), after: int = 0) -> list[Charge]:
        """The bill from its line `after` on, or those of its charges that count so many input tokens."""
        wanted = set(inputs)
        return [charge for charge in read_bill(self.bill_path)[after:] if not wanted or charge.input in wanted]

    def proven(self, start: int = 0) -> verify_ledger.Report:
        """The raw journal, replayed by the independent reader from a segment on: nothing may be wrong with it."""
        report = verify_ledger.verify(self.journal, start=start)
        assert report.ok, report.problem
        return report

    def attempts(self, key_id: str = "", after: int = 0) -> list[Attempt]:
        """Every dispatch whose hold's id is above `after`, by the raw journal as it is on disk now."""
        database = Path(self._folder.name) / "ledger.db"
        while True:
            try:
                with contextlib.closing(Projection(self.journal, database)) as projection:
                    while projection.catch_up():
                        pass
                return read_attempts(database, key_id, after)
            except (JournalDamaged, FileNotFoundError):
                time.sleep(0.01)  # caught in the middle of a rotation

    def projected(self, key_id: str = "") -> list[Attempt]:
        """Every dispatch as control's own ledger.db has it."""
        return read_attempts(self.database, key_id)

    def settled(self, key_id: str, count: int = 1, seconds: float = 30.0) -> list[Attempt]:
        """The attempts of a key once there are `count` and none is open."""
        found: list[Attempt] = []

        def done() -> bool:
            found[:] = self.attempts(key_id)
            return len(found) >= count and all(row.state != "HELD" for row in found)

        until(done, seconds, f"{count} settled attempts of {key_id}")
        return found

    def billed(self, inputs: Iterable[int], count: int = 1, seconds: float = 30.0) -> list[Charge]:
        """The charges with these input tokens, once there are `count`: an abandoned call is billed a little later."""
        inputs = list(inputs)
        until(lambda: len(self.charges(inputs)) >= count, seconds, f"{count} charges with {inputs[:3]} input tokens")
        return self.charges(inputs)


def read_attempts(database: Path, key_id: str = "", after: int = 0) -> list[Attempt]:
    wanted = f"SELECT {_COLUMNS} FROM attempts WHERE hold_id > ? AND ? IN ('', key_id) ORDER BY hold_id"
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        rows = db.execute(wanted, (after, key_id)).fetchall()
    return [Attempt(*row)._replace(exact=bool(row[7])) for row in rows]


def covers(attempts: Iterable[Attempt], charges: Iterable[Charge]) -> None:
    """The invariant: each charge is in the ledger; to the pico where usage was exact, never for less where not.

    A hold that is open counts as it is held. Calls are told apart by their input tokens, which no two of a test share.
    """
    posted = [row._replace(cost=row.held) if row.state == "HELD" else row for row in attempts if row.state != "VOIDED"]
    exact = {row.input_tokens: row for row in posted if row.exact}
    others = []
    for charge in charges:
        row = exact.get(charge.input)
        if row is None:
            others.append(charge)
        else:
            assert row.cost == price_of(charge), (row, charge)
    inexact = [row for row in posted if not row.exact]
    assert len(others) <= len(inexact), f"{len(others)} charges for {len(inexact)} attempts without usage"
    asked = sum(price_of(charge) for charge in others)
    booked = sum(row.cost for row in inexact)
    assert booked >= asked, f"billed {asked} for {len(others)} calls, booked {booked} for {len(inexact)}: {others[:3]}"
