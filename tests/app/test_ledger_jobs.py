"""`bursar store migrate` and `bursar ledger verify` against a real database, as an operator calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bursar.faces.cli_terminal import NOT_VERIFIED, OK, REFUSED, USAGE
from bursar.stores.journal_segment import take_lock
from tests.postgres import PostgresServer
from tests.stores.test_money_moving import spent


class Operator:
    """One data folder, and a configuration that names a database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.data = folder / "data"
        self.config = folder / "bursar.yaml"
        self.config.write_text(f"store: {{kind: postgres, url: '{url}'}}\ndata: {self.data}\n")

    def __call__(self, *arguments: str, code: int = OK) -> dict[str, Any]:
        command = [sys.executable, "-m", "bursar.app.main", *arguments, "--json", "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, (done.stdout, done.stderr)
        return dict(json.loads(done.stdout or done.stderr))


@pytest.fixture
def operator(tmp_path: Path, database: str) -> Operator:
    return Operator(tmp_path, database)


def test_the_ledger_is_moved_there_and_back_and_proven_on_each_side(operator: Operator) -> None:
    spent(operator.data / "journal")
    moved = operator("store", "migrate", "--from", "embedded", "--to", "postgres")
    assert (moved["ok"], moved["holds"], moved["open"]) == (True, 40, 1)
    proven = operator("ledger", "verify")
    assert (proven["holds"], proven["voided"], proven["open"]) == (40, 10, 1)
    assert "posted" in proven["budget b"]
    again = operator("store", "migrate", "--from", "embedded", "--to", "postgres", code=NOT_VERIFIED)
    assert "already" in again["problem"]
    (operator.data / "journal").rename(operator.data / "before")
    back = operator("store", "migrate", "--from", "postgres", "--to", "embedded")
    assert back["moved"] == moved["moved"]


def test_a_row_that_was_tampered_with_is_named(
    operator: Operator, postgres_server: PostgresServer, database: str
) -> None:
    spent(operator.data / "journal")
    operator("store", "migrate", "--from", "embedded", "--to", "postgres")
    name = database.rpartition("/")[2]
    place = "seq = (SELECT min(seq) FROM bursar.ledger WHERE kind = 6)"
    row = postgres_server.psql(f"SELECT min(seq) FROM bursar.ledger WHERE {place}", name)
    postgres_server.psql("ALTER TABLE bursar.ledger DISABLE TRIGGER only_grows", name)
    postgres_server.psql(f"UPDATE bursar.ledger SET amount = amount + 1000 WHERE {place}", name)
    told = operator("ledger", "verify", code=NOT_VERIFIED)
    assert told["problem"].startswith(f"row {row}: ")
    (operator.data / "journal").rename(operator.data / "before")
    refused = operator("store", "migrate", "--from", "postgres", "--to", "embedded", code=NOT_VERIFIED)
    assert "not proven" in refused["problem"]
    assert not list((operator.data / "journal").glob("*.log"))


def test_a_balance_that_was_tampered_with_is_seen(
    operator: Operator, postgres_server: PostgresServer, database: str
) -> None:
    spent(operator.data / "journal")
    operator("store", "migrate", "--from", "embedded", "--to", "postgres")
    postgres_server.psql("UPDATE bursar.ledger_budget SET posted = 0", database.rpartition("/")[2])
    told = operator("ledger", "verify", code=NOT_VERIFIED)
    assert "budget 'b'" in told["problem"]


def test_a_journal_that_is_not_whole_or_in_use_is_not_moved(operator: Operator) -> None:
    spent(operator.data / "journal")
    lock = take_lock(operator.data / "journal")
    told = operator("store", "migrate", "--from", "embedded", "--to", "postgres", code=NOT_VERIFIED)
    assert "running" in told["problem"]

    os.close(lock)
    first = operator.data / "journal/journal-00000001.log"
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    told = operator("store", "migrate", "--from", "embedded", "--to", "postgres", code=NOT_VERIFIED)
    assert "not proven" in told["problem"]


def test_what_cannot_be_moved_is_told(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "postgresql://nobody@127.0.0.1:1/none")
    assert "same" in str(operator("store", "migrate", "--from", "postgres", "--to", "postgres", code=USAGE))
    told = operator("ledger", "verify", code=NOT_VERIFIED)
    assert "cannot be reached" in told["problem"]
    operator.config.write_text("{}")
    assert "names no PostgreSQL" in str(
        operator("store", "migrate", "--from", "embedded", "--to", "postgres", code=REFUSED)
    )
