"""A key-encryption key held in this process's memory: AES-256-GCM under a random 96-bit nonce.

Wrapped form: nonce (12) + encrypted data key (32) + tag (16). Associated data: the wrapper's id and the context. One
key is good for 2^32 wraps (NIST SP 800-38D §8.3); each stored version of a secret is one wrap.
"""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from bursar.ports import Entropy
from bursar.secrets import aead
from bursar.secrets.sealing import WrapperError

KEY_BYTES = aead.KEY_BYTES
_NONCE = aead.NONCE_BYTES
_WRAPPED = _NONCE + KEY_BYTES + aead.TAG_BYTES


class LocalWrapper:
    """`bursar.ports.KeyWrapper` for a key that this process may hold. The key is out of reach of a repr."""

    def __init__(self, wrapper_id: str, key: bytes, entropy: Entropy) -> None:
        self.id = wrapper_id
        self._key = key
        self._entropy = entropy

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id})"

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        nonce = self._entropy.token_bytes(_NONCE)
        return nonce + aead.encrypt(self._key, nonce, data_key, self._aad(context))

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises WrapperError(wrapper_wrong) for another key, another context or a spoiled byte."""
        if len(wrapped) == _WRAPPED:
            data_key = aead.decrypt(self._key, wrapped[:_NONCE], wrapped[_NONCE:], self._aad(context))
            if data_key is not None:
                return data_key
        hint = "Use the wrapping key of this very database, or restore the row from a backup"
        raise WrapperError(
            "wrapper_wrong", "The wrapping key does not open this secret", hint, facts={"wrapper": self.id}
        )

    def _aad(self, context: bytes) -> bytes:
        raw = self.id.encode()
        return b"bursar wrap\0\1" + len(raw).to_bytes(2) + raw + context


def check_value(key: bytes, length: int) -> str:
    """Hex that tells one key from another and reveals nothing of it: for ids, and to notice a wrong passphrase."""
    return HKDFExpand(SHA256(), length, info=b"bursar wrap 1 check value").derive(key).hex()
