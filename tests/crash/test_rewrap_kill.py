"""kill -9 in the middle of a rewrap, again and again: nothing is lost, what is done stays done, and it goes on."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bursar.app.clock import SystemClock, SystemEntropy
from bursar.core.secret import Secret
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.wrap import keyfile

ENTRIES, DEATHS = 150, 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


async def test_a_killed_rewrap_goes_on_where_it_was(folder: Path) -> None:
    old, new = (keyfile.create(folder / name, SystemEntropy()) for name in ("old.key", "new.key"))
    store = await EmbeddedStore.open(folder / "secrets.db", [old], SystemClock(), SystemEntropy())
    values = {}
    for number in range(ENTRIES):
        value = f"value-{number}-{os.urandom(8).hex()}"
        secret_id, _ = await store.put(f"openai/*/api_key/prod/team-{number}", Secret(value), {})
        values[secret_id] = value
    store.close()

    left, seen = ENTRIES + 1, []
    for _ in range(DEATHS):
        left = _killed_after(folder, random.randrange(1, 25), left)
        seen.append(left)
        both = await EmbeddedStore.open(folder / "secrets.db", [new], SystemClock(), SystemEntropy(), [old])
        assert {secret_id: (await both.get(secret_id)).reveal() for secret_id in values} == values
        both.close()
    assert seen == sorted(seen, reverse=True)
    assert 0 < left < ENTRIES

    last = await EmbeddedStore.open(folder / "secrets.db", [new], SystemClock(), SystemEntropy(), [old])
    await last.rewrap()
    last.close()
    alone = await EmbeddedStore.open(folder / "secrets.db", [new], SystemClock(), SystemEntropy())
    assert {secret_id: (await alone.get(secret_id)).reveal() for secret_id in values} == values
    alone.close()


def _killed_after(folder: Path, steps: int, before: int) -> int:
    """Values that are left when the process has told so many steps and is killed, somewhere in a later one."""
    command = [sys.executable, "-m", "tests.crash.rewrapper", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(steps)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert told[0] < before, "what was done before the kill was done again"
    assert told == list(range(told[0], told[0] - steps, -1))
    return told[-1]
