"""Ed25519 for the gateway: loaded when the first token key arrives, so that a node without tokens does not carry it.

It costs 7 MB and 12 ms (docs/decisions/0004). Of `cryptography` only this primitive is used here: nothing in this
process opens anything that is sealed.
"""

import importlib
from typing import Any


class Ed25519:
    """`bursar.gateway.tokens.Verify`."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Any] = {}
        self._module: Any = None

    def load(self) -> None:
        if self._module is None:
            self._module = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool:
        self.load()
        key = self._keys.get(public)
        if key is None:
            if len(self._keys) > 64:  # keys rotate: those of long ago need not stay
                self._keys.clear()
            key = self._keys[public] = self._module.Ed25519PublicKey.from_public_bytes(public)
        try:
            key.verify(signature, message)
        except Exception as error:
            if type(error).__name__ != "InvalidSignature":
                raise
            return False
        return True
