"""Functions fit a screen, files are read in one sitting: <= 60 lines of body, <= 400 lines of file.

``check_sizes.py [FOLDER ...]``: reads the shipped package by default. A docstring does not count as body. The next
lines list what may pass, each with its reason; the list is meant to stay short.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 400
BODY_LINES = 60
ALLOWED: dict[str, str] = {}  # "path" or "path:function" -> reason


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    statements = function.body
    if ast.get_docstring(function, clean=False) is not None:
        statements = statements[1:]
    if not statements:
        return 0
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1


def faults(path: Path, shown: str) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > FILE_LINES and shown not in ALLOWED:
        yield f"{shown}: {lines} lines (at most {FILE_LINES})"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = body_lines(node)
            if size > BODY_LINES and f"{shown}:{node.name}" not in ALLOWED:
                yield f"{shown}:{node.lineno}: {node.name} has a body of {size} lines (at most {BODY_LINES})"


def main(folders: list[str]) -> int:
    found = [
        fault
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for fault in faults(path, path.as_posix())
    ]
    print("\n".join(found) if found else f"sizes: every file <= {FILE_LINES} lines, every body <= {BODY_LINES}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["bursar", "scripts", "bench"]))
