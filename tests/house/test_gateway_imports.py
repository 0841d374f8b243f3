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


def test_the_first_token_key_brings_one_primitive_and_nothing_that_opens_seals() -> None:
    program = "import sys, bursar.app.gateway as g; g.Ed25519().load(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "cryptography.hazmat.primitives.asymmetric.ed25519" in loaded
    assert loaded & (ROOMS | FOREIGN - {"cryptography"}) == set()
    assert not [name for name in loaded if "ciphers" in name or "kdf" in name or "x509" in name]
