"""docs/flow.md against the code: every symbol stands in the file that its row names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"^\| ([^|]+) \| `([\w.]+)` \| `([\w/.]+)` \|$", (ROOT / "docs/flow.md").read_text(), re.MULTILINE)
STAGES = "receive authenticate admit understand policy guard price hold attempt settle report"


def defined(file: Path) -> set[str]:
    """Names that a module defines: functions, classes, constants, and methods as Class.method."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if hasattr(one, "name")}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize(("what", "symbol", "path"), ROWS, ids=[row[1] for row in ROWS])
def test_the_symbol_stands_in_its_file(what: str, symbol: str, path: str) -> None:
    assert symbol in defined(ROOT / path), what


def test_all_eleven_stages_are_there_in_order() -> None:
    numbered = [what for what, _, _ in ROWS if what[0].isdigit()]
    assert numbered == [f"{number} {stage}" for number, stage in enumerate(STAGES.split(), 1)]
