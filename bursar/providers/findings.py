"""What a walk through messages, content parts and tools has found that can raise a price."""

import re

import msgspec

from bursar.core.calls import Call, ServerTool
from bursar.core.errors import Refusal
from bursar.core.made_ids import MadeKind, Reference, is_id
from bursar.providers.strict_json import Fields, text, unknown_keys

_MOST_REFERENCES = 256  # each is looked up
_MOST_LOOSE = 2_000
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)  # keys as well, and whatever stands twice
_string = msgspec.json.Decoder(str).decode


class Findings(msgspec.Struct, kw_only=True):
    """Filled while a body is read; the first reason found is the one that is told."""

    external: str = ""  # -> Call.external_input
    unbounded: str = ""  # -> Call.unbounded
    audio: bool = False
    one_hour: bool = False  # a cache write that is kept for an hour (or longer) can happen
    five_minutes: bool = False
    media: int = 0  # images, files, sounds
    media_bytes: int = 0  # raw bytes of the body that are media, not text
    overhead_tokens: int = 0  # input that the provider adds by itself
    unknown: list[str] = []
    tools: list[ServerTool] = []
    refers: list[Reference] = []  # -> Call.refers
    loose: tuple[str, ...] = ()  # -> Call.loose

    def outside(self, reason: str) -> None:
        """Input comes in that the body's bytes do not bound."""
        self.external = self.external or reason

    def medium(self, reason: str, size: int) -> None:
        self.outside(reason)
        self.media += 1
        self.media_bytes += size

    def refer(self, kind: MadeKind, made_id: str) -> None:
        """Something that the provider keeps is named: input comes in by it."""
        self.outside(f"{kind}_id")
        self.refers.append(Reference(kind, made_id))
        if len(self.refers) > _MOST_REFERENCES:
            raise Refusal("invalid_field", f"The body names more than {_MOST_REFERENCES} ids of things kept elsewhere")

    def no_ceiling(self, reason: str) -> None:
        self.unbounded = self.unbounded or reason

    def new_key(self, path: str) -> None:
        """A field nobody has classified; told once, and a hostile body cannot make the list long."""
        if path not in self.unknown and len(self.unknown) < 32:
            self.unknown.append(path)

    def new_fields(self, fields: Fields, known: frozenset[str]) -> None:
        """The top-level fields that nobody has classified, and the texts in them that could be ids of something kept.

        Raises Refusal(duplicate_field | invalid_field).
        """
        unknown = unknown_keys(fields, known, "")
        if not unknown:
            return
        loose: set[str] = set()
        for name in unknown:
            self.new_key(name)
            loose.update(filter(is_id, map(_string, _TEXT.findall(fields[name]))))
        if len(loose) > _MOST_LOOSE:
            message = f"The fields that Bursar does not know hold more than {_MOST_LOOSE} texts which could be ids"
            raise Refusal("invalid_field", message, "Leave them out, or send less in them")
        self.loose = tuple(loose)

    def tell(self, call: Call) -> None:
        """Set on the call what was found."""
        call.external_input = self.external
        call.unbounded = self.unbounded
        call.audio = self.audio
        call.overhead_tokens = self.overhead_tokens
        if self.one_hour or self.five_minutes:
            call.cache_write = "1h" if self.one_hour else "5m"
        if self.refers:
            call.refers = tuple(dict.fromkeys(self.refers))
        call.loose = self.loose
        if self.unknown or self.tools:
            call.unknown_fields = tuple(self.unknown)
            call.server_tools = tuple(self.tools)

    def cache_marker(self, marker: Fields, where: str) -> None:
        """Anthropic `cache_control`: kept 5 minutes unless it says otherwise; an unknown life counts as the longest."""
        ttl = text(marker, "ttl", where)
        if ttl is None or ttl == "5m":
            self.five_minutes = True
        else:
            self.one_hour = True
