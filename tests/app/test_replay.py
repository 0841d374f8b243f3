"""Another sink's audit is replayed only where it continues the very chain with which the backup ends."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.app.replay import look
from bursar.core.audit import GENESIS, Event, chain_hash, encode_record, frame
from bursar.core.errors import Refusal
from bursar.core.restore import Restored
from bursar.stores.audit_db import AuditDb
from bursar.stores.restore_marker import MarkerFile, is_paused

END = 4  # the backup's last record


def chain(count: int, action: str = "key.disable") -> list[bytes]:
    lines, last = [], GENESIS
    for seq in range(1, count + 1):
        payload = encode_record(seq, seq, Event(actor="admin", action=action, target=f"key/{seq}"))
        last = chain_hash(last, payload)
        lines.append(frame(last, payload))
    return lines


async def restored(folder: Path, trail: list[bytes]) -> None:
    database = AuditDb(folder / "audit.db")
    await database.write(trail)
    database.close()
    MarkerFile(folder).write(Restored(restored_ns=9, taken_ns=4, node="main", audit_seq=END))


async def test_what_continues_the_backup_is_read(tmp_path: Path) -> None:
    await restored(tmp_path, chain(9)[:END])
    (tmp_path / "sink").write_bytes(b"\n".join(chain(9)) + b'\n{"hash":"half a line')
    marker, later = await look(tmp_path, tmp_path / "sink")
    assert marker.audit_seq == END
    assert later.lines == chain(9)[END:]
    assert [record.seq for record in later.records] == [5, 6, 7, 8, 9]
    assert later.continues
    (tmp_path / "sink").write_bytes(b"\n".join(chain(9)[END - 1 :]) + b"\n")  # a sink that began later does as well
    assert (await look(tmp_path, tmp_path / "sink"))[1].lines == chain(9)[END:]


async def test_after_a_start_of_its_own_the_trail_does_not_take_the_records(tmp_path: Path) -> None:
    own = [*chain(END), *chain(END + 1, "key.disable")[END:]]
    await restored(tmp_path, own)
    (tmp_path / "sink").write_bytes(b"\n".join(chain(9)) + b"\n")
    _, later = await look(tmp_path, tmp_path / "sink")
    assert not later.continues
    assert len(later.records) == 5


@pytest.mark.parametrize(
    "harm",
    [
        lambda lines: lines[:5] + lines[6:],
        lambda lines: [*lines[:5], lines[5].replace(b"allowed", b"refused"), *lines[6:]],
        lambda lines: chain(9, "key.enable"),
        lambda lines: lines[: END - 1],
        lambda lines: lines[END:],
        lambda lines: [*lines, b"noise"],
        lambda lines: [],
    ],
    ids=["gap", "changed", "stranger", "short", "headless", "noise", "empty"],
)
async def test_what_does_not_is_refused(tmp_path: Path, harm: Callable[[list[bytes]], list[bytes]]) -> None:
    await restored(tmp_path, chain(END))
    (tmp_path / "sink").write_bytes(b"".join(line + b"\n" for line in harm(chain(9))))
    with pytest.raises(Refusal) as refused:
        await look(tmp_path, tmp_path / "sink")
    assert refused.value.word == "replay_unfit"
    assert is_paused(tmp_path)


async def test_a_node_that_was_not_restored_takes_no_replay(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        await look(tmp_path, tmp_path / "sink")
    assert refused.value.word == "unknown_id"


def test_a_marker_that_cannot_be_read_still_pauses(tmp_path: Path) -> None:
    assert MarkerFile(tmp_path).read() is None
    (tmp_path / "restored.json").write_text("{")
    assert is_paused(tmp_path)
    marker = MarkerFile(tmp_path).read()
    assert marker is not None
    assert marker.taken_ns == 0
    MarkerFile(tmp_path).retire(7)
    assert not is_paused(tmp_path)
    assert (tmp_path / "restored-7.json").exists()
