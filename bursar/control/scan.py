"""Leaked keys in trees, git history and logs. Reads in pieces: memory stays flat whatever the size.

What is found is told by place, kind and fingerprint, never by its text. A fingerprint is the begin of a SHA-256: keys
are long and random, so that it cannot be turned back, and the same key is seen to stand in several places.
"""

import fcntl
import gzip
import hashlib
import os
import re
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Protocol

import msgspec

from bursar.core.errors import Refusal
from bursar.core.key_shapes import LONGEST, Found, look, shown

PIECE = 1 << 20
ALLOWED_MARK = b"bursar:allow"
"""On the line of a key: it is known and meant to stand there (a fixture, say)."""

_BEFORE = 128  # bytes kept from the piece before: a key may begin there
_SKIPPED = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", ".tox"})
_HUNK = re.compile(rb"@@ -\S+ \+(\d+)")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One key in one place. `line` and `column` count from 1; `commit` is of the git history, else ""."""

    rule: str
    owner: str
    path: str
    line: int
    column: int
    fingerprint: str
    shown: str  # the kind by its prefix
    commit: str = ""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


Progress = Callable[[int], None]
"""Told of every piece: bytes read."""


class _Lines:
    """Counts lines along a stream, of which only a window is at hand: `data`, which begins at `offset`."""

    def __init__(self) -> None:
        self._at = 0  # up to here, in the stream, lines are counted
        self._line = 1
        self._line_start = 0

    def place(self, data: bytes, offset: int, position: int) -> tuple[int, int]:
        """Line and column of a position in the window."""
        counted = self._at - offset
        if position < counted:  # a key whose sign came late may begin before one already told
            return (
                self._line - data.count(b"\n", position, counted),
                position - data.rfind(b"\n", 0, position),
            )
        newlines = data.count(b"\n", counted, position)
        if newlines:
            self._line += newlines
            self._line_start = offset + data.rindex(b"\n", counted, position) + 1
        self._at = offset + position
        return self._line, self._at - self._line_start + 1


def scan_stream(source: Readable, path: str, progress: Progress = lambda _: None) -> Iterator[Finding]:
    """Everything that stands in a stream of bytes. UTF-16 with its mark is read as text."""
    lines = _Lines()
    kept, offset = b"", 0  # the end of what was read before, and where it stands in the stream
    done = 0  # every literal before this place was looked at: each is seen once, so each key is told once
    pieces = _decoded(source)
    piece = next(pieces, b"")
    while piece:
        following = next(pieces, b"")
        progress(len(piece))
        data = kept + piece
        until = max(len(data) - LONGEST, done - offset) if following else len(data)
        for found in look(data, done - offset, until):
            if not _allowed(data, found.start, found.end):
                yield _finding(data, found, path, lines.place(data, offset, found.start))
        done = offset + until
        cut = max(until - _BEFORE, 0)
        lines.place(data, offset, cut)
        kept, offset = data[cut:], offset + cut
        piece = following


def _finding(data: bytes, found: Found, path: str, place: tuple[int, int], commit: str = "") -> Finding:
    key = data[found.start : found.end]
    return Finding(
        rule=found.shape.id,
        owner=found.shape.owner,
        path=path,
        line=place[0],
        column=place[1],
        fingerprint=fingerprint(key),
        shown=shown(key),
        commit=commit,
    )


def scan_path(path: Path, progress: Progress = lambda _: None) -> Iterator[Finding]:
    """A file, or every file below a folder but those of version control and installed packages. Links are not followed.

    The admin token of a node that runs on this machine is where it belongs, and passed over.

    Raises Refusal(scan_unreadable) when `path` itself cannot be read; what cannot be read below it is passed over.
    """
    if not path.exists():
        raise Refusal("scan_unreadable", f"There is no {path}", "Name a file, a folder, or - for standard input")
    if path.is_file():
        with _opened(path) as source:
            yield from _readable(source, str(path), progress)
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(
            name for name in folders if name not in _SKIPPED and not _is_environment(Path(folder, name))
        )
        for name in sorted(names):
            below = Path(folder) / name
            if below.is_symlink() or not below.is_file() or _is_token_in_use(below):
                continue
            try:
                source = _opened(below)
            except OSError:
                continue
            with source:
                yield from _readable(source, str(below.relative_to(path)), progress)


def scan_history(repository: Path, progress: Progress = lambda _: None) -> Iterator[Finding]:
    """Every line that any commit of a git repository ever added, with the commit and the file of its time.

    Raises Refusal(scan_unreadable) without git or without a repository.
    """
    shown = ["--all", "-p", "-U0", "--text", "--no-color", "--no-ext-diff", "--no-textconv", "--format=commit %H"]
    try:
        git = subprocess.Popen(  # noqa: S603 - a fixed program; the folder is one argument
            ["git", "-C", str(repository), "log", *shown],  # noqa: S607 - wherever it is installed
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as fault:
        raise Refusal("scan_unreadable", f"git cannot be started: {fault.strerror}", "Install git") from None
    assert git.stdout is not None
    assert git.stderr is not None
    with git:
        try:
            yield from _added_lines(git.stdout, progress)
        finally:
            if git.poll() is None:
                git.stdout.close()
        told = git.stderr.read(300).decode("utf-8", "replace").strip()
    if git.returncode not in (0, -13):
        raise Refusal("scan_unreadable", f"git could not read {repository}: {told}", "Name a git repository")


def _is_environment(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").exists()


def _is_token_in_use(file: Path) -> bool:
    """Whether it is the admin token of a running node: its supervisor holds the folder's lock as long as it lives."""
    if file.name != "admin.token":
        return False
    try:
        with (file.parent / "run" / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def fingerprint(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]


def _added_lines(log: IO[bytes], progress: Progress) -> Iterator[Finding]:
    commit, path, line = "", "", 0
    while raw := log.readline(PIECE):
        progress(len(raw))
        if raw.startswith(b"commit "):
            commit = raw[7:19].decode("ascii", "replace")
        elif raw.startswith(b"+++ "):
            path = raw[6:].strip().decode("utf-8", "replace")
        elif hunk := _HUNK.match(raw):
            line = int(hunk[1])
        elif raw.startswith(b"+"):
            for found in look(raw, 1):
                if not _allowed(raw, found.start, found.end):
                    yield _finding(raw, found, path, (line, found.start), commit)
            line += raw.endswith(b"\n")


def _readable(source: BinaryIO, path: str, progress: Progress) -> Iterator[Finding]:
    """What can be read of it: a broken archive ends the file, not the scan."""
    try:
        yield from scan_stream(source, path, progress)
    except (OSError, EOFError, zlib.error):
        return


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _decoded(source: Readable) -> Iterator[bytes]:
    """The pieces of a stream; those of UTF-16 as UTF-8."""
    piece = source.read(PIECE)
    if piece[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        while piece:
            yield piece
            piece = source.read(PIECE)
        return
    order = "utf-16-le" if piece[:2] == b"\xff\xfe" else "utf-16-be"
    rest = piece[2:]
    while rest:
        even = len(rest) & ~1
        yield rest[:even].decode(order, "replace").encode("utf-8", "replace")
        more = source.read(PIECE)
        rest = rest[even:] + more if more else b""


def _allowed(data: bytes, start: int, end: int) -> bool:
    """Whether the line says that the key may stand there."""
    opens = data.rfind(b"\n", max(start - LONGEST, 0), start) + 1
    closes = data.find(b"\n", end, end + LONGEST)
    return ALLOWED_MARK in data[opens : len(data) if closes < 0 else closes]
