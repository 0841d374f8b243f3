"""Project Wycheproof's vectors (C2SP/wycheproof, Apache-2.0) through the very functions that the seal calls.

The files in `wycheproof/` are subsets: what can occur here. Each names its source, its commit and its licence.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from bursar.core.secret import Secret
from bursar.secrets import aead
from bursar.secrets.wrap.passphrase import stretched

VECTORS = Path(__file__).parent / "wycheproof"


def load(name: str) -> list[dict[str, Any]]:
    found = json.loads((VECTORS / name).read_text())
    assert found["licence"] == "Apache-2.0"
    return list(found["tests"])


def raw(test: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(test[name]) for name in names]


GCM, HKDF = load("aes_gcm.json"), load("hkdf_sha256.json")


@pytest.mark.parametrize("test", GCM, ids=lambda test: f"{test['tcId']}-{test['result']}")
def test_aes_gcm(test: dict[str, Any]) -> None:
    key, nonce, aad, plain, ciphertext, tag = raw(test, "key", "iv", "aad", "msg", "ct", "tag")
    if test["result"] == "valid":
        assert aead.encrypt(key, nonce, plain, aad) == ciphertext + tag
        assert aead.decrypt(key, nonce, ciphertext + tag, aad) == plain
    else:
        assert aead.decrypt(key, nonce, ciphertext + tag, aad) is None


@pytest.mark.parametrize("test", HKDF, ids=lambda test: f"{test['tcId']}-{test['result']}")
def test_hkdf(test: dict[str, Any]) -> None:
    key, info, derived = raw(test, "ikm", "info", "okm")
    assert aead.derive(key, info, test["size"]) == derived


def test_the_subsets_are_what_they_say() -> None:
    assert {(len(t["key"]), len(t["iv"]), len(t["tag"])) for t in GCM} == {(64, 24, 32)}
    assert {t["salt"] for t in HKDF} == {""}
    assert {t["result"] for t in GCM} == {"valid", "invalid"}
    assert {t["result"] for t in HKDF} == {"valid"}


def test_argon2id_as_the_reference_implementation_has_it() -> None:
    """test.c of P-H-C/phc-winner-argon2 (CC0): Argon2id, version 0x13, t = 4, m = 2^16 KiB, p = 1."""
    key = stretched(Secret("password"), (65536, 4, 1, b"somesalt"))
    assert key.hex() == "9025d48e68ef7395cca9079da4c4ec3affb3c8911fe4f86d1a2520856f63172c"
