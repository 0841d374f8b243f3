"""Doors for the tests of secrets: real randomness, a clock that is set by hand, wrappers, a canary value."""

import os
import secrets
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.core.secret import Secret
from bursar.secrets.wrap.local import LocalWrapper


class SystemEntropy:
    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)


class SetClock:
    def __init__(self) -> None:
        self.ns = 1_700_000_000 * 10**9

    def now(self) -> int:
        self.ns += 1
        return self.ns

    def monotonic(self) -> float:
        return self.ns / 1e9


@pytest.fixture
def entropy() -> SystemEntropy:
    return SystemEntropy()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def wrapper(entropy: SystemEntropy) -> LocalWrapper:
    return LocalWrapper("test:one", os.urandom(32), entropy)


@pytest.fixture
def recovery(entropy: SystemEntropy) -> LocalWrapper:
    return LocalWrapper("test:recovery", os.urandom(32), entropy)


@pytest.fixture
def canary() -> Secret:
    """A value made at run time, so that no scanner finds a key in this repository."""
    return Secret("sk-canary-" + secrets.token_urlsafe(40))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def _shown(error: BaseException) -> str:
    assert error.__traceback__
    frames = error.__traceback__.tb_next
    report = traceback.TracebackException(type(error), error, frames, capture_locals=True)
    return "".join(report.format()) + repr(error) + str(error)


@pytest.fixture
def shown() -> Callable[[BaseException], str]:
    """All that a traceback with local variables tells, from the first frame below the test's own."""
    return _shown
