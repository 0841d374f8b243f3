"""The process that parses what the world sends never loads control's libraries nor the code that opens the vault."""

import subprocess
import sys

FOREIGN = {"cryptography", "starlette", "uvicorn", "prometheus_client", "typer", "rich", "yaml", "sqlite3"}
ROOMS = {"bursar.secrets", "bursar.control", "bursar.faces", "bursar.app.control"}


def test_the_gateway_loads_nothing_of_control() -> None:
    program = "import sys, bursar.app.gateway; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "bursar.gateway.pipeline" in loaded
    assert loaded & (FOREIGN | ROOMS) == set()
