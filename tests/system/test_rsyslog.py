"""A real rsyslog takes the audit over TCP and TLS; its copy, written by its own template, proves by itself."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from bursar.control.verify_audit import verify_file
from tests.e2e.broker import Broker, free_ports

pytestmark = pytest.mark.system

_CONF = """
global(workDirectory="{folder}" maxMessageSize="512k" {tls})
module(load="imtcp" {mode})
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="audit")
template(name="line" type="string" string="%msg%\\n")
template(name="head" type="string" string="%pri% %app-name% %msgid% %structured-data%\\n")
ruleset(name="audit") {{
    action(type="omfile" file="{folder}/copy.jsonl" template="line")
    action(type="omfile" file="{folder}/heads.txt" template="head")
}}
"""


class Rsyslog:
    def __init__(self, folder: Path, port: int, authority: trustme.CA | None) -> None:
        program = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "rsyslogd is missing: `make test-system` installs it"
        folder.mkdir()
        tls = mode = ""
        if authority is not None:
            pair = authority.issue_cert("localhost")
            authority.cert_pem.write_to_path(folder / "ca.pem")
            pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
            pair.private_key_pem.write_to_path(folder / "key.pem")
            tls = (
                f'defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{folder}/ca.pem" '
                f'defaultNetstreamDriverCertFile="{folder}/cert.pem" defaultNetstreamDriverKeyFile="{folder}/key.pem"'
            )
            mode = 'StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon"'
        conf = folder / "rsyslog.conf"
        conf.write_text(_CONF.format(folder=folder, port=port, tls=tls, mode=mode))
        self.copy, self.heads = folder / "copy.jsonl", folder / "heads.txt"
        self._command = [program, "-n", "-f", str(conf), "-i", str(folder / "pid")]
        self._log = folder / "rsyslogd.txt"
        self._port = port

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), 0.5).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise AssertionError(f"rsyslogd does not serve: {self._log.read_text()}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(params=["tcp", "tls"])
def rsyslog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Rsyslog, dict[str, object]]]:
    (port,) = free_ports(1)
    authority = trustme.CA() if request.param == "tls" else None
    running = Rsyslog(tmp_path / "rsyslog", port, authority)
    running.start()
    sink: dict[str, object] = {"name": "siem", "kind": "syslog", "url": f"{request.param}://localhost:{port}"}
    if authority is not None:
        sink["ca"] = str(tmp_path / "rsyslog" / "ca.pem")
    yield running, sink
    running.stop()


def until(truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not truth():
        assert time.monotonic() < deadline, "rsyslog did not get everything"
        time.sleep(0.05)


def distinct(copy: Path) -> list[bytes]:
    """The lines as they came first (delivery is at least once), without the mark that RFC 5424 wants before them."""
    lines = copy.read_bytes().splitlines(keepends=True) if copy.exists() else []
    return list(dict.fromkeys(line.removeprefix(b"\xef\xbb\xbf") for line in lines))


def test_its_copy_proves_by_itself_over_its_restart(
    make_broker: Callable[..., Broker], rsyslog: tuple[Rsyslog, dict[str, object]], tmp_path: Path
) -> None:
    server, sink = rsyslog
    broker = make_broker(config={"audit": {"sinks": [sink]}}).start()
    broker.cli("owners", "create", "before")
    until(lambda: any(b"owner.create" in line for line in distinct(server.copy)))
    server.stop()
    broker.cli("owners", "create", "between")
    until(lambda: 'bursar_audit_sink_up{sink="siem"} 0' in broker.metrics())
    server.start()
    until(lambda: 'bursar_audit_sink_up{sink="siem"} 1' in broker.metrics())
    broker.cli("owners", "create", "after")
    assert broker.stop() == 0
    own = (broker.data / "audit.jsonl").read_bytes().splitlines(keepends=True)
    until(lambda: distinct(server.copy) == own)
    (tmp_path / "distinct").write_bytes(b"".join(distinct(server.copy)))
    found = verify_file(tmp_path / "distinct", broker.data / "audit-checkpoints.jsonl")
    assert (found.fault, found.records) == ("", len(own))
    head = server.heads.read_text().splitlines()[0]
    assert head == '110 bursar audit.start [meta sequenceId="1"]'
