"""Writing back what `core.ledger` has decided on locked budgets: the records, and the state they lead to."""

from collections.abc import Sequence

import msgspec

from bursar.core.ledger import Ledger, LedgerEvent
from bursar.core.ledger_budget import Budget
from bursar.core.ledger_records import BudgetImage, CorrectRecord, DefineRecord, Record, RowImage, WindowRecord
from bursar.stores.postgres import Connection, Postgres

_encode = msgspec.json.Encoder().encode

_NEW = """INSERT INTO bursar.ledger_budget (version, "limit", hard, enforced, tracked, marks, next_mark)
    SELECT u.version, u.most::numeric, u.hard, u.enforced, u.tracked, u.marks::numeric[], u.mark::numeric
    FROM unnest($1::bigint[], $2::text[], $3::boolean[], $4::boolean[], $5::boolean[], $6::text[], $7::text[])
        WITH ORDINALITY AS u(version, most, hard, enforced, tracked, marks, mark, place)
    ORDER BY u.place RETURNING no"""
_DEFINE = """INSERT INTO bursar.ledger_definition (budget, id, body)
    SELECT * FROM unnest($1::integer[], $2::text[], $3::jsonb[])
    ON CONFLICT (budget) DO UPDATE SET body = excluded.body"""
_STATE = """UPDATE bursar.ledger_budget SET version = $2, "limit" = $3::text::numeric, hard = $4, enforced = $5,
    tracked = $6, marks = $7::text::numeric[], next_mark = $8::text::numeric, floor = $9, last_number = $10,
    number = $11, start_ns = $12, end_ns = $13, posted = $14::text::numeric, held = $15::text::numeric,
    overage = $16::text::numeric,
    closed = $17, other_posted = $18::text::numeric, other_held = $19::text::numeric, other_closed = $20
    WHERE no = $1"""
_FORGET = "DELETE FROM bursar.ledger_window WHERE budget = $1 AND number = ANY($2)"
_WINDOW = """INSERT INTO bursar.ledger_window (budget, number, start_ns, end_ns, posted, held, overage, closed, retired,
        counted)
    VALUES ($1, $2, $3, $4, $5::text::numeric, $6::text::numeric, $7::text::numeric, $8, $9, $10)
    ON CONFLICT (budget, number) DO UPDATE SET end_ns = excluded.end_ns, posted = excluded.posted, held = excluded.held,
        overage = excluded.overage, closed = excluded.closed, retired = excluded.retired, counted = excluded.counted"""
_RECORD = """INSERT INTO bursar.ledger (seq, t_ns, kind, body) VALUES (nextval('bursar.ledger_seq'), $1, $2, $3)"""
_CORRECT = """INSERT INTO bursar.ledger (seq, t_ns, kind, hold_id, amount, word, legs)
    VALUES (nextval('bursar.ledger_seq'), $1, 8, $2, $3, $4, $5)"""
_TELL = "INSERT INTO bursar.ledger_event (t_ns, told) VALUES ($1, $2)"


async def write_back(
    store: Postgres,
    db: Connection,
    ledger: Ledger,
    records: Sequence[Record],
    before: dict[str, BudgetImage],
    numbers: dict[str, int],
) -> dict[str, int]:
    """`before` has the budgets as they were loaded; those that are not in it are new. All their numbers by id."""
    fresh = [budget for name, budget in ledger.budgets.items() if name not in before]
    if fresh:
        made = await db.fetch(store.sql(_NEW), *zip(*(_flags(budget) for budget in fresh), strict=True))
        numbers = numbers | {b.definition.id: row["no"] for b, row in zip(fresh, made, strict=True)}
    await write_definitions(store, db, [record for record in records if isinstance(record, DefineRecord)], numbers)
    changed = [
        (numbers[name], budget, before.get(name), image)
        for name, budget in ledger.budgets.items()
        if (image := budget.image()) != before.get(name) and (name in before or image.rows)
    ]
    if changed:
        await db.executemany(store.sql(_STATE), [(no, *_state(budget)) for no, budget, _, _ in changed])
        await _write_windows(store, db, [(no, old, new) for no, _, old, new in changed])
    await _write_records(store, db, records, numbers)
    return numbers


async def write_told(
    store: Postgres, db: Connection, events: Sequence[LedgerEvent], correction: CorrectRecord, numbers: dict[str, int]
) -> None:
    """What owners are told of a correction, as an act would report it (`postgres_money_events`)."""
    told = []
    for event in events:
        amounts = {"amount": event.amount_pico, "posted": event.posted_pico, "held": event.held_pico}
        facts = {"kind": event.kind, "budget": numbers[event.budget_id], "hold": correction.id}
        told.append((correction.t, _encode(facts | {name: str(amount) for name, amount in amounts.items()}).decode()))
    if told:
        await db.executemany(store.sql(_TELL), told)


async def write_definitions(
    store: Postgres, db: Connection, records: Sequence[DefineRecord], numbers: dict[str, int]
) -> None:
    """The newest of each budget."""
    newest = {record.id: record for record in records}
    if newest:
        bodies = [_encode(record).decode() for record in newest.values()]
        await db.execute(store.sql(_DEFINE), [numbers[name] for name in newest], list(newest), bodies)


def _flags(budget: Budget) -> tuple[object, ...]:
    """Version to next mark: what a definition alone says, and where the next mark is."""
    marks = sorted({mark for mark, _ in budget.marks})
    flags = str(budget.limit), budget.hard, budget.enforced, budget.tracked, f"{{{','.join(map(str, marks))}}}"
    return (budget.definition.version, *flags, None if budget.next_mark is None else str(budget.next_mark))


def _state(budget: Budget) -> tuple[object, ...]:
    current = budget.row if budget.end else None
    others = [row for row in budget.rows.values() if row.counted and row is not current]
    window: tuple[object, ...] = (0, 0, 0, "0", "0", "0", False)
    if current is not None:
        sums = str(current.posted), str(current.held), str(current.overage)
        window = (current.number, current.start, current.end, *sums, current.closed)
    return (
        *_flags(budget),
        budget.floor,
        budget.last_number,
        *window,
        str(sum(row.posted for row in others)),
        str(sum(row.held for row in others)),
        any(row.closed for row in others),
    )


async def _write_windows(
    store: Postgres, db: Connection, changes: Sequence[tuple[int, BudgetImage | None, BudgetImage]]
) -> None:
    """The current window lies in the budget's row, the others here."""
    gone, changed = list[tuple[int, list[int]]](), list[tuple[object, ...]]()
    for no, old, new in changes:
        was, now = _others(old), _others(new)
        if over := [number for number in was if number not in now]:
            gone.append((no, over))
        changed += [(no, *_written(row)) for number, row in now.items() if was.get(number) != row]
    if gone:
        await db.executemany(store.sql(_FORGET), gone)
    if changed:
        await db.executemany(store.sql(_WINDOW), changed)


def _others(image: BudgetImage | None) -> dict[int, RowImage]:
    return {} if image is None else {row.number: row for row in image.rows if row.number != image.current}


def _written(row: RowImage) -> tuple[object, ...]:
    sums = str(row.posted), str(row.held), str(row.overage)
    return (row.number, row.start, row.end, *sums, row.closed, row.retired, row.counted)


async def _write_records(store: Postgres, db: Connection, records: Sequence[Record], numbers: dict[str, int]) -> None:
    plain = []
    for record in records:
        if isinstance(record, CorrectRecord):
            legs = [
                n for name, version, window, hard in record.legs for n in (numbers[name], version, window, int(hard))
            ]
            await db.execute(store.sql(_CORRECT), record.t, record.id, record.pair[0], record.reason, legs)
        elif isinstance(record, DefineRecord | WindowRecord):
            plain.append((record.t, 2 if isinstance(record, DefineRecord) else 3, _encode(record).decode()))
    if plain:
        await db.executemany(store.sql(_RECORD), plain)
