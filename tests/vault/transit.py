"""The transit engine, as its documentation describes it: keys that never leave, associated data, versions."""

import base64
import binascii
import os
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vault.answers import Answer, Ask, VaultError, ok

_FIELDS = {
    "encrypt": {"plaintext", "associated_data", "context", "key_version", "nonce", "type"},
    "decrypt": {"ciphertext", "associated_data", "context", "nonce"},
}


@dataclass
class Key:
    type: str = "aes256-gcm96"
    versions: list[bytes] = field(default_factory=lambda: [os.urandom(32)])
    oldest: int = 1  # min_decryption_version


class Transit:
    """Mount it: ``vault.spaces[""].engines["transit"] = Transit()``."""

    kind, version = "transit", ""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}

    def exists(self, path: str) -> bool:
        return path.partition("/")[2] in self.keys

    def handle(self, ask: Ask, path: str) -> Answer:
        act, _, name = path.partition("/")
        if act == "keys" and name:
            return self._keys(ask, name)
        if act not in _FIELDS or ask.method != "POST":
            raise VaultError(404, "unsupported path")
        if unknown := set(ask.body) - _FIELDS[act]:
            raise VaultError(400, f"fields that the documentation does not have: {sorted(unknown)}")
        if name not in self.keys:
            if act == "decrypt":
                raise VaultError(400, "encryption key not found")
            self.keys[name] = Key()  # an upsert, which needs the capability `create`
        key = self.keys[name]
        return self._encrypt(ask.body, key) if act == "encrypt" else self._decrypt(ask.body, key)

    def _keys(self, ask: Ask, name: str) -> Answer:
        name, _, act = name.partition("/")
        if ask.method == "POST" and act == "rotate" and name in self.keys:
            self.keys[name].versions.append(os.urandom(32))
        elif ask.method == "POST" and act == "config" and name in self.keys:
            self.keys[name].oldest = int(ask.body.get("min_decryption_version", self.keys[name].oldest))
        elif ask.method == "POST" and not act:
            self.keys.setdefault(name, Key(str(ask.body.get("type") or "aes256-gcm96")))
        if name not in self.keys:
            raise VaultError(404)
        key = self.keys[name]
        return ok({"name": name, "type": key.type, "latest_version": len(key.versions), "derived": False})

    def _encrypt(self, body: dict[str, Any], key: Key) -> Answer:
        aad = self._aad(body, key)
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(key.versions[-1]).encrypt(nonce, _decoded(body, "plaintext"), aad)
        number = len(key.versions)
        return ok({"ciphertext": f"vault:v{number}:{base64.b64encode(sealed).decode()}", "key_version": number})

    def _decrypt(self, body: dict[str, Any], key: Key) -> Answer:
        aad = self._aad(body, key)
        parts = str(body.get("ciphertext", "")).split(":")
        if len(parts) != 3 or parts[0] != "vault" or not parts[1][1:].isdigit():
            raise VaultError(400, "invalid ciphertext: no prefix")
        number = int(parts[1][1:])
        if number > len(key.versions):
            raise VaultError(400, "invalid ciphertext: version is too new")
        if number < key.oldest:
            raise VaultError(400, "ciphertext or signature version is disallowed by policy (too old)")
        try:
            sealed = base64.b64decode(parts[2], validate=True)
            plain = AESGCM(key.versions[number - 1]).decrypt(sealed[:12], sealed[12:], aad)
        except (InvalidTag, binascii.Error, ValueError):
            raise VaultError(400, "cipher: message authentication failed") from None
        return ok({"plaintext": base64.b64encode(plain).decode()})

    def _aad(self, body: dict[str, Any], key: Key) -> bytes | None:
        if "associated_data" not in body:
            return None
        if key.type not in ("aes256-gcm96", "aes128-gcm96", "chacha20-poly1305"):
            raise VaultError(400, f"associated data not supported for key type {key.type}")
        return _decoded(body, "associated_data")


def _decoded(body: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(str(body[name]), validate=True)
    except (KeyError, binascii.Error, ValueError):
        raise VaultError(400, f"failed to base64-decode {name}") from None
