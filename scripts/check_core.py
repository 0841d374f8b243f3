"""The core decides; it does not look, wait or roll dice. Bars clocks, randomness, I/O and coroutines from bursar/core.

``check_core.py [FOLDER]``. An allow-list of modules, so that a new import is a deliberate act, and a deny-list of the
calls by which an allowed module would still reach the world.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PURE_MODULES = frozenset(
    """__future__ abc array base64 binascii bisect bursar calendar collections contextlib copy dataclasses datetime
    decimal difflib enum fnmatch fractions functools hashlib heapq hmac ipaddress itertools json math msgspec numbers
    operator re statistics string struct textwrap types typing unicodedata zlib zoneinfo""".split()  # noqa: SIM905  easier to read
)
IMPURE_CALLS = frozenset({"open", "print", "input", "eval", "exec", "__import__", "breakpoint"})
IMPURE_METHODS = frozenset({"now", "utcnow", "today", "read_text", "write_text"})


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []


def faults_of(node: ast.AST) -> Iterator[str]:
    for name in imported(node):
        if name.split(".")[0] not in PURE_MODULES:
            yield f"imports {name}"
        if name.startswith("bursar") and not name.startswith("bursar.core"):
            yield f"imports {name}"
    if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
        yield "is asynchronous"
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            yield f"calls {node.func.id}()"
        if isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
            yield f"calls .{node.func.attr}()"


def faults(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for fault in faults_of(node):
            yield f"{path.as_posix()}:{getattr(node, 'lineno', 0)}: {fault}"


def main(folder: str) -> int:
    found = [fault for path in sorted(Path(folder).rglob("*.py")) for fault in faults(path)]
    print("\n".join(found) if found else "core: no clock, no randomness, no I/O, nothing asynchronous")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "bursar/core"))
