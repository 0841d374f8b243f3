"""The process that parses what the world sends never loads control's libraries nor the code that opens the vault."""

import subprocess
import sys

import pytest

FOREIGN = ("cryptography", "starlette", "uvicorn", "prometheus_client", "typer", "rich", "yaml", "sqlite3")


@pytest.mark.parametrize("module", [*FOREIGN, "bursar.secrets", "bursar.control", "bursar.faces"])
def test_the_gateway_does_not_load(module: str) -> None:
    program = f"import sys, bursar.app.gateway; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
