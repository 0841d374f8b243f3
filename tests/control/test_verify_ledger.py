"""The independent reader accepts what the journal writes and names the first record of anything else.

The forged journals are framed by hand: what the writer would never write must not get past the reader.
"""

import ast
import struct
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.control import verify_ledger, verify_ledger_replay, verify_ledger_windows
from bursar.control.verify_ledger import verify
from bursar.core.directory import WindowDef
from bursar.stores.journal import Journal
from tests.stores.journal_kit import NOON, FakeClock, asking, budget, settled

MONTH = (1793491200 * 10**9, 1796083200 * 10**9)  # November 2026, UTC
WINDOW = {"kind": "calendar", "period": "month", "zone": "UTC", "week_start": 0, "seconds": 0}
REQUEST = ["r", 1, "k", "t", "o", "", "p", "m", "s", "p/m@1", "d", 1, 40, 40, 1, 1, ["b"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several segments with everything in them, the last hold open."""
    folder = tmp_path_factory.mktemp("whole")
    clock = FakeClock()
    journal = Journal.open(folder, clock, segment_bytes=4000)
    journal.define(budget(5000, thresholds=()))
    journal.define(budget(5000, "hour", window=WindowDef(kind="rolling", seconds=3600)))
    journal.define(budget(5000, "day", window=WindowDef(period="day", zone="Europe/Berlin"), hard=False))
    for number in range(40):
        clock.advance(1800)
        hold = journal.hold_now(asking(40, "b", "hour", "day", expected=20, team_id=f"team-{number % 2}"))
        if number % 5 == 0:
            journal.shrink(hold.hold_id, 30)
        if number % 7 == 0:
            journal.void(hold.hold_id, "unsent")
        else:
            journal.post(hold.hold_id, settled(10 + number % 3))
        journal.flush()
    journal.post(journal.hold_now(asking(10)).hold_id, settled(25))
    journal.define(budget(6000, version=2, thresholds=()))
    journal.hold_now(asking(10))
    journal.flush()
    path = folder / "copy"
    path.mkdir()
    for segment in folder.glob("journal-*.log"):
        (path / segment.name).write_bytes(segment.read_bytes())
    journal.close()
    return path


def test_it_imports_nothing_of_what_it_checks():
    parts = (verify_ledger, verify_ledger_replay, verify_ledger_windows)
    for module in parts:
        tree = ast.parse(Path(module.__file__).read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name for name in names if name.startswith("bursar")} <= {part.__name__ for part in parts}


def test_a_whole_journal_is_proven_with_its_totals(whole):
    seen = []
    report = verify(whole, lambda *progress: seen.append(progress))
    assert report.ok
    assert report.torn is None
    assert (report.counts.holds, report.counts.voided, report.open_holds) == (42, 6, 1)
    totals = {total.id: total for total in report.budgets}
    assert totals["b"].spent == sum(row.cost for row in report.spend)
    assert (totals["b"].overage, totals["b"].held, totals["b"].closed) == (15, 10, False)
    assert [(row.team, row.model) for row in report.spend] == [("t", "m"), ("team-0", "m"), ("team-1", "m")]
    assert seen[-1] == (report.last_segment, report.last_segment, report.records)
    assert msgspec.json.decode(msgspec.json.encode(report))["problem"] is None


def test_it_can_begin_at_a_later_segment(whole):
    for start in range(2, verify(whole).last_segment + 1):
        report = verify(whole, start=start)
        assert report.ok
        assert report.first_segment == start


def test_no_journal_is_an_error(tmp_path):
    with pytest.raises(ValueError):
        verify(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_byte_anywhere_is_named(whole, data):
    path = data.draw(st.sampled_from(sorted(whole.glob("journal-*.log"))))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    flip = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        report = verify(whole)
    finally:
        path.write_bytes(content)
    found = report.problem or report.torn
    assert found is not None
    assert found.segment == int(path.stem[-8:])
    assert found.offset <= place


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_shortened_segment_in_the_middle_is_named(whole, cut):
    path = whole / "journal-00000002.log"
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    report = verify(whole)
    path.write_bytes(content)
    assert report.problem is not None
    assert report.problem.segment in (2, 3)


def test_a_missing_segment_is_named(whole):
    path = whole / "journal-00000002.log"
    content = path.read_bytes()
    path.unlink()
    report = verify(whole)
    path.write_bytes(content)
    assert (report.problem.segment, report.problem.record) == (3, 0)


# ---- forged journals -----------------------------------------------------------------------------------------------


def forge(folder: Path, *records: list) -> Path:
    """One segment of these records, with right checksums."""
    head = struct.pack("<8sIQQ32s", b"BURSARJ1", 1, 1, 1, bytes(32))
    data = head + struct.pack("<I", zlib.crc32(head))
    for record in ([1, NOON, 1, [], []], *records):
        payload = msgspec.msgpack.encode(record)
        crc = zlib.crc32(payload, (0x9E3779B1 + len(data)) & 0xFFFFFFFF)
        data += struct.pack("<II", len(payload), crc) + payload
    (folder / "journal-00000001.log").write_bytes(data)
    return folder


def define(limit: int = 100, version: int = 1, t: int = NOON, window: dict = WINDOW, hard: bool = True) -> list:
    return [2, t, "b", version, limit, hard, "enforce", False, window, [], "", "team", "t"]


def window(number: int = 1, start: int = MONTH[0], end: int = MONTH[1], version: int = 1, t: int = NOON) -> list:
    return [3, t, "b", version, number, start, end]


def hold(hold_id: int, ceiling: int = 40, t: int = NOON, number: int = 1, version: int = 1, hard: bool = True) -> list:
    request = [*REQUEST[:12], ceiling, ceiling, *REQUEST[14:]]
    return [4, t, hold_id, [["b", version, number, hard]], request]


def post(hold_id: int, cost: int, held: int = 40) -> list:
    entries = [held, min(cost, held), max(0, held - cost), max(0, cost - held)]
    return [6, NOON, hold_id, cost, entries, [held, cost, held - cost], True, "ok", None]


BEGIN = (define(), window())
SOUND = {
    "a hold and its post": [hold(1), post(1, 40), hold(2), post(2, 10)],
    "overage": [hold(1), post(1, 300)],
    "a void": [hold(1, 100), [7, NOON, 1, [100, 100], "unsent"], hold(2, 100)],
    "a shrunk hold makes room": [hold(1, 100), [5, NOON, 1, 40, 60], hold(2, 60)],
    "a lowered limit": [hold(1, 90), define(50, 2), [7, NOON, 1, [90, 90], "unsent"], hold(2, 50, version=2)],
    "a correction beyond the limit": [hold(1), post(1, 40), [8, NOON, 1, [100, -100], "late", [["b", 1, 1, True]]]],
    "an id is left out": [hold(1), hold(7)],
    "a free call on a spent budget": [hold(1, 100), hold(2, 0)],
    "another window definition": [
        hold(1),
        define(100, 2, window=WINDOW | {"period": "year"}),
        window(2, 1767225600 * 10**9, 1798761600 * 10**9, version=2),
        hold(2, 60, number=2, version=2),
    ],
}
BAD = {
    "more than the limit": ([hold(1, 60), hold(2, 41)], "was passed"),
    "more than a lowered limit": ([hold(1, 60), define(60, 2), hold(2, 1, version=2)], "was passed"),
    "beside an overage": ([hold(1), post(1, 41), hold(2, 1)], "was passed"),
    "spent again after a shrink that released less": ([hold(1), [5, NOON, 1, 10, 40]], "shrunk"),
    "a shrink that raises": ([hold(1), [5, NOON, 1, 50, -10]], "shrunk"),
    "ended twice": ([hold(1), post(1, 1), post(1, 1)], "ended before"),
    "voided after its post": ([hold(1), post(1, 1), [7, NOON, 1, [40, 40], ""]], "ended before"),
    "ended but never held": ([post(1, 1)], "never made"),
    "an id again": ([hold(1), post(1, 1), hold(1)], "used before"),
    "a post that frees too much": ([hold(1), post(1, 10, held=60)], "sum to zero"),
    "a post whose cost is not its entries": ([hold(1), [*post(1, 10)[:3], 5, *post(1, 10)[4:]]], "sum to zero"),
    "a hidden overage": (
        [hold(1), [6, NOON, 1, 90, [40, 90, -50, 0], [40, 90, -50], True, "ok", None]],
        "impossible",
    ),
    "soft entries that do not sum": (
        [hold(1), [6, NOON, 1, 10, [40, 10, 30, 0], [40, 10, 40], True, "ok", None]],
        "soft legs",
    ),
    "a void that frees too much": ([hold(1), [7, NOON, 1, [100, 40], ""]], "release"),
    "a hold that dodges its budget": ([[4, NOON, 1, [], REQUEST]], "asked for"),
    "a hold in another window": ([hold(1, number=2)], "another window"),
    "a hold under another definition": ([hold(1, version=2)], "another window"),
    "a hard budget held as soft": ([hold(1, hard=False)], "another window"),
    "a window that was over": ([hold(1, t=MONTH[1])], "was over"),
    "a second window beside the first": ([window(2, MONTH[0] + 1, MONTH[1])], "overlaps"),
    "a window off its boundaries": (
        [define(100, 2, window=WINDOW | {"zone": "Europe/Berlin"}), window(2, version=2)],
        "boundaries",
    ),
    "a window of another time": ([window(2, MONTH[1], MONTH[1] + 31 * 86_400 * 10**9)], "another time"),
    "a pair that does not sum": ([hold(1), post(1, 1), [8, NOON, 1, [5, 5], "", []]], "sum to zero"),
    "a correction of an open hold": ([hold(1), [8, NOON, 1, [5, -5], "", []]], "has not ended"),
    "a second snapshot": ([[1, NOON, 1, [], []]], "snapshot"),
    "a record of no kind": ([[99, NOON]], "makes no sense"),
    "a record of the wrong shape": ([[6, NOON]], "makes no sense"),
    "an unknown budget": ([[4, NOON, 1, [["x", 1, 1, True]], [*REQUEST[:16], ["x"]]]], "makes no sense"),
    "a negative hold": ([hold(1, -5)], "below zero"),
}


@pytest.mark.parametrize("records", SOUND.values(), ids=SOUND)
def test_what_the_rules_allow_is_proven(tmp_path, records):
    report = verify(forge(tmp_path, *BEGIN, *records))
    assert report.problem is None
    assert report.records == 3 + len(records)


@pytest.mark.parametrize(("records", "why"), BAD.values(), ids=BAD)
def test_what_the_rules_forbid_is_named(tmp_path, records, why):
    report = verify(forge(tmp_path, *BEGIN, *records))
    assert report.problem is not None
    assert why in report.problem.why
    assert (report.problem.segment, report.problem.record) == (1, 3 + len(records))


def test_a_snapshot_that_forgets_spend_is_named(whole, tmp_path):
    """The chain and all checksums are right; only the snapshot lies."""
    for path in sorted(whole.glob("journal-*.log"))[:1]:
        first = path.read_bytes()
        (tmp_path / path.name).write_bytes(first)
    second = (whole / "journal-00000002.log").read_bytes()
    size, _ = struct.unpack_from("<II", second, 64)
    snapshot = msgspec.msgpack.decode(second[72 : 72 + size])
    snapshot[3][0][4][0][3] -= 1  # the first budget's posted
    payload = msgspec.msgpack.encode(snapshot)
    crc = zlib.crc32(payload, (2 * 0x9E3779B1 + 64) & 0xFFFFFFFF)
    forged = second[:64] + struct.pack("<II", len(payload), crc) + payload
    (tmp_path / "journal-00000002.log").write_bytes(forged)
    report = verify(tmp_path)
    assert (report.problem.segment, report.problem.record) == (2, 1)
    assert "add up" in report.problem.why
