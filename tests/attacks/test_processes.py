"""What somebody who can look at the machine, but not into the vault, finds of the processes and their folder."""

import resource
import stat
from collections.abc import Callable
from pathlib import Path

from tests.e2e.broker import Broker

PROVIDER_KEY, PASSPHRASE = "sk-proj-not-for-the-gateway", "correct horse battery staple"
CONFIG = {"wrapper": {"kind": "passphrase", "passphrase_env": "HOW_TO_UNSEAL"}}
ENV = {"OPENAI_API_KEY": PROVIDER_KEY, "AZURE_KEY": PROVIDER_KEY, "HOW_TO_UNSEAL": PASSPHRASE}


def test_what_the_processes_show(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker(config=CONFIG, env=ENV).start()
    pids = broker.pids()
    for name, pid in pids.items():
        process = Path("/proc") / str(pid)
        arguments = (process / "cmdline").read_bytes().decode()
        assert PROVIDER_KEY not in arguments
        assert PASSPHRASE not in arguments
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0), f"{name} may leave its memory in a core file"
        if name in ("gateway", "emulator"):  # they face callers, and need none of it
            environment = (process / "environ").read_bytes().decode()
            assert PROVIDER_KEY not in environment
            assert PASSPHRASE not in environment

    assert broker.admin("GET", "/v1/admin/keys").status_code == 200
    for path in [broker.data, *broker.data.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o077 == 0, f"{path} is open to others: {mode:o}"
        if path.is_file():
            content = path.read_bytes()
            assert PROVIDER_KEY.encode() not in content, path
            assert broker.demo_key.encode() not in content, path
            assert PASSPHRASE.encode() not in content, path
    assert PROVIDER_KEY not in broker.printed()
    assert PASSPHRASE not in broker.printed()
