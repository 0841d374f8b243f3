"""Questions to `audit.db`: a page of records, or all of them one by one. Read-only connections, beside the writer's."""

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bursar.core.audit import Run, Wanted, decode_record, frame, frame_pruned

_COLUMNS = ("actor", "action", "target")
_ROWS_AT_ONCE = 1000


def page(database: sqlite3.Connection, wanted: Wanted, before: int, limit: int) -> list[bytes]:
    """Up to `limit` lines of records older than number `before`, the newest first."""
    where, values = _where(wanted)
    sql = f"SELECT hash, payload FROM record WHERE seq < ? AND {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - our own words
    return [frame(record_hash, payload) for record_hash, payload in database.execute(sql, (before, *values, limit))]


def every(path: Path, wanted: Wanted) -> Iterator[tuple[bytes, bytes]]:
    """(hash, payload) of every record that matches, the oldest first; memory stays flat. Raises sqlite3.Error."""
    where, values = _where(wanted)
    sql = f"SELECT seq, hash, payload FROM record WHERE seq > ? AND {where} ORDER BY seq LIMIT {_ROWS_AT_ONCE}"  # noqa: S608
    with closing(connect(path)) as database:
        (last,) = database.execute("SELECT coalesce(max(seq), 0) FROM record").fetchone()
        seq = 0
        while rows := database.execute(sql, (seq, *values)).fetchall():  # piece by piece: no reader holds up the log
            for seq, record_hash, payload in rows:
                if seq > last:
                    return
                yield record_hash, payload


def every_line(path: Path) -> Iterator[bytes]:
    """The whole chain, with the runs that retention took away in their places: it proves by itself."""
    with closing(connect(path)) as database:
        sql = "SELECT first, last, hash, pass FROM pruned ORDER BY first"
        runs = deque(database.execute(sql).fetchall())
    for record_hash, payload in every(path, Wanted()):
        seq = decode_record(payload).seq if runs else 0
        while runs and runs[0][0] < seq:
            first, last, last_hash, digest = runs.popleft()
            yield frame_pruned(Run(first, last, last_hash), digest)
        yield frame(record_hash, payload)


def connect(path: Path) -> sqlite3.Connection:
    """For reading only; the file may be written meanwhile."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5)


def _where(wanted: Wanted) -> tuple[str, list[str | int]]:
    """The condition in SQL and its values."""
    parts, values = ["at_ns >= ? AND at_ns < ?"], [wanted.since_ns, wanted.until_ns]
    found: list[str | int] = [*values]
    for column in _COLUMNS:
        text: str = getattr(wanted, column)
        if "*" in text:
            parts.append(f"{column} GLOB ?")
            found.append(text.replace("[", "[[]").replace("?", "[?]"))
        elif text:
            parts.append(f"{column} = ?")
            found.append(text)
    if wanted.outcome:
        parts.append("outcome = ?")
        found.append(wanted.outcome)
    return " AND ".join(parts), found
