"""Settings of the login: every fault by its path, and the callback's address."""

import json
from pathlib import Path
from typing import Any

import pytest

from bursar.config import Config
from bursar.config.load import load
from bursar.config.login import redirect_url_of
from bursar.core.strict import Faults

GOOD = {"issuer": "https://login.example.org", "client_id": "bursar", "roles": {"admins": "admin"}}


def loaded(folder: Path, oidc: dict[str, Any], **more: Any) -> Config:
    path = folder / "bursar.yaml"
    path.write_text(json.dumps({"admin": {"oidc": oidc}, **more}))
    return load(path, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("issuer", "login.example.org"),
        ("issuer", "http://login.example.org"),
        ("issuer", "http://localhost:9000"),
        ("issuer", "https://user:password@login.example.org"),
        ("issuer", "https://login.example.org?a=b"),
        ("issuer", "https://[::1"),
        ("client_id", ""),
        ("client_secret_env", "NOT A NAME"),
        ("redirect_url", "https://bursar.example.org/elsewhere"),
        ("redirect_url", "http://bursar.example.org/login/callback"),
        ("redirect_url", "https://bursar.example.org/login/callback?a=b"),
        ("scopes", ["profile"]),
        ("scopes", ["openid", "a b"]),
        ("claim", ""),
        ("roles", {}),
        ("roles.admins", "emperor"),
        ("algorithms", ["HS256"]),
        ("algorithms", ["none"]),
        ("algorithms", []),
        ("session", "10s"),
        ("session", "90d"),
    ],
)
def test_a_fault_is_told_by_its_path(tmp_path: Path, field: str, value: Any) -> None:
    name, _, inner = field.partition(".")
    with pytest.raises(Faults) as caught:
        loaded(tmp_path, {**GOOD, name: {inner: value} if inner else value})
    assert [fault.path for fault in caught.value.faults] == [f"admin.oidc.{field}"]


def test_one_place_for_the_secret(tmp_path: Path) -> None:
    with pytest.raises(Faults) as caught:
        loaded(tmp_path, {**GOOD, "client_secret_env": "A", "client_secret_file": "b"})
    assert [fault.path for fault in caught.value.faults] == ["admin.oidc.client_secret_file"]


@pytest.mark.parametrize(
    ("listen", "given", "address"),
    [
        ({}, "", "http://127.0.0.1:4001/login/callback"),
        ({"host": "::1", "port": 5000}, "", "http://[::1]:5000/login/callback"),
        ({}, "https://bursar.example.org/login/callback", "https://bursar.example.org/login/callback"),
    ],
)
def test_where_the_issuer_sends_browsers(tmp_path: Path, listen: dict[str, Any], given: str, address: str) -> None:
    config = loaded(tmp_path, {**GOOD, "redirect_url": given}, listen={"admin": listen})
    assert redirect_url_of(config) == address


def test_an_issuer_on_this_machine_by_http_where_that_is_on(tmp_path: Path) -> None:
    oidc = {**GOOD, "issuer": "http://localhost:9000"}
    assert loaded(tmp_path, oidc, tokens={"http_loopback": True}).admin.oidc is not None
