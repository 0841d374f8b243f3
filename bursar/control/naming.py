"""Ids and names of what people create: an id is short, readable and for ever; a name may change."""

import re
import unicodedata
from collections.abc import Container

from bursar.core.errors import Refusal

_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
_NOT_ID = re.compile(r"[^a-z0-9_.]+", re.ASCII)
_MAX_NAME = 120
_MAX_TAGS = 32


def check_name(name: str) -> str:
    """The name without blanks around it. Raises Refusal(invalid_input)."""
    clean = name.strip()
    if not clean or len(clean) > _MAX_NAME or not clean.isprintable():
        raise Refusal("invalid_input", f"A name has 1 to {_MAX_NAME} printable characters", "Give another --name")
    return clean


def check_id(entity_id: str) -> str:
    """The id itself. Raises Refusal(invalid_input)."""
    if not _ID.fullmatch(entity_id):
        hint = "Use a-z, 0-9, `.`, `_` and `-`, at most 63 characters, beginning with a letter or digit"
        raise Refusal("invalid_input", f"{entity_id[:64]!r} cannot be an id", hint)
    return entity_id


def check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The tags, each once, in order. A tag is one word, for budgets and reports: it has the form of an id."""
    if len(tags) > _MAX_TAGS:
        raise Refusal("invalid_input", f"There may be {_MAX_TAGS} tags", "Leave some out")
    return tuple(dict.fromkeys(check_id(tag) for tag in tags))


def id_from(name: str, taken: Container[str]) -> str:
    """A free id that resembles the name: "Search & Ads" -> ``search-ads``, then ``search-ads-2``."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    base = _NOT_ID.sub("-", ascii_name).strip("-_.")[:56] or "unnamed"
    candidate, number = base, 1
    while candidate in taken:
        number += 1
        candidate = f"{base}-{number}"
    return candidate
