"""A provider key's entry: its address, its tags, and the digest by which both are bound into the sealed value.

Address: ``provider/model/key_type/environment/team``, `*` where it does not narrow. Tags are texts; four of them bind
at use (`billing_owner`, `purpose`, `allowed_models`, `max_tokens_default`; the lists are comma lists), the rest are
free. Nothing here ever holds the value itself.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from bursar.core.directory import ProviderKey
from bursar.core.errors import Refusal
from bursar.core.secret import Secret

UNASSIGNED = "unassigned"
ADDRESS_PARTS = ("provider", "model", "key_type", "environment", "team")
BINDING_TAGS = ("billing_owner", "purpose", "allowed_models", "max_tokens_default")

VersionState = Literal["current", "previous", "deleted", "destroyed"]  # deleted: the store could bring it back
EMBEDDED = "embedded"

_PART = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._:@+%-]{0,127}", re.ASCII)
_TAG_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)
_PURPOSE = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)
_MAX_TAGS = 64
_MAX_TAG_VALUE = 1024
_MAX_TOKENS = 10**9


class SecretVersion(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    state: VersionState
    created_at: int  # ns


class SecretEntry(msgspec.Struct, frozen=True, kw_only=True):
    """All that may be known of a stored provider key without opening it."""

    id: str
    address: str
    tags: dict[str, str]
    version: int  # the current one; 0 = destroyed
    versions: tuple[SecretVersion, ...] = ()
    disabled: bool = False
    created_at: int = 0  # ns
    updated_at: int = 0  # ns
    store: str = EMBEDDED  # where it lies
    fault: str = ""  # the word why it cannot be used as it lies there: invalid_address, invalid_tags, ...

    @property
    def unowned(self) -> bool:
        """Nobody pays for it yet: flagged until tagged."""
        return self.tags.get("billing_owner", UNASSIGNED) == UNASSIGNED


class Put(NamedTuple):
    """A value to be stored at an address, under these tags."""

    address: str
    value: Secret
    tags: Mapping[str, str] = {}


def check_apart(puts: Sequence[Put]) -> None:
    """Several to be stored in one act. Raises Refusal(invalid_address | duplicate_secret): one would undo another."""
    seen: dict[str | Secret, str] = {}
    for put in puts:
        if put.address in seen:
            raise Refusal("invalid_address", f"{put.address} stands there twice", "Keep one of them")
        if put.value in seen:
            message = f"{put.address} and {seen[put.value]} have the same value"
            raise Refusal("duplicate_secret", message, "Keep one of them")
        seen[put.address] = seen[put.value] = put.address


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """How a secret store is, as last seen."""

    name: str
    writable: bool
    default: bool  # new entries go there
    fault: str = ""  # the word why it does not serve
    message: str = ""
    stale_answers: int = 0  # answers from the cache while it was away, since the start


def check_address(address: str) -> str:
    """The address itself when its five parts are well-formed. Raises Refusal(invalid_address)."""
    parts = address.split("/")
    shape = "/".join(ADDRESS_PARTS)
    if len(parts) != len(ADDRESS_PARTS):
        raise Refusal("invalid_address", f"An address has five parts, this has {len(parts)}", f"Write {shape}")
    for name, part in zip(ADDRESS_PARTS, parts, strict=True):
        if not _PART.fullmatch(part):
            hint = "Use letters, digits and . _ : @ + % -, or * where it does not narrow"
            raise Refusal("invalid_address", f"The part {name!r} of the address is malformed", hint)
    if parts[0] == "*":
        raise Refusal("invalid_address", "The provider of an address cannot be *", f"Write {shape}")
    return address


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags in canonical form: sorted, lists tidied, `billing_owner` always there. Raises Refusal(invalid_tags)."""
    if len(tags) > _MAX_TAGS:
        raise Refusal("invalid_tags", f"An entry has at most {_MAX_TAGS} tags")
    clean = {name: _tag_value(name, value) for name, value in tags.items()}
    clean.setdefault("billing_owner", UNASSIGNED)
    return dict(sorted(clean.items()))


def is_tag_name(name: str) -> bool:
    return _TAG_NAME.fullmatch(name) is not None


def _tag_value(name: str, value: str) -> str:
    if not is_tag_name(name):
        raise Refusal("invalid_tags", "A tag's name is malformed", "Use lower-case letters, digits and _ . -")
    if not value or len(value) > _MAX_TAG_VALUE or not value.isprintable():
        raise Refusal("invalid_tags", f"The tag {name!r} is empty, too long or not printable")
    if name in ("purpose", "allowed_models"):
        return ",".join(_list_tag(name, value))
    if name == "max_tokens_default" and not (value.isascii() and value.isdigit() and 0 < int(value) <= _MAX_TOKENS):
        raise Refusal("invalid_tags", "The tag 'max_tokens_default' is not a positive whole number")
    return value


def _list_tag(name: str, value: str) -> tuple[str, ...]:
    """A comma list without blanks and empty parts. An empty list is refused: it must never come to mean "any"."""
    parts = tuple(dict.fromkeys(part for raw in value.split(",") if (part := raw.strip())))
    if not parts:
        raise Refusal("invalid_tags", f"The tag {name!r} lists nothing", "Leave it out, or name at least one")
    if name == "purpose" and not all(_PURPOSE.fullmatch(part) for part in parts):
        raise Refusal("invalid_tags", "The tag 'purpose' has a malformed part", "For example inference,embedding")
    return parts


def tag_digest(address: str, tags: Mapping[str, str]) -> bytes:
    """32 bytes that change with the address or any tag: SHA-256 over length-prefixed texts, tags by name.

    It goes into the sealed value's associated data, so that tags moved from one row to another open nothing.
    """
    texts = [address]
    for name in sorted(tags):
        texts += (name, tags[name])
    hashed = hashlib.sha256(b"bursar tag digest 1\0")
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        hashed.update(len(raw).to_bytes(4))
        hashed.update(raw)
    return hashed.digest()


def provider_key_of(entry: SecretEntry) -> ProviderKey:
    """What the gateway learns of an entry: its binding tags as typed rules, the free ones as they are."""
    tags = entry.tags
    limit = tags.get("max_tokens_default")
    return ProviderKey(
        id=entry.id,
        version=entry.version,
        address=entry.address,
        billing_owner=tags.get("billing_owner", UNASSIGNED),
        purposes=_split(tags.get("purpose"), ("inference",)),
        allowed_models=_split(tags.get("allowed_models"), ("*",)),
        max_tokens_default=None if limit is None else int(limit),
        disabled=entry.disabled or entry.version == 0 or bool(entry.fault),
        tags={name: value for name, value in tags.items() if name not in BINDING_TAGS},
        store=entry.store,
    )


def _split(value: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    return default if value is None else tuple(value.split(","))
