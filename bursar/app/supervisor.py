"""`bursar up`: binds the ports, starts gateway and control (and the emulator when it must answer), keeps them alive."""

import contextlib
import importlib.util
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bursar.app.banner import render_banner
from bursar.app.child import Child
from bursar.app.folder import FolderFault, FolderLock, identity_of, prepare
from bursar.app.listeners import PortFault, bind
from bursar.app.places import node_name, secret_variables
from bursar.app.spec import NodeSpec, Ready
from bursar.config import Config

_START_TIMEOUT = 20.0
_CONTROL_GRACE = 5.0
_TICK = 0.2
# For glibc's malloc: a body's few hundred kB, taken and given back for each request, otherwise go to the kernel and
# come back as fresh pages, 40 us a request at 200 kB. What a larger body takes still goes back at once.
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "16777216"}

# Only control may see provider keys of the environment (to seal them); the gateway gets them as leases.
_SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_PASSPHRASE")


class CannotStart(Exception):
    """One clear line for the person who typed `bursar up`."""


class Supervisor:
    """Owns the folder lock, the sockets and the children for the life of the process."""

    def __init__(self, config: Config, env: Mapping[str, str], *, seal_env: bool) -> None:
        self._config = config
        self._env = env
        self._seal_env = seal_env
        self._stop_signals: list[int] = []
        self._children: list[tuple[Child, NodeSpec | None]] = []
        self._folder = Path()
        self._emulator_socket: socket.socket | None = None

    def run(self) -> int:
        """Serve until SIGINT or SIGTERM; 0 after a clean drain. Raises CannotStart."""
        os.umask(0o077)  # what lies in the data folder is its owner's alone, whoever of us writes it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys in memory must not end in a core file
        try:
            self._folder = prepare(Path(self._config.data))
            lock = FolderLock(self._folder)
            lock.take()
            spec, sockets = self._listen()
        except (FolderFault, PortFault) as fault:
            raise CannotStart(str(fault)) from None
        wake, _ = self._catch_signals()
        try:
            control, gateway = self._start_main(spec)
            _show(render_banner(self._config, self._folder, control, _programs()))
            self._watch(wake)
        finally:
            drained = self._stop_all()
            for held in sockets:
                held.close()
            lock.release()
        return 0 if drained and gateway is not None else 1

    def _listen(self) -> tuple[NodeSpec, list[socket.socket]]:
        listen = self._config.listen
        data = bind(listen.data.host, listen.data.port, "listen.data.port")
        admin = bind(listen.admin.host, listen.admin.port, "listen.admin.port")
        metrics = bind(listen.metrics.host, listen.metrics.port, "listen.metrics.port")
        emulator = bind("127.0.0.1", 0, "listen")
        self._emulator_socket = emulator
        spec = NodeSpec(
            config=self._config,
            data=str(self._folder),
            node=node_name(self._config),
            identity=identity_of(self._folder),
            data_fds=[data.fileno()],
            admin_fds=[admin.fileno()],
            metrics_fds=[metrics.fileno()],
            emulator_url=f"http://127.0.0.1:{emulator.getsockname()[1]}",
            seal_env=self._seal_env,
        )
        return spec, [data, admin, metrics, emulator]

    def _catch_signals(self) -> tuple[int, int]:
        """A pipe that becomes readable when a signal arrives (self-pipe, as select wants it)."""
        wake, poke = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(poke, False)
        signal.set_wakeup_fd(poke)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda n, _frame: self._stop_signals.append(n))
        signal.signal(signal.SIGHUP, lambda _n, _frame: self._reload())
        return wake, poke

    def _reload(self) -> None:
        for child, spec in self._children:
            if spec is not None:
                child.signal(signal.SIGHUP)  # certificates are read anew

    def _start_main(self, spec: NodeSpec) -> tuple[Ready, Ready]:
        wrappers = (self._config.wrapper, *self._config.former_wrappers)
        ours = {wrapper.passphrase_env.upper() for wrapper in wrappers}
        ours |= {name.upper() for name in secret_variables(self._config.secrets)}
        ours |= {wrapper.transit.credential_env.upper() for wrapper in wrappers if wrapper.transit}
        ours |= {sink.secret_env.upper() for sink in self._config.audit.sinks}
        ours |= {self._config.store.url_env.upper()}
        ours |= {self._config.admin.oidc.client_secret_env.upper()} if self._config.admin.oidc else set()
        clean = {
            name: value
            for name, value in self._env.items()
            if not name.upper().endswith(_SECRET_NAMES) and name.upper() not in ours
        }
        control_root, gateway_root = _roots(self._config)
        control = Child("control", [control_root], self._env, [*spec.admin_fds, *spec.metrics_fds])
        gateway = Child("gateway", [gateway_root], {**_KEPT_MEMORY, **clean, **self._store_url()}, spec.data_fds)
        for child in (control, gateway):
            child.start(spec)
            self._children.append((child, spec))
        readies = [_await_ready(child) for child in (control, gateway)]
        if readies[0].emulator:
            self._start_emulator(clean)
        self._write_pids()
        return readies[0], readies[1]

    def _store_url(self) -> dict[str, str]:
        """In a fleet the gateway holds money in the store by itself."""
        store = self._config.store
        shared = store.kind != "embedded" and store.url_env in self._env
        return {store.url_env: self._env[store.url_env]} if shared else {}

    def _start_emulator(self, env: Mapping[str, str]) -> None:
        assert self._emulator_socket is not None
        fd = self._emulator_socket.fileno()
        bill = self._folder / "emulator" / "bill.jsonl"
        bill.parent.mkdir(mode=0o700, exist_ok=True)
        argv = ["bursar.providers.emulator", "--fd", str(fd), "--bill", str(bill)]
        emulator = Child("emulator", argv, env, [fd])
        emulator.start(None)
        self._children.append((emulator, None))

    def _watch(self, wake: int) -> None:
        """Restart what dies until told to stop."""
        while not self._stop_signals:
            select.select([wake], [], [], _TICK)
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            changed = False
            for child, spec in self._children:
                status = child.died()
                if status is not None:
                    changed = True
                    _say(f"{child.name} ended ({_status_words(status)}); starting it again")
                if child.failing and child.name == "gateway":  # without the others calls go on: they are tried for ever
                    raise CannotStart(f"{child.name} dies at every start; its last words are above")
                if child.pid == 0 and time.monotonic() >= child.start_at:
                    child.start(spec)
                    changed = True
            if changed:
                self._write_pids()

    def _stop_all(self) -> bool:
        """Gateway first, so that calls in flight still reach control; True if all ended by themselves."""
        order = {"gateway": self._config.drain + 7.0, "control": _CONTROL_GRACE, "emulator": 1.0}
        clean = True
        for name, grace in order.items():
            for child, _ in self._children:
                if child.name == name:
                    clean = child.stop(signal.SIGTERM, grace) and clean
        return clean

    def _write_pids(self) -> None:
        pids = {"supervisor": os.getpid(), **{child.name: child.pid for child, _ in self._children}}
        temporary = self._folder / "run" / "pids.json.tmp"
        try:
            temporary.write_bytes(msgspec.json.encode(pids))
            temporary.replace(self._folder / "run" / "pids.json")
        except OSError as fault:  # a full disk is no reason to stop serving
            _say(f"run/pids.json cannot be written ({fault.strerror}); it names processes of before")


def _roots(config: Config) -> tuple[str, str]:
    """The composition roots of control and gateway: only these import what the store needs. Raises CannotStart."""
    if config.store.kind == "embedded":
        return "bursar.app.control", "bursar.app.gateway"
    if importlib.util.find_spec("asyncpg") is None:
        raise CannotStart("store.kind is postgres, and asyncpg is not installed: pip install 'bursar[postgres]'")
    return "bursar.app.control_postgres", "bursar.app.gateway_postgres"


def _await_ready(child: Child) -> Ready:
    ready = child.wait_ready(_START_TIMEOUT)
    if ready is None:
        raise CannotStart(f"{child.name} did not start; its last words are above")
    if ready.problem:
        raise CannotStart(ready.problem)
    return ready


def _status_words(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a log that cannot be written is no reason to stop serving
        sys.stderr.write(f"bursar: {text}\n")
        sys.stderr.flush()


def _programs() -> str:
    """The folder with the `bursar` command, where the shell does not find it by itself; else ""."""
    folder = Path(sys.executable).parent
    return "" if shutil.which("bursar") or not (folder / "bursar").exists() else str(folder)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
