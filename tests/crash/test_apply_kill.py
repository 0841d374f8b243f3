"""kill -9 in the middle of `apply`: what the files say is there as a whole, or nothing of it is."""

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

from bursar.stores.directory_db import DirectoryDb
from tests.control.test_manifests import Desk

OBJECTS = 3_000
ROUNDS = 6
ROOT = str(Path(__file__).parents[2])


def files(number: int) -> dict[str, dict[str, dict[str, str]]]:
    return {"owners": {f"o{i}": {"name": f"name {number}"} for i in range(OBJECTS)}}


async def apply_for_ever(folder: Path) -> None:
    desk = Desk(folder)
    print("begun", flush=True)
    while True:
        await desk.apply(files(desk.directory.book.version))


def test_an_apply_that_is_killed_is_whole_or_was_not(tmp_path: Path) -> None:
    chance = random.Random(11)
    for _ in range(ROUNDS):
        command = [sys.executable, __file__, str(tmp_path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT})
        assert child.stdout is not None
        with child:
            assert child.stdout.readline() == b"begun\n"
            try:
                child.wait(chance.uniform(0.05, 1.0))
            except subprocess.TimeoutExpired:
                child.kill()
        store = DirectoryDb(tmp_path / "directory.db")
        found = store.load()
        assert {owner.name for owner in found.owners} == ({f"name {found.version - 1}"} if found.version else set())
        assert len(found.owners) == (OBJECTS if found.version else 0)
        store.close()
    assert found.version


if __name__ == "__main__":
    asyncio.run(apply_for_ever(Path(sys.argv[1])))
