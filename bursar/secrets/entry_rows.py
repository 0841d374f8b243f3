"""What both sealed stores keep of a provider key in clear, and what they ask of a value before they seal it."""

import hmac
from base64 import b32encode
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from bursar.core.errors import Refusal
from bursar.core.provider_keys import SecretEntry, SecretVersion, VersionState
from bursar.core.secret import Secret
from bursar.ports import Entropy
from bursar.secrets.sealing import SealError


def new_id(entropy: Entropy) -> str:
    return "sec_" + b32encode(entropy.token_bytes(10)).decode().lower()


def fingerprint(key: Secret, value: Secret) -> bytes:
    """Keyed, so that a copied store does not tell whether it holds a key that somebody has found."""
    raw = value.reveal().encode("utf-8", "surrogatepass")
    return hmac.digest(bytes.fromhex(key.reveal()), raw, "sha256")


def duplicate(secret_id: str, address: str, version: int) -> Refusal:
    """The same value is stored already, there."""
    return Refusal(
        "duplicate_secret",
        f"The same provider key is already stored as {address}, version {version}",
        "Use that entry, or allow the duplicate",
        facts={"secret": secret_id, "address": address, "version": version},
    )


def entry_of(row: Sequence[object], versions: Sequence[tuple[int, str, int]]) -> SecretEntry:
    secret_id, address, tags, disabled, created_at, updated_at = row
    return SecretEntry(
        id=cast(str, secret_id),
        address=cast(str, address),
        tags=decode_tags(cast(str, tags)),
        version=next((number for number, state, _ in versions if state == "current"), 0),
        versions=tuple(
            SecretVersion(version=number, state=cast(VersionState, state), created_at=created)
            for number, state, created in versions
        ),
        disabled=bool(disabled),
        created_at=cast(int, created_at),
        updated_at=cast(int, updated_at),
    )


def encode_tags(tags: Mapping[str, str]) -> str:
    return msgspec.json.encode(dict(sorted(tags.items()))).decode()


def decode_tags(tags: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(tags, type=dict[str, str])
    except msgspec.MsgspecError:
        raise SealError("tags_changed", "The tags of a row cannot be read", "Restore the row from a backup") from None
