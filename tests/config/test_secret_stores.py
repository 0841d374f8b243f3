"""What is wrong with the settings of secret stores is told with its path, all of it at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bursar.config.load import ConfigFaults, load


def faults(tmp_path: Path, secrets: dict[str, Any]) -> set[str]:
    path = tmp_path / "bursar.yaml"
    path.write_text(yaml.safe_dump({"secrets": secrets}))
    try:
        load(path, {})
    except ConfigFaults as wrong:
        return {fault.path for fault in wrong.faults}
    return set()


VAULT = {"url": "https://vault.example.com:8200"}
FINE = [
    {"vault": {"corp": VAULT}, "default": "corp"},
    {"vault": {"corp": {**VAULT, "url": "http://127.0.0.1:8200"}}},
    {"vault": {"corp": {**VAULT, "login": {"method": "approle", "role": "x", "file": "/run/x", "wrapped": True}}}},
    {"vault": {"corp": {**VAULT, "path": "llm/{team}/{key_type}", "address": {"provider": "openai"}}}},
    {"aws": {"cloud": {"region": "eu-central-1"}}, "default": "cloud"},
    {"mounted": {"disk": {"folder": "/mnt/x", "path": "{provider}__{team}"}}},
    {"environment": {"env": {"variables": {"A_KEY": {"address": "openai/*/api_key/*/*"}}}}},
]


@pytest.mark.parametrize("secrets", FINE, ids=lambda secrets: next(iter(secrets)))
def test_what_is_fine(tmp_path: Path, secrets: dict[str, Any]) -> None:
    assert faults(tmp_path, secrets) == set()


@pytest.mark.parametrize(
    ("secrets", "path"),
    [
        ({"default": "nowhere"}, "secrets.default"),
        ({"default": "disk", "mounted": {"disk": {"folder": "/x"}}}, "secrets.default"),
        ({"refresh": 0}, "secrets.refresh"),
        ({"vault": {"embedded": VAULT}}, "secrets.vault.embedded"),
        ({"vault": {"same": VAULT}, "aws": {"same": {}}}, "secrets.aws.same"),
        ({"vault": {"Bad Name": VAULT}}, "secrets.vault.Bad Name"),
        ({"vault": {"c": {}}}, "secrets.vault.c.url"),
        ({"vault": {"c": {"url": "vault:8200"}}}, "secrets.vault.c.url"),
        ({"vault": {"c": {"url": "http://vault.example.com"}}}, "secrets.vault.c.url"),
        ({"vault": {"c": {"url": "https://u:p@vault.example.com"}}}, "secrets.vault.c.url"),
        ({"vault": {"c": {**VAULT, "mount": "/secret/"}}}, "secrets.vault.c.mount"),
        ({"vault": {"c": {**VAULT, "value_field": ""}}}, "secrets.vault.c.value_field"),
        ({"vault": {"c": {**VAULT, "path": "a/{who}"}}}, "secrets.vault.c.path"),
        ({"vault": {"c": {**VAULT, "path": "{provider}__{team}"}}}, "secrets.vault.c.path"),
        ({"vault": {"c": {**VAULT, "address": {"who": "x"}}}}, "secrets.vault.c.address.who"),
        ({"vault": {"c": {**VAULT, "address": {"provider": "openai"}}}}, "secrets.vault.c.address.provider"),
        ({"vault": {"c": {**VAULT, "tags": {"purpose": ","}}}}, "secrets.vault.c.tags"),
        ({"vault": {"c": {**VAULT, "cache": {"ttl": 1}}}}, "secrets.vault.c.cache.negative_ttl"),
        ({"vault": {"c": {**VAULT, "login": {"method": "approle"}}}}, "secrets.vault.c.login.role"),
        ({"vault": {"c": {**VAULT, "login": {"role": "x"}}}}, "secrets.vault.c.login.method"),
        (
            {"vault": {"c": {**VAULT, "login": {"method": "jwt", "role": "x", "wrapped": True}}}},
            "secrets.vault.c.login.wrapped",
        ),
        ({"vault": {"c": {**VAULT, "login": {"env": "not a name"}}}}, "secrets.vault.c.login.env"),
        ({"vault": {"c": {**VAULT, "login": {"token": "hvs.x"}}}}, "secrets.vault.c.login.token"),
        (
            {"vault": {"c": {**VAULT, "leased": [{"path": "a/creds/b", "address": "openai"}]}}},
            "secrets.vault.c.leased[0].address",
        ),
        ({"aws": {"a": {"endpoint": "http://elsewhere.example.com"}}}, "secrets.aws.a.endpoint"),
        ({"mounted": {"m": {"folder": ""}}}, "secrets.mounted.m.folder"),
        (
            {"environment": {"e": {"variables": {"A-B": {"address": "openai/*/*/*/*"}}}}},
            "secrets.environment.e.variables.A-B",
        ),
        (
            {"environment": {"e": {"variables": {"A": {"address": "openai"}}}}},
            "secrets.environment.e.variables.A.address",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_path(tmp_path: Path, secrets: dict[str, Any], path: str) -> None:
    assert path in faults(tmp_path, secrets)
