"""The file of provider-made ids under what happens to files: cut lines, a full disk, being written anew."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.stores.made_ids_file import MadeIdsFile
from tests.conformance.test_made_ids import made
from tests.gateway.fakes import FakeClock


def opened(folder: Path, **bounds: int) -> MadeIdsFile:
    return MadeIdsFile(
        folder / "made-ids.log", FakeClock(), **({"most_of_team": 1000, "most": 2000, "spare": 1000} | bounds)
    )


async def known(store: MadeIdsFile, count: int) -> list[int]:
    return [n for n in range(count) if await store.find("team-1", "response", f"resp_{n}") is not None]


def test_nothing_is_opened_before_the_first_id(tmp_path: Path) -> None:
    asyncio.run(opened(tmp_path).close())
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_file_cut_anywhere_loses_no_whole_line_and_goes_on(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "made-ids.log"
    path.unlink(missing_ok=True)
    store = opened(tmp_path)
    for number in range(5):
        await store.keep([made(f"resp_{number}")])
    await store.close()
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    again = opened(tmp_path)
    left = whole[: cut + 1].count(b"\n")  # a line is whole without its end
    assert await known(again, 5) == [*range(left)]
    await again.keep([made("resp_9")])
    await again.close()
    last = opened(tmp_path)
    assert await known(last, 10) == [*range(left), 9]
    await last.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_changed_byte_costs_its_line_and_no_more(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "made-ids.log"
    path.unlink(missing_ok=True)
    store = opened(tmp_path)
    for number in range(5):
        await store.keep([made(f"resp_{number}")])
    await store.close()
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    again = opened(tmp_path)
    hit = bytes(path.read_bytes()[:at]).count(b"\n")
    lost = {hit, hit + 1} if bytes(raw[at : at + 1]) == b"\n" or raw.count(b"\n") != 5 else {hit}
    assert set(await known(again, 5)) >= set(range(5)) - lost
    for number in await known(again, 5):
        assert await again.find("team-1", "response", f"resp_{number}") == made(f"resp_{number}")
    await again.close()


async def test_the_file_does_not_grow_with_what_is_gone(tmp_path: Path) -> None:
    store = opened(tmp_path, most_of_team=20, most=20, spare=50)
    for number in range(3000):
        await store.keep([made(f"resp_{number}")])
        if number % 100 == 0:
            await asyncio.sleep(0.01)  # lets the file be written anew
    await asyncio.sleep(0.2)
    assert (tmp_path / "made-ids.log").read_bytes().count(b"\n") < 600
    await store.close()
    again = opened(tmp_path, most_of_team=20, most=20)
    assert await known(again, 3000) == [*range(2980, 3000)]
    await again.close()


async def test_what_is_kept_or_forgotten_while_it_is_written_anew_is_in_the_new_file(tmp_path: Path) -> None:
    """Whatever the moment: an id comes, or goes, with each step of the renewal."""
    store = opened(tmp_path, spare=400)
    for number in range(800):
        await store.keep([made(f"resp_{number % 100}")])
    for number in range(300):
        await store.keep([made(f"late_{number}")])
        await store.forget("team-1", "response", f"resp_{number}")
        await asyncio.sleep(0)
    await store.close()
    again = opened(tmp_path)
    assert await known(again, 100) == []
    assert all([await again.find("team-1", "response", f"late_{n}") for n in range(300)])
    await again.close()


async def test_the_largest_team_makes_room_when_the_node_is_full(tmp_path: Path) -> None:
    store = opened(tmp_path, most_of_team=50, most=60)
    for number in range(50):
        await store.keep([made(f"resp_{number}")])
    for number in range(20):
        await store.keep([made(f"resp_{number}", team="small")])
    assert len(await known(store, 50)) == 40
    assert all([await store.find("small", "response", f"resp_{n}") for n in range(20)])
    await store.close()


async def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    await store.keep([made("resp_0")])
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(Refusal) as refused:
        await store.keep([made("resp_1")])
    assert refused.value.word == "ids_unavailable"
    monkeypatch.undo()
    await store.keep([made("resp_2")])
    await store.close()
    again = opened(tmp_path)
    assert await known(again, 3) == [0, 2]
    await again.close()


async def test_a_folder_that_cannot_be_used_is_told_and_tried_again(tmp_path: Path) -> None:
    store = MadeIdsFile(tmp_path / "later" / "made-ids.log", FakeClock(), most_of_team=10, most=10)
    with pytest.raises(Refusal) as refused:
        await store.find("team-1", "response", "resp_1")
    assert refused.value.word == "ids_unavailable"
    (tmp_path / "later").mkdir()
    await store.keep([made("resp_1")])
    assert await store.find("team-1", "response", "resp_1") is not None
    await store.close()


async def test_with_power_durability_it_is_on_the_disk_also_while_the_file_is_written_anew(tmp_path: Path) -> None:
    store = MadeIdsFile(tmp_path / "made-ids.log", FakeClock(), most_of_team=50, most=50, spare=100, power=True)
    for start in range(0, 2000, 40):
        await asyncio.gather(*(store.keep([made(f"resp_{n}")]) for n in range(start, start + 40)))
    await store.close()
    again = opened(tmp_path)
    assert (await known(again, 2000))[-40:] == [*range(1960, 2000)]
    await again.close()
