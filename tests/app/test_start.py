"""What can be wrong before a node serves, each said in one clear line; and what is said when it does."""

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bursar.app import listeners, main
from bursar.app.banner import render_banner
from bursar.app.folder import FolderFault, FolderLock, prepare
from bursar.app.listeners import PortFault, bind
from bursar.app.settings import read_config
from bursar.app.spec import NodeSpec, Ready, read_spec, say_ready
from bursar.config import AdminListener, Config, DataListener, Listen, Tls, Wrapper
from bursar.config.load import ConfigFaults

# ---- the data folder -------------------------------------------------------------------------------------------------


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "a" / "data")
    assert folder.is_absolute()
    for made in (folder, folder / "journal", folder / "run"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert list((folder / "run").iterdir()) == []
    assert prepare(folder) == folder


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "data", Path("/proc/bursar")):
        with pytest.raises(FolderFault, match=r"cannot be used: .*; choose another with --data"):
            prepare(path)


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is unwritable to root")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "run").chmod(0o500)
    with pytest.raises(FolderFault, match="Permission denied"):
        prepare(tmp_path)


def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(FolderFault, match="belongs to another user"):
        prepare(tmp_path)


_HOLD = """
import sys
from pathlib import Path
from bursar.app.folder import FolderLock
FolderLock(Path(sys.argv[1])).take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder."""
    prepare(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_that_another_process_has(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(FolderFault, match=rf"in use by another bursar \(process {holder.pid}\)"):
        lock.take()
    holder.kill()
    holder.wait()
    lock.take()  # the lock dies with its process
    assert (tmp_path / "run" / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()
    lock.release()
    FolderLock(tmp_path).take()


# ---- ports -----------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken() -> None:
    with bind("127.0.0.1", 0, "listen.data.port") as first:
        port = first.getsockname()[1]
        with pytest.raises(PortFault) as fault:
            bind("127.0.0.1", port, "listen.data.port")
    assert str(fault.value) == f"cannot listen on 127.0.0.1:{port}: the port is taken; set listen.data.port to another"


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(PortFault, match="Cannot assign requested address"):
        bind("192.0.2.1", 0, "listen.data.port")


def test_a_port_without_the_right_to_it() -> None:
    assert listeners._why(OSError(errno.EACCES, "Permission denied")) == "this user may not use the port"
    assert listeners._why(OSError("odd")) == "OSError"


def test_a_listener_queues_connections_and_blocks_nobody() -> None:
    with bind("127.0.0.1", 0, "x") as listener:
        assert not listener.getblocking()
        with socket.create_connection(listener.getsockname(), 1):
            pass


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_ipv6_address_is_listened_on() -> None:
    try:
        listener = bind("::1", 0, "x")
    except PortFault:
        pytest.skip("no IPv6 loopback here")
    with listener:
        assert listener.family == socket.AF_INET6


# ---- the entry point -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def umask_kept() -> Iterator[None]:
    mask = os.umask(0)
    os.umask(mask)
    yield
    os.umask(mask)


def test_every_fault_of_the_configuration_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bursar.yaml"
    file.write_text("drain: soon\nlisten: {data: {port: 99999}}\nnonsense: 1\n")
    assert main.up(["--config", str(file)]) == main.EXIT_CONFIG == 5
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"bursar: 3 fault(s) in the configuration {file}"
    assert {line.split()[1].rstrip(":") for line in told[1:]} == {"drain", "listen.data.port", "nonsense"}


def test_a_configuration_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.up(["--config", str(tmp_path / "none.yaml")]) == main.EXIT_CONFIG
    assert "none.yaml" in capsys.readouterr().err


def test_a_folder_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main.up(["--data", str(tmp_path / "file")]) == main.EXIT_FAILED == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("bursar: the data folder")


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.up(["--prot", "4000"])
    assert ended.value.code == 2
    assert "--prot" in capsys.readouterr().err


def test_everything_but_up_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(Exception):
        pass

    started: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise Replaced

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["bursar", "keys", "list"])
    with pytest.raises(Replaced):
        main.main()
    assert started == [[sys.executable, "-m", "bursar.app.commands", "keys", "list"]]
    monkeypatch.setattr(sys, "argv", ["bursar", "up", "--config", "/nowhere.yaml"])
    assert main.main() == main.EXIT_CONFIG


def test_which_configuration_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config(None, None, {}) == read_config(None, "bursar-data", {})
    (tmp_path / "bursar.yaml").write_text("node: here\n")
    (tmp_path / "other.yaml").write_text("node: there\ndata: /elsewhere\n")
    assert read_config(None, None, {}).node == "here"
    other = read_config("other.yaml", None, {})
    assert (other.node, other.data) == ("there", "/elsewhere")
    assert read_config("other.yaml", "mine", {}).data == "mine"
    with pytest.raises(ConfigFaults):
        read_config("none.yaml", None, {})


# ---- what supervisor and child say to each other ---------------------------------------------------------------------


def test_a_spec_survives_the_pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = read_config(None, "data", {"OPENAI_BASE_URL": ""})
    spec = NodeSpec(config=config, data="/d", node="n", data_fds=[3], emulator_url="http://127.0.0.1:1", seal_env=True)
    reading, writing = os.pipe()
    os.write(writing, msgspec.json.encode(spec) + b"\n")
    with os.fdopen(reading, "rb") as pipe:

        class Input:
            buffer = pipe

        monkeypatch.setattr(sys, "stdin", Input())
        assert read_spec() == spec
    os.close(writing)


def test_ready_is_one_line_and_the_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    say_ready(writing, Ready(name="control", demo_key="k", sealed=["openai"]))
    with os.fdopen(reading, "rb") as pipe:
        (line,) = pipe.readlines()
    assert msgspec.json.decode(line, type=Ready) == Ready(name="control", demo_key="k", sealed=["openai"])


# ---- the banner ------------------------------------------------------------------------------------------------------

FOLDER = Path("/srv/bursar")
READY = Ready(name="control")


def test_the_banner_says_where_to_call() -> None:
    text = render_banner(Config(), FOLDER, READY)
    for told in ("http://127.0.0.1:4000", "http://127.0.0.1:4001", "http://127.0.0.1:4002/metrics", str(FOLDER)):
        assert told in text
    assert "bursar keys list" in text
    assert "EMULATOR" not in text


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("10.0.0.7", "10.0.0.7")])
def test_an_address_is_shown_as_it_is_called(host: str, shown: str) -> None:
    listen = Listen(data=DataListener(host=host), admin=AdminListener(host=host))
    text = render_banner(Config(listen=listen), FOLDER, READY)
    assert f"http://{shown}:4000" in text
    assert f"http://{shown}:4001" in text


def test_with_a_certificate_it_is_https() -> None:
    listen = Listen(data=DataListener(tls=Tls(cert="c", key="k")))
    text = render_banner(Config(listen=listen), FOLDER, Ready(name="control", demo_key="bsr_demo"))
    assert 'base_url="https://127.0.0.1:4000/v1"' in text


def test_the_demo_key_is_in_all_that_is_to_be_pasted() -> None:
    text = render_banner(Config(), FOLDER, Ready(name="control", demo_key="bsr_demo", emulator=True))
    assert text.count("bsr_demo") == 3
    assert "shown this once" in text
    assert "EMULATOR" in text


def test_the_banner_fits_a_terminal_and_says_what_comes_next() -> None:
    ready = Ready(name="control", demo_key="bsr_" + "x" * 60, emulator=True)
    text = render_banner(Config(), FOLDER, ready, "/opt/b/bin")
    assert [line for line in text.splitlines() if len(line) > 88 and "bsr_" not in line] == []
    assert 'export PATH="/opt/b/bin:$PATH"' in text
    assert "bursar adopt TEAM" in text
    assert "export PATH" not in render_banner(Config(), FOLDER, ready)


@pytest.mark.parametrize(
    ("ready", "told"),
    [
        (Ready(name="c", sealed=["a", "b"]), "Sealed from the environment (billing owner `unassigned`): a, b."),
        (Ready(name="c", unsealed=["OPENAI_API_KEY"]), "OPENAI_API_KEY. They were left alone; `bursar up --seal-env`"),
        (Ready(name="c", flagged=2), "2 provider key(s) have no billing owner"),
    ],
)
def test_the_banner_says_what_was_found(ready: Ready, told: str) -> None:
    assert told in render_banner(Config(), FOLDER, ready)


@pytest.mark.parametrize(
    ("wrapper", "key", "reveals"),
    [
        (Wrapper(), "/srv/bursar/wrapping.key", "reveals everything"),
        (Wrapper(path="/srv/bursar/keys/w"), "/srv/bursar/keys/w", "reveals everything"),
        (Wrapper(path="/etc/bursar/w"), "/etc/bursar/w", "no provider key and no virtual key"),
        (Wrapper(kind="passphrase"), "derived from your passphrase", "no provider key and no virtual key"),
    ],
)
def test_the_banner_says_what_a_copy_of_the_folder_reveals(wrapper: Wrapper, key: str, reveals: str) -> None:
    text = render_banner(Config(wrapper=wrapper), FOLDER, READY)
    assert key in text
    assert reveals in text
