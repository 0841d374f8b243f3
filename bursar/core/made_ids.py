"""Ids of what a provider keeps for a caller (a response, a file, a container, ...): the team's that made them.

Tenants share a provider's account, and the provider would show any of them what another one's id names. So an id is
kept here before its maker learns it, and asked for by (team, kind, id): what another team made, what nobody made and
what has expired cannot be told apart.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import msgspec

from bursar.core.errors import Refusal

# job: our own, of core.batches
MadeKind = Literal["response", "item", "conversation", "file", "batch", "container", "skill", "audio", "job"]
KINDS: tuple[MadeKind, ...] = get_args(MadeKind)
_PARTS = frozenset({"item", "container", "skill", "audio"})  # come with an answer, and are known as long as one

# An id becomes a part of a path, so nothing in it may mean anything there.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=+~-]{0,255}", re.ASCII)


class Reference(NamedTuple):
    """A request names something that it says was made before."""

    kind: MadeKind
    id: str


class MadeId(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One id and who may use it. What a store keeps is this as JSON: a new field needs a default, and no migration."""

    team: str
    kind: MadeKind
    id: str
    key: str  # id of the virtual key that made it
    provider: str  # by its configured name: which account the id is of
    secret: str = ""  # the provider key's entry that made it; "" where the provider takes none
    made_at: int  # ns
    expires_at: int  # ns
    about: str = ""  # of a file: what the provider said of it when it was made, as JSON; it never changes

    @property
    def name(self) -> tuple[str, str, str]:
        return self.team, self.kind, self.id


class Lives(msgspec.Struct, frozen=True, kw_only=True):
    """How long an id of each kind is known, in ns."""

    response: int
    conversation: int
    file: int
    batch: int

    def of(self, kind: MadeKind) -> int:
        return self.response if kind in _PARTS else int(getattr(self, kind))


class Maker(NamedTuple):
    """Who makes ids by a call, and where."""

    team: str
    key: str
    provider: str
    secret: str

    def made(self, references: Iterable[Reference], lives: Lives, now: int) -> list[MadeId]:
        """The ids to keep. What has no form of an id is left out: nobody can ever ask for it."""
        return [
            MadeId(
                team=self.team,
                kind=kind,
                id=made_id,
                key=self.key,
                provider=self.provider,
                secret=self.secret,
                made_at=now,
                expires_at=now + lives.of(kind),
            )
            for kind, made_id in references
            if is_id(made_id)
        ]


def is_id(text: str) -> bool:
    """Whether a text can be an id at all."""
    return _ID.fullmatch(text) is not None


def unknown_id(kind: MadeKind) -> Refusal:
    """One and the same answer for an id that is another team's, that nobody made, or that has expired."""
    return Refusal(
        "unknown_id",
        f"There is no {kind} with this id",
        "It was not made by this team through this broker, or it has expired",
    )
