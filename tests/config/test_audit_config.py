"""The sinks of the audit in bursar.yaml: every fault told, with its place; no secret repeated."""

from pathlib import Path

import pytest

from bursar.config import Config
from bursar.config.checks import check_files
from bursar.config.load import ConfigFaults, load


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "bursar.yaml"
    path.write_text(text)
    return load(path, {})


def faults(tmp_path: Path, text: str) -> dict[str, str]:
    with pytest.raises(ConfigFaults) as refused:
        loaded(tmp_path, text)
    told: dict[str, str] = {}
    for fault in refused.value.faults:
        told[fault.path] = f"{told.get(fault.path, '')}{fault.word}: {fault.message} {fault.hint}\n"
    return told


SINKS = """\
audit:
  sinks:
    - {name: a b, kind: syslog, url: "udp://siem:514"}
    - {name: siem, kind: syslog, url: "tcp://siem.example:6514", ca: ca.pem, secret_env: X}
    - {name: siem, kind: webhook, url: "http://user:pass-word@10.0.0.1/x"}
    - {name: hook, kind: webhook, url: "https://siem.example/?q=1", secret_env: A, secret_file: B, timeout: 0}
    - {name: ocsf, kind: ocsf, url: "https://siem.example/", format: cef, cert: c.pem}
    - {name: fine, kind: ocsf, url: "https://siem.example/in?token=no", secret_env: A}
"""


def test_every_fault_of_an_audit_sink_is_told(tmp_path: Path) -> None:
    told = faults(tmp_path, SINKS)
    expected = {
        "audit.sinks[0].name": "is not a name",
        "audit.sinks[0].url": "tls://siem.example:6514",
        "audit.sinks[1].url": "certificates and no TLS",
        "audit.sinks[1].secret_env": "no meaning for syslog",
        "audit.sinks[2].name": "or taken",
        "audit.sinks[2].url": "holds a credential",
        "audit.sinks[2].secret_env": "a webhook is signed",
        "audit.sinks[3].timeout": "above zero",
        "audit.sinks[3].secret_file": "keep one of the two",
        "audit.sinks[4].format": "for syslog only",
        "audit.sinks[4].cert": "go together",
    }
    for path, words in expected.items():
        assert words in told[path], (path, told)
    assert set(told) == set(expected)
    assert "pass-word" not in repr(told)


def test_files_of_a_sink_must_be_there(tmp_path: Path) -> None:
    text = "audit: {sinks: [{name: s, kind: syslog, url: 'tls://h:1', ca: /no/ca, cert: /no/c, key: /no/k}]}"
    assert [fault.path for fault in check_files(loaded(tmp_path, text))] == [
        "audit.sinks[0].ca",
        "audit.sinks[0].cert",
        "audit.sinks[0].key",
    ]
