"""Envelope encryption of one secret version: the sealed form, and the only code that opens it.

Each version has a data key of its own (256 random bits), wrapped by one or more key-encryption keys. The sealed form,
format 1, is final; a reader refuses every format it does not know:

    bytes 0-3    magic "BSRS"
    byte  4      format (1)
    then         msgpack array:
                 [secret id, version, tag digest (32), commitment (32), nonce (12),
                  [[wrapper id, wrapped data key], ...], ciphertext with its 16-byte tag]
    last 32      HMAC-SHA256 over all bytes before it

From the data key, by HKDF-SHA256 (RFC 5869) without salt and with info "bursar seal 1 <use>": the AES-256-GCM key
("encrypt"), the commitment ("commit") and the HMAC key ("header").

- Associated data: format, secret id, version and tag digest (`associated_data`). A value moved to another entry,
  another version or under other tags does not open.
- GCM does not commit to its key: one ciphertext can be made to open under two. The commitment is compared in constant
  time before anything is decrypted.
- The data key is wrapped with the secret id and version as context, not the wrapper list, so that `rewrap` changes
  wrappers without touching the ciphertext. The HMAC covers the list: no entry is added, dropped or spoiled unseen.

What it does not do: tell an old row, put back whole, from the present one; wipe memory (Python cannot promise it).
"""

import hmac
from collections.abc import Sequence
from typing import Annotated

import msgspec

from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import Entropy, KeyWrapper
from bursar.secrets import aead

FORMAT = 1
MAX_WRAPPERS = 8
_MAGIC = b"BSRS"
_HEAD = _MAGIC + bytes([FORMAT])
_MAC = 32
_MAX_BLOB = 1 << 20


class SealError(Refusal):
    """A sealed secret does not open. Words: wrapper_lost, wrapper_wrong, tags_changed, tampered, format_unknown."""


class WrapperError(SealError):
    """A key-encryption key cannot be used.

    Words: wrapper_lost, wrapper_wrong, wrapper_unsafe; of one that a service keeps also wrapper_unavailable (away or
    slow: worth another try) and wrapper_denied (it does not let us).
    """


Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Bytes12 = Annotated[bytes, msgspec.Meta(min_length=12, max_length=12)]


class _Sealed(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    secret_id: Annotated[str, msgspec.Meta(max_length=256)]
    version: Annotated[int, msgspec.Meta(ge=0)]
    tag_digest: Bytes32
    commitment: Bytes32
    nonce: Bytes12
    wrapped: Annotated[list[tuple[str, bytes]], msgspec.Meta(min_length=1, max_length=MAX_WRAPPERS)]
    ciphertext: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Sealed)


class _DataKey:
    """Holds the raw key out of reach of a repr, so that no traceback with local variables shows it."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return "DataKey(***)"

    async def wrap(self, wrapper: KeyWrapper, context: bytes) -> tuple[str, bytes]:
        return wrapper.id, await wrapper.wrap(self._raw, context)

    def derive(self, use: bytes) -> bytes:
        return aead.derive(self._raw, b"bursar seal 1 " + use)

    def encrypt(self, nonce: bytes, value: Secret, associated: bytes) -> bytes:
        # Lone surrogates (a value read from an odd environment) make the round trip: a codec error would carry them.
        return aead.encrypt(self.derive(b"encrypt"), nonce, value.reveal().encode("utf-8", "surrogatepass"), associated)

    def decrypt(self, nonce: bytes, ciphertext: bytes, associated: bytes) -> Secret | None:
        plain = aead.decrypt(self.derive(b"encrypt"), nonce, ciphertext, associated)
        try:
            return None if plain is None else Secret(plain.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            return None

    def mac(self, covered: bytes) -> bytes:
        return hmac.digest(self.derive(b"header"), covered, "sha256")


def associated_data(secret_id: str, version: int, tag_digest: bytes) -> bytes:
    """What GCM authenticates beside the value; each part has a fixed or prefixed length, so none runs into the next."""
    return wrap_context(secret_id, version) + tag_digest


def wrap_context(secret_id: str, version: int) -> bytes:
    """What a wrapped data key is bound to."""
    raw = secret_id.encode()
    return b"bursar seal\0" + bytes([FORMAT]) + len(raw).to_bytes(2) + raw + version.to_bytes(8)


async def seal(
    secret_id: str, version: int, tag_digest: bytes, value: Secret, wrappers: Sequence[KeyWrapper], entropy: Entropy
) -> bytes:
    """The sealed form of a value under a fresh data key, openable by each of `wrappers`.

    `tag_digest` is `bursar.core.provider_keys.tag_digest`. Raises WrapperError when a wrapper cannot wrap, ValueError
    for no or too many wrappers.
    """
    data_key = _DataKey(entropy.token_bytes(32))
    nonce = entropy.token_bytes(12)
    aad = associated_data(secret_id, version, tag_digest)
    ciphertext = data_key.encrypt(nonce, value, aad)
    wrapped = await _wrap_all(data_key, wrappers, wrap_context(secret_id, version))
    return _framed(
        _Sealed(secret_id, version, tag_digest, data_key.derive(b"commit"), nonce, wrapped, ciphertext), data_key
    )


async def open_sealed(
    blob: bytes, secret_id: str, version: int, tag_digest: bytes, wrappers: Sequence[KeyWrapper]
) -> Secret:
    """The value, if `blob` was sealed for just this entry, version and tags. Raises SealError otherwise."""
    sealed = _parse(blob)
    if (sealed.secret_id, sealed.version) != (secret_id, version):
        raise SealError("tampered", "The sealed secret belongs to another entry", _RESTORE, facts={"secret": secret_id})
    if not hmac.compare_digest(sealed.tag_digest, tag_digest):
        raise SealError(
            "tags_changed", "Address or tags were changed past Bursar", _RESTORE, facts={"secret": secret_id}
        )
    data_key = await _unlock(blob, sealed, wrappers)
    value = data_key.decrypt(sealed.nonce, sealed.ciphertext, associated_data(secret_id, version, tag_digest))
    if value is None:
        raise _altered(secret_id)
    return value


async def rewrap(blob: bytes, opening: Sequence[KeyWrapper], sealing: Sequence[KeyWrapper]) -> bytes:
    """The same ciphertext under other key-encryption keys: `opening` unwraps the data key, `sealing` wrap it anew.

    The value is not decrypted. Raises SealError when the blob does not unlock, ValueError for no or too many wrappers.
    """
    sealed = _parse(blob)
    data_key = await _unlock(blob, sealed, opening)
    wrapped = await _wrap_all(data_key, sealing, wrap_context(sealed.secret_id, sealed.version))
    return _framed(msgspec.structs.replace(sealed, wrapped=wrapped), data_key)


async def check_unlocks(blob: bytes, wrappers: Sequence[KeyWrapper]) -> None:
    """Raises SealError unless these wrappers unlock the blob and each byte of it is as sealed. Decrypts no value."""
    await _unlock(blob, _parse(blob), wrappers)


def wrapper_ids(blob: bytes) -> tuple[str, ...]:
    """Which key-encryption keys open this blob. Not authenticated: a hint for finding the right one."""
    return tuple(wrapper_id for wrapper_id, _ in _parse(blob).wrapped)


_RESTORE = "Restore the row from a backup, or store the key again"


def _altered(secret_id: str) -> SealError:
    return SealError("tampered", "The sealed secret was altered", _RESTORE, facts={"secret": secret_id})


async def _wrap_all(data_key: _DataKey, wrappers: Sequence[KeyWrapper], context: bytes) -> list[tuple[str, bytes]]:
    if not 1 <= len({wrapper.id for wrapper in wrappers}) == len(wrappers) <= MAX_WRAPPERS:
        raise ValueError(f"a secret is sealed under 1 to {MAX_WRAPPERS} different wrappers")
    return [await data_key.wrap(wrapper, context) for wrapper in wrappers]


def _framed(sealed: _Sealed, data_key: _DataKey) -> bytes:
    covered = _HEAD + _encoder.encode(sealed)
    return covered + data_key.mac(covered)


def _parse(blob: bytes) -> _Sealed:
    """The fields, of the right kinds and sizes; nothing of them is proven yet."""
    if len(blob) > _MAX_BLOB or blob[:4] != _MAGIC:
        raise SealError("tampered", "This is not a sealed secret", _RESTORE)
    if blob[4:5] != _HEAD[4:]:
        hint = "It was written by a newer Bursar, or damaged"
        raise SealError("format_unknown", "The sealed secret has an unknown format", hint)
    try:
        return _decoder.decode(blob[len(_HEAD) : -_MAC])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise SealError("tampered", "The sealed secret cannot be read", _RESTORE) from None


async def _unlock(blob: bytes, sealed: _Sealed, wrappers: Sequence[KeyWrapper]) -> _DataKey:
    """The data key, proven to be the one committed to and every byte of the blob proven to be as sealed."""
    data_key = await _unwrap(sealed, {wrapper.id: wrapper for wrapper in wrappers})
    if not hmac.compare_digest(data_key.derive(b"commit"), sealed.commitment):
        raise _altered(sealed.secret_id)
    if not hmac.compare_digest(data_key.mac(blob[:-_MAC]), blob[-_MAC:]):
        raise _altered(sealed.secret_id)
    return data_key


async def _unwrap(sealed: _Sealed, ring: dict[str, KeyWrapper]) -> _DataKey:
    """Tries the wrappers in hand in the blob's order: when one is spoiled or away, the next serves. Else raises for the
    first of them.
    """
    faults: list[WrapperError] = []
    lost = WrapperError(
        "wrapper_lost",
        "No wrapping key in hand opens this secret",
        "Load the one it was sealed under, or the recovery one",
        facts={"sealed_under": ", ".join(wrapper_id for wrapper_id, _ in sealed.wrapped)},
    )
    context = wrap_context(sealed.secret_id, sealed.version)
    for wrapper_id, wrapped in sealed.wrapped:
        if wrapper_id in ring:
            try:
                return _DataKey(await ring[wrapper_id].unwrap(wrapped, context))
            except WrapperError as error:
                faults.append(error)
    raise faults[0] if faults else lost
