"""The scan: whatever the size and the form, every key once, with its place, and never its text."""

import gzip
import io
import os
import random
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.control import scan
from bursar.control.scan import PIECE, scan_history, scan_path, scan_stream
from bursar.core.errors import Refusal
from tests.core.key_samples import samples

KEYS = samples(random.Random(5))


LINE = b"2026-11-24 INFO a line of a log that says nothing\n"
assert len(LINE) == 50


class Endless(io.RawIOBase):
    """So many bytes of a log, made while they are read; a key at the end."""

    def __init__(self, size: int, last: bytes) -> None:
        self.left = size
        self.last = last

    def read(self, size: int = -1) -> bytes:
        if self.left <= 0:
            last, self.last = self.last, b""
            return last
        count = min(size, self.left)
        at = -self.left % 50
        self.left -= count
        return (LINE * (count // 50 + 2))[at : at + count]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3000), st.sampled_from(sorted(KEYS))), max_size=6), st.integers(513, 5000))
def test_pieces_hide_nothing_and_tell_nothing_twice(gaps: list[tuple[int, str]], piece: int) -> None:
    text, told = b"", []
    for gap, name in gaps:
        text += b"x.\n" * gap
        told.append((name, text.count(b"\n") + 1))
        text += KEYS[name].encode() + b"\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "PIECE", piece)
        found = list(scan_stream(io.BytesIO(text), "log"))
    assert [(one.rule, one.line) for one in found] == told


def test_memory_stays_flat() -> None:
    tracemalloc.start()
    try:
        found = list(scan_stream(Endless(200 * PIECE // 50 * 50, KEYS["groq-key"].encode()), "-"))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [one.rule for one in found] == ["groq-key"]
    assert found[0].line == 200 * PIECE // 50 + 1
    assert most < 12 * PIECE


def test_a_tree_with_what_lies_in_trees(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text(KEYS["groq-key"])
    (tmp_path / "a/.env").write_text(f"A=1\nGROQ={KEYS['groq-key']}\n")
    (tmp_path / "a/log.gz").write_bytes(gzip.compress(KEYS["xai-key"].encode()))
    (tmp_path / "a/broken.gz").write_bytes(b"\x1f\x8b no archive")
    (tmp_path / "a/windows.log").write_bytes(b"\xff\xfe" + f"\r\nkey {KEYS['google-api-key']}\r\n".encode("utf-16-le"))
    (tmp_path / "a/loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "a/pipe")
    found = {(one.path, one.rule, one.line, one.column) for one in scan_path(tmp_path)}
    assert found == {
        ("a/.env", "groq-key", 2, 6),
        ("a/log.gz", "xai-key", 1, 1),
        ("a/windows.log", "google-api-key", 2, 5),
    }


def test_a_line_may_say_that_its_key_is_meant(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(f"{KEYS['groq-key']}  # bursar:allow\n{KEYS['xai-key']}\n")
    assert [one.rule for one in scan_path(tmp_path / "f")] == ["xai-key"]


def test_the_same_key_has_one_fingerprint_and_no_finding_has_its_text(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in KEYS.values()))
    found = list(scan_path(tmp_path))
    assert len(found) == 2 * len(KEYS)
    assert len({one.fingerprint for one in found}) == len(KEYS)
    shown = repr(found)
    for text in KEYS.values():
        assert text[-20:-2] not in shown


def test_history_remembers_what_was_taken_out(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        names = ["-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *names, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    (tmp_path / "settings.py").write_text(f"A = 1\nKEY = '{KEYS['anthropic-key']}'\n")
    git("add", "-A")
    git("commit", "-qm", "with it")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "settings.py").write_text("A = 1\n")
    git("commit", "-qam", "without it")
    assert list(scan_path(tmp_path)) == []
    (found,) = scan_history(tmp_path)
    assert (found.rule, found.path, found.line, found.commit) == ("anthropic-key", "settings.py", 2, commit[:12])


@pytest.mark.parametrize("history", [False, True])
def test_nothing_there(tmp_path: Path, history: bool) -> None:
    act = scan_history if history else scan_path
    with pytest.raises(Refusal) as refused:
        list(act(tmp_path / "nowhere"))
    assert refused.value.word == "scan_unreadable"
    assert refused.value.hint
