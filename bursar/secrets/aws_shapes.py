"""How entries are written in AWS Secrets Manager: version ids, stage labels, tags. Pure."""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from bursar.core.errors import Refusal
from bursar.core.provider_keys import SecretVersion, VersionState
from bursar.core.units import NS_PER_S

ID, FINGERPRINT, DISABLED, OURS = "bursar:id", "bursar:fingerprint", "bursar:disabled", "bursar:layout"
OWN = frozenset({ID, FINGERPRINT, DISABLED, OURS})
_MOST_TAGS = 46  # AWS takes 50
_MOST_TAG_VALUE = 256
_PLAIN = re.compile(r"[A-Za-z0-9 +\-._:/@]")
_LISTS = frozenset({"purpose", "allowed_models"})
COUNTED = 2**32  # numbers below are ours


def version_id(name: str, number: int) -> str:
    """A UUID that ends with the number, and begins with what only this secret has."""
    digest = hashlib.sha256(f"bursar version\0{name}\0{number}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{number:012x}"


def number_of(version_id: str) -> int:
    """The 48 bits at the end; of an id that is no UUID, of its digest."""
    tail = version_id[-12:]
    if re.fullmatch(r"[0-9a-fA-F]{12}", tail):
        return int(tail, 16) or 1
    return int.from_bytes(hashlib.sha256(version_id.encode()).digest()[:6]) | COUNTED


def current_of(told: Mapping[str, Any]) -> int:
    stages = told.get("VersionIdsToStages") or told.get("SecretVersionsToStages") or {}
    return next((number_of(one) for one, labels in stages.items() if "AWSCURRENT" in labels), 0)


def versions_of(stages: Mapping[str, list[str]], changed: int) -> tuple[SecretVersion, ...]:
    """Those with a label, the current one last. AWSPENDING alone is a rotation that has not come to its end."""
    found = []
    for version_id, labels in stages.items():
        state: VersionState = "current" if "AWSCURRENT" in labels else "previous"
        if labels != ["AWSPENDING"]:
            created = changed if state == "current" else 0
            found.append(SecretVersion(version=number_of(version_id), state=state, created_at=created))
    return tuple(sorted(found, key=lambda version: (version.state == "current", version.version)))


def tags_of(told: Mapping[str, Any]) -> dict[str, str]:
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in told.get("Tags") or ()}


def fitting(tags: dict[str, str], store: str) -> dict[str, str]:
    """The tags, if AWS can hold them. Raises Refusal(invalid_tags)."""
    long = [name for name, value in tags.items() if len(quoted(value)) > _MOST_TAG_VALUE]
    if long or len(tags) > _MOST_TAGS or any(name.startswith("aws") for name in tags):
        hint = f"At most {_MOST_TAGS} tags of {_MOST_TAG_VALUE} characters each, none of them called aws..."
        raise Refusal("invalid_tags", f"{store} cannot hold these tags", hint)
    return tags


def quoted(text: str) -> str:
    return "".join(c if _PLAIN.fullmatch(c) else "".join(f"={byte:02X}" for byte in c.encode()) for c in text)


def plain(text: str) -> str:
    raw = re.sub(rb"=([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    return raw.decode("utf-8", "replace")


def as_list(name: str, text: str) -> str:
    return ",".join(text.replace(",", " ").split()) if name in _LISTS else text


def object_of(text: str | None) -> dict[str, object]:
    try:
        return msgspec.json.decode(text or "", type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def instant_of(moment: object) -> int:
    return int(moment.timestamp() * 1000) * (NS_PER_S // 1000) if isinstance(moment, datetime) else 0
