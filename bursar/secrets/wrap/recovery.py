"""A second way in: a key pair whose public half wraps each data key, and whose private half lies elsewhere.

The running node holds the public half only, so that whoever takes the node has not taken the recovery key. Wrapping is
HPKE (RFC 9180, base mode): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; `info` binds the wrapper's id and the
context. The private half is a file of its own, or is made from a passphrase by Argon2id. The id tells the public half,
and for a passphrase all else that is needed:

    recovery:x25519.<public key, 64 hex>
    recovery:x25519.<public key, 64 hex>.m65536.t3.p4.<salt, 32 hex>

The public half is not authenticated by standing in an id: which one a node seals under is kept as a sealed secret.
"""

import re
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from bursar.core.secret import Secret
from bursar.ports import Entropy
from bursar.secrets.sealing import WrapperError
from bursar.secrets.wrap.local import KEY_BYTES
from bursar.secrets.wrap.passphrase import LANES, MEMORY_KIB, PASSES, check_length, stretched
from bursar.secrets.wrap.private_file import fields_of, read_private, write_private

PREFIX = "recovery:"
_MARK = "bursar-recovery-key-1"
_ID = re.compile(r"recovery:x25519\.([0-9a-f]{64})(?:\.m(\d{1,8})\.t(\d{1,3})\.p(\d{1,3})\.([0-9a-f]{32}))?", re.ASCII)
_WRAPPED = 32 + KEY_BYTES + 16
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_NOTE = (
    "# Bursar's recovery key. Whoever has this file and secrets.db can open every provider key.\n"
    "# Keep it away from the node, its wrapping key and its backups: it is for the day on which that key is lost.\n"
)


class RecoveryWrapper:
    """`bursar.ports.KeyWrapper`. Without the private half it wraps and does not unwrap."""

    def __init__(self, wrapper_id: str, private: X25519PrivateKey | None = None) -> None:
        """Raises WrapperError(wrapper_wrong) for an id that names no recovery key, or not this one."""
        match = _ID.fullmatch(wrapper_id)
        if match is None:
            raise WrapperError("wrapper_wrong", "This is not the id of a recovery key", "See: bursar secrets recovery")
        if private is not None and private.public_key().public_bytes_raw().hex() != match[1]:
            message = "The recovery key is another one than the secrets were sealed under"
            raise WrapperError("wrapper_wrong", message, "Use the one that was made last")
        self.id = wrapper_id
        self._public = X25519PublicKey.from_public_bytes(bytes.fromhex(match[1]))
        self._private = private

    def __repr__(self) -> str:
        return f"RecoveryWrapper({self.id})"

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        return _SUITE.encrypt(data_key, self._public, self._info(context))

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises WrapperError: wrapper_lost without the private half, wrapper_wrong for another key or context."""
        if self._private is None:
            message = "The recovery key is kept elsewhere, this node has its public half only"
            hint = "bursar secrets recovery use --key FILE"
            raise WrapperError("wrapper_lost", message, hint, facts={"wrapper": self.id})
        if len(wrapped) == _WRAPPED:
            try:
                return _SUITE.decrypt(wrapped, self._private, self._info(context))
            except InvalidTag:
                pass
        message, hint = "The recovery key does not open this secret", "Restore the row from a backup"
        raise WrapperError("wrapper_wrong", message, hint, facts={"wrapper": self.id})

    def _info(self, context: bytes) -> bytes:
        raw = self.id.encode()
        return b"bursar recovery\0\1" + len(raw).to_bytes(2) + raw + context


def create_file(path: Path, entropy: Entropy) -> RecoveryWrapper:
    """A new pair, its private half in a file, 0600. Raises as `write_private`."""
    private = X25519PrivateKey.from_private_bytes(entropy.token_bytes(32))
    public = private.public_key().public_bytes_raw().hex()
    write_private(path, Secret(f"{_NOTE}{_MARK} {public} {private.private_bytes_raw().hex()}\n"))
    return load_file(path)


def load_file(path: Path) -> RecoveryWrapper:
    """Raises WrapperError: wrapper_lost (no file), wrapper_unsafe (open to others), wrapper_wrong (damaged)."""
    fields = fields_of(read_private(path), 3)
    if fields is not None and fields[0] == _MARK and re.fullmatch("[0-9a-f]{64}", fields[2]):
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(fields[2]))
        if private.public_key().public_bytes_raw().hex() == fields[1]:
            return RecoveryWrapper(f"{PREFIX}x25519.{fields[1]}", private)
    raise WrapperError("wrapper_wrong", f"{path} is not an intact recovery key", "Restore it from its copy")


def create_passphrase(passphrase: Secret, entropy: Entropy) -> RecoveryWrapper:
    """A new pair made from a passphrase and a fresh salt. Raises WrapperError(wrapper_unsafe): a short passphrase."""
    check_length(passphrase)
    costs = (MEMORY_KIB, PASSES, LANES, entropy.token_bytes(16))
    private = X25519PrivateKey.from_private_bytes(stretched(passphrase, costs))
    public = private.public_key().public_bytes_raw().hex()
    stem = f"m{MEMORY_KIB}.t{PASSES}.p{LANES}.{costs[3].hex()}"
    return RecoveryWrapper(f"{PREFIX}x25519.{public}.{stem}", private)


def unlock_passphrase(passphrase: Secret, wrapper_id: str) -> RecoveryWrapper:
    """Raises WrapperError: wrapper_wrong (another passphrase, or not of one), wrapper_unsafe (weak or absurd)."""
    match = _ID.fullmatch(wrapper_id)
    if match is None or match[2] is None:
        message = "The recovery key of these secrets is not made from a passphrase"
        raise WrapperError("wrapper_wrong", message, "Give its file with --key")
    costs = (int(match[2]), int(match[3]), int(match[4]), bytes.fromhex(match[5]))
    return RecoveryWrapper(wrapper_id, X25519PrivateKey.from_private_bytes(stretched(passphrase, costs)))
