"""The verifier: it passes what was written, and names the first record of anything that was done to it since."""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.control.audit_notary import Signer
from bursar.control.verify_audit import Report, verify_database, verify_file
from bursar.core.audit import GENESIS, Checkpoint, Event, chain_hash, encode_checkpoint, encode_record, frame
from bursar.core.audit import frame_checkpoint as framed
from bursar.core.secret import Secret

Desk = Any  # tests/control/conftest.py


class Written(NamedTuple):
    """An audit as it stands: 11 records, the last one a checkpoint of the one before it."""

    file: Path
    db: Path
    checkpoints: Path
    signer: Signer

    def check(self) -> Report:
        return verify_file(self.file, self.checkpoints, self.signer.public_key)

    def lines(self) -> list[bytes]:
        return self.file.read_bytes().splitlines(keepends=True)

    def rewrite(self, lines: list[bytes]) -> Report:
        self.file.write_bytes(b"".join(lines))
        return self.check()


@pytest.fixture
async def written(desk: Desk) -> Written:
    log = desk.open()
    for n in range(6):
        await log.append("admin", "key.create", f"key/{n}", {"number": n, "note": "nötig"})
    await log.checkpoint()
    await log.append("node:a", "secret.release", "secret/a", {"version": 1}, "refused")
    await log.close()
    return Written(desk.file, desk.db, desk.checkpoints, desk.signer)


def test_what_was_written_passes(written: Written) -> None:
    for found in (written.check(), verify_database(written.db, written.checkpoints, written.signer.public_key)):
        assert found == Report(11, 0, 4, 10, (written.signer.public_key,), None, "")
    assert verify_file(written.file).fault == ""


def test_every_flipped_byte_is_named_by_its_record(written: Written) -> None:
    """Every byte of the file, line ends included."""
    whole = written.file.read_bytes()
    record = 1
    for at, byte in enumerate(whole):
        written.file.write_bytes(whole[:at] + bytes([byte ^ (0x20 if at % 2 else 0x01)]) + whole[at + 1 :])
        found = written.check()
        assert (found.broken, bool(found.fault)) == (record, True), (at, found)
        record += byte == 0x0A


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_deleted_doubled_and_moved_records_are_named(written: Written, data: st.DataObject) -> None:
    lines = written.lines()
    at = data.draw(st.integers(0, len(lines) - 2))
    to = data.draw(st.integers(0, len(lines) - 1).filter(lambda to: to != at))
    moved = lines[:at] + lines[at + 1 :]
    moved.insert(to, lines[at])
    try:
        assert written.rewrite(lines[:at] + lines[at + 1 :]).broken == at + 1
        assert written.rewrite([*lines[: at + 1], *lines[at:]]).broken == at + 2
        assert written.rewrite(moved).broken == min(at, to) + 1
    finally:
        written.rewrite(lines)


def test_a_cut_end_is_noticed_by_the_checkpoint_in_the_second_place(written: Written) -> None:
    lines = written.lines()
    assert written.rewrite(lines[:-1]).fault == ""  # the last record is later than the last checkpoint
    found = written.rewrite(lines[:-2])
    assert (found.broken, "missing" in found.fault) == (10, True)
    written.file.write_bytes(b"".join(lines[:-2]))
    assert verify_file(written.file).fault == ""  # without the second place nothing tells
    assert written.rewrite([]).broken == 1


def test_a_cut_line_is_named(written: Written) -> None:
    whole = written.file.read_bytes()
    for cut in range(1, len(written.lines()[-1])):
        written.file.write_bytes(whole[:-cut])
        assert written.check().broken == 11


def rechained(lines: list[bytes], change: Callable[[int, dict[str, Any]], None]) -> list[bytes]:
    """The chain as somebody forges it who knows the format: records changed, every hash computed anew."""
    last, out = GENESIS, []
    for line in lines:
        record = json.loads(line)["record"]
        change(record["seq"], record)
        payload = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
        last = chain_hash(last, payload)
        out.append(frame(last, payload) + b"\n")
    return out


def test_a_chain_forged_anew_is_noticed_by_its_checkpoints(written: Written) -> None:
    def change(seq: int, record: dict[str, Any]) -> None:
        if seq == 4:
            record["actor"] = "somebody else"

    lines = written.lines()
    assert written.rewrite(rechained(lines, lambda *_: None)).fault == ""  # the forger's tool works
    found = written.rewrite(rechained(lines, change))
    assert found.fault == "records 1 to 7 were rewritten: the checkpoint has seen another chain"
    assert found.broken == 7
    assert verify_file(written.file).broken == 7  # the checkpoint inside the chain notices by itself


def test_a_chain_forged_around_a_gap_or_with_a_second_record_is_named(written: Written) -> None:
    lines = written.lines()
    written.file.write_bytes(b"".join(rechained(lines[:2] + lines[3:5], lambda *_: None)))
    found = verify_file(written.file)
    assert (found.broken, found.fault) == (3, "record 3 is missing: record 4 stands in its place")
    written.file.write_bytes(b"".join(rechained(lines[:2] + lines[1:5], lambda *_: None)))
    assert verify_file(written.file).broken == 3


def test_checkpoints_by_another_key_are_noticed_if_the_key_is_known(written: Written) -> None:
    """The forger signs everything anew with a key of his own."""
    forger = Signer(Secret(os.urandom(32).hex()))
    last, lines, kept = GENESIS, [], []
    for line in written.lines():
        record = json.loads(line)["record"]
        facts = record["facts"]
        if record["action"] == "audit.start":
            facts["public_key"] = forger.public_key
        if record["action"] == "audit.checkpoint":
            seq = json.loads(facts["checkpoint"])["seq"]
            stood = bytes.fromhex(json.loads(lines[seq - 1])["hash"])
            inner = encode_checkpoint(
                Checkpoint(seq=seq, hash=stood.hex(), at_ns=record["at_ns"], public_key=forger.public_key)
            )
            facts |= {"checkpoint": inner.decode(), "signature": forger.sign(inner).hex()}
            kept.append(framed(forger.sign(inner), inner) + b"\n")
        event = Event(actor=record["actor"], action=record["action"], target=record["target"], facts=facts)
        payload = encode_record(record["seq"], record["at_ns"], event)
        last = chain_hash(last, payload)
        lines.append(frame(last, payload) + b"\n")
    written.checkpoints.write_bytes(b"".join(kept))
    found = written.rewrite(lines)
    assert "unknown key" in found.fault
    assert forger.public_key in verify_file(written.file, written.checkpoints).public_keys  # as the module warns


def test_every_flipped_byte_of_the_checkpoints_is_noticed(written: Written) -> None:
    whole = written.checkpoints.read_bytes()
    for at, byte in enumerate(whole):
        written.checkpoints.write_bytes(whole[:at] + bytes([byte ^ 1]) + whole[at + 1 :])
        assert written.check().fault, at


@given(st.binary(max_size=300))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_without_a_fault(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "noise"
    for content in (noise, b'{"hash":"' + b"0" * 64 + b'","record":' + noise + b"}\n"):
        path.write_bytes(content)
        found = verify_file(path)
        assert (found.broken, found.records) == (None if not content else 1, 0)
    path.write_bytes(noise + b"\n")
    assert verify_file(path, path).broken == 0


@pytest.mark.parametrize(
    "record",
    [
        "1",
        "[]",
        "{}",
        '{"seq":true,"at_ns":1,"actor":"a","action":"b","target":"c","outcome":"allowed","facts":{}}',
        '{"seq":1,"seq":1,"at_ns":1,"actor":"a","action":"b","target":"c","outcome":"allowed","facts":{}}',
        '{"seq":1,"at_ns":1,"actor":"a","action":"b","target":"c","outcome":"allowed","facts":{},"more":1}',
        "[" * 5000,
    ],
)
def test_a_record_of_another_form_is_refused_though_it_hashes(tmp_path: Path, record: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(frame(chain_hash(GENESIS, record.encode()), record.encode()) + b"\n")
    assert verify_file(path).broken == 1


# ---- the database ----------------------------------------------------------------------------------------------------


def edited(written: Written, *statements: str) -> Report:
    with closing(sqlite3.connect(written.db)) as database:
        for trigger in ("record_stays", "record_remains"):
            database.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements:
            assert database.execute(statement).rowcount != 0
        database.commit()
    return verify_database(written.db, written.checkpoints, written.signer.public_key)


@pytest.mark.parametrize("column", ["at_ns", "actor", "action", "target", "outcome"])
def test_a_changed_column_is_named(written: Written, column: str) -> None:
    found = edited(written, f"UPDATE record SET {column} = '7' WHERE seq = 5")
    assert (found.broken, "columns" in found.fault) == (5, True)


def test_changed_deleted_and_inserted_rows_are_named(written: Written) -> None:
    change = "UPDATE record SET payload = CAST(replace(payload, 'admin', 'nimda') AS BLOB) WHERE seq = 4"
    assert edited(written, change).broken == 4
    assert edited(written, "DELETE FROM record WHERE seq = 3").broken == 3
    assert (
        edited(
            written,
            "INSERT INTO record SELECT 3, at_ns, actor, action, target, outcome, hash, payload "
            "FROM record WHERE seq = 2",
        ).broken
        == 3
    )


def test_the_table_itself_refuses_slips(written: Written) -> None:
    with closing(sqlite3.connect(written.db)) as database:
        for statement in ("DELETE FROM record", "UPDATE record SET actor = 'x'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)


def test_the_verifier_shares_no_code_with_the_writer() -> None:
    source = Path(__file__).parents[2].joinpath("bursar/control/verify_audit.py").read_text()
    assert "import bursar" not in source
    assert "from bursar" not in source
