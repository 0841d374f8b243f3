"""Who is logged in to the admin API: sessions of people, in memory alone. A restart ends them all.

A session's token has the form of an admin token (`bsa_...`), so that scanners know it and logs mask it; what is kept of
it is a keyed digest.
"""

import hmac
from collections.abc import Mapping
from typing import Protocol

import msgspec

from bursar.core.errors import Refusal
from bursar.core.roles import Caller, Role
from bursar.core.secret import Secret
from bursar.core.tokens import digest, mint, parse
from bursar.core.units import NS_PER_S
from bursar.ports import Clock, Entropy

MOST_SESSIONS = 1_000
_TOLD_FOR_NS = 86_400 * NS_PER_S  # so long a token that has ended is told so, not called unknown


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Instants are ns since the epoch."""

    id: str
    actor: str
    role: Role
    began_at: int
    expires_at: int
    digest: bytes

    def __repr__(self) -> str:
        return f"Session({self.id}, {self.actor})"


class Recorder(Protocol):
    async def append(self, actor: str, action: str, target: str, facts: Mapping[str, str | int]) -> object: ...


class Sessions:
    """`pepper` keys the digests."""

    def __init__(self, audit: Recorder, clock: Clock, entropy: Entropy, pepper: bytes) -> None:
        self._audit = audit
        self._clock = clock
        self._entropy = entropy
        self._pepper = pepper
        self._held: dict[str, Session] = {}

    def live(self) -> list[Session]:
        """By id."""
        now = self._clock.now()
        return sorted((one for one in self._held.values() if one.expires_at > now), key=lambda one: one.id)

    def find(self, session_id: str) -> Session | None:
        return self._held.get(session_id)

    async def begin(
        self, actor: str, role: Role, life_s: float, facts: Mapping[str, str | int]
    ) -> tuple[Session, Secret]:
        """A session and the text of its token: recorded first. Raises Refusal(too_many_logins | audit_unavailable)."""
        now = self._clock.now()
        self._held = {name: one for name, one in self._held.items() if one.expires_at > now - _TOLD_FOR_NS}
        if len(self._held) >= MOST_SESSIONS:
            self._held = {one.id: one for one in self.live()}
        if len(self._held) >= MOST_SESSIONS:
            raise Refusal("too_many_logins", "Too many sessions are open", "End some: bursar sessions list")
        session_id, text = mint(self._entropy, "admin")
        session = Session(
            id=session_id,
            actor=actor,
            role=role,
            began_at=now,
            expires_at=now + int(life_s * NS_PER_S),
            digest=digest(text.reveal(), self._pepper),
        )
        await self._audit.append(actor, "login.granted", f"session/{session_id}", {"role": role, **facts})
        self._held[session_id] = session
        return session, text

    def recognise(self, text: str) -> Caller | None:
        """Whose session this is; None when it is nobody's. Raises Refusal(admin_token_expired) for one that is over."""
        parsed = parse(text)
        session = self._held.get(parsed.public_id) if parsed and parsed.kind == "admin" else None
        if session is None or not hmac.compare_digest(session.digest, digest(text, self._pepper)):
            return None
        if session.expires_at <= self._clock.now():
            raise Refusal("admin_token_expired", "The session has ended", "Log in again: bursar login")
        return Caller(session.actor, session.role, session.id)

    async def end(self, actor: str, session_id: str) -> None:
        """Takes effect at the next call, also where it cannot be recorded. Raises Refusal(unknown_id)."""
        session = self._held.pop(session_id, None)
        if session is None:
            raise Refusal("unknown_id", "No session has this id", "See `bursar sessions list`")
        await self._audit.append(actor, "login.ended", f"session/{session_id}", {"user": session.actor})
