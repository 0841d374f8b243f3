"""The text form of Bursar's own credentials, and the keyed digest under which they are found.

    bsr_<public id>_<secret><checksum>        a virtual key
    bsa_<public id>_<secret><checksum>        an admin token

    public id   12 characters of lower-case base32 (60 random bits); stable across rotations, safe to show
    secret      43 characters of base62 (256 random bits)
    checksum    6 characters of base62: CRC-32 of all that stands before it

The alphabet has no `-`, so that a double click takes the whole; the prefix and the checksum (GitHub's scheme) let a
scanner look for leaked keys without false positives. The checksum is no secret and proves nothing about validity.
"""

import hashlib
import re
import zlib
from base64 import b32encode
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from bursar.core.secret import Secret

Kind = Literal["key", "admin"]

PEPPER_BYTES = 32
PREFIXES: dict[Kind, str] = {"key": "bsr_", "admin": "bsa_"}
_KINDS: dict[str, Kind] = {prefix: kind for kind, prefix in PREFIXES.items()}

KEY_PATTERN = r"\bbs[ra]_[a-z2-7]{12}_[0-9A-Za-z]{49}\b"
"""For scanners: every credential of ours, in any text. Confirm a hit with `parse`."""

_SHAPE = re.compile(r"bs[ra]_[a-z2-7]{12}_[0-9A-Za-z]{49}", re.ASCII)
_LEAK = re.compile(r"\b(bs[ra]_[a-z2-7]{12})_[0-9A-Za-z]{20,}", re.ASCII)
_LEAK_BYTES = re.compile(_LEAK.pattern.encode())
_JWT = re.compile(r"\b(ey[A-Za-z0-9_-]{8,2000}\.ey)[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
_JWT_BYTES = re.compile(_JWT.pattern.encode())
_PUBLIC_ID = re.compile(r"[a-z2-7]{12}", re.ASCII)
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH = 66
_CHECKSUM = 6
_SECRET = 43


class Entropy(Protocol):
    """Where the random bits come from (`bursar.ports.Entropy`)."""

    def token_bytes(self, count: int) -> bytes: ...


class ParsedKey(msgspec.Struct, frozen=True, gc=False):
    """What a well-formed credential says of itself. Says nothing about whether it is known."""

    kind: Kind
    public_id: str


def mint(entropy: Entropy, kind: Kind = "key", public_id: str | None = None) -> tuple[str, Secret]:
    """A new credential -> (public id, text). With `public_id` an existing key gets a further secret (rotation).

    Raises ValueError when `public_id` is not one.
    """
    if public_id is None:
        public_id = b32encode(entropy.token_bytes(8)).decode()[:12].lower()
    elif not _PUBLIC_ID.fullmatch(public_id):
        raise ValueError("a public id is 12 characters of lower-case base32")
    random = _base62(int.from_bytes(entropy.token_bytes(32)), _SECRET)
    body = f"{PREFIXES[kind]}{public_id}_{random}"
    return public_id, Secret(body + _checksum(body))


def parse(text: str) -> ParsedKey | None:
    """The kind and public id of a well-formed credential whose checksum holds; None for anything else."""
    if len(text) != _LENGTH or not _SHAPE.fullmatch(text) or _checksum(text[:-_CHECKSUM]) != text[-_CHECKSUM:]:
        return None
    return ParsedKey(_KINDS[text[:4]], text[4:16])


def digest(text: str, pepper: bytes) -> bytes:
    """The 32 bytes under which a credential is stored: BLAKE2b keyed with the pepper (RFC 7693 §2.9).

    Keyed, so that a copied directory cannot be searched for a known key; fast, because the secret has 256 bits of
    its own and needs no stretching. Any text is accepted: what is malformed is merely not found.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=pepper, digest_size=32).digest()


def digester(pepper: bytes) -> Callable[[str], bytes]:
    """`digest` with the pepper set: what depends on the pepper alone is computed here, once."""
    keyed = hashlib.blake2b(key=pepper, digest_size=32)

    def digest_of(text: str) -> bytes:
        state = keyed.copy()
        state.update(text.encode() if text.isascii() else text.encode("utf-8", "surrogatepass"))
        return state.digest()

    return digest_of


def mask(text: str) -> str:
    """`text` with the secret part of every credential of ours blotted out (``bsr_abcdefgh2345_***``), and of every JWT,
    whoever issued it.
    """
    if ".ey" in text:
        text = _JWT.sub(r"\1***", text)
    return _LEAK.sub(r"\1_***", text) if "bsr_" in text or "bsa_" in text else text


def mask_bytes(text: bytes) -> bytes:
    """`mask` for encoded text."""
    if b".ey" in text:
        text = _JWT_BYTES.sub(rb"\1***", text)
    return _LEAK_BYTES.sub(rb"\1_***", text) if b"bsr_" in text or b"bsa_" in text else text


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECKSUM)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits.append(_BASE62[rest])
    return "".join(reversed(digits))
