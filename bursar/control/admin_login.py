"""People log in to the admin API at an OpenID Connect issuer: authorization code with PKCE, claim -> role.

    begin    a terminal's challenge and port -> the issuer's page, with state, nonce and an S256 challenge of our own
    finish   the issuer's answer -> a ticket, sent by the browser to the terminal's port on the browser's own machine
    redeem   the ticket and the verifier of the terminal's challenge -> the token of a session

Three bindings: `state` to the browser (a cookie), the issuer's code to our verifier (RFC 7636), the ticket to the
terminal's. Whatever `finish` refuses is kept behind the ticket, so that the terminal tells it and not a page.
Sources: OpenID Connect Core 1.0 §3.1, RFC 9700 (best practice), RFC 9207 (`iss` of the answer).
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

import msgspec

from bursar.control.admin_sessions import Recorder, Session, Sessions
from bursar.control.oidc_provider import OidcProvider, Person
from bursar.core.access_tokens import encode_part
from bursar.core.errors import Refusal
from bursar.core.roles import RIGHTS, Caller, Role
from bursar.core.secret import Secret
from bursar.core.trust import find_claim, texts_of
from bursar.ports import Clock, Entropy

MOST_PENDING = 1_000
MOST_PENDING_OF_A_PEER = 20
PENDING_S = 600.0
TICKET_S = 60.0
_CHALLENGE = 43  # characters of an S256 challenge

_AGAIN = "Begin again: bursar login"


class LoginTerms(msgspec.Struct, frozen=True, kw_only=True):
    """`roles`: value of the claim -> role. `claim` may be a JSON pointer without its first slash."""

    redirect_url: str
    scopes: tuple[str, ...]
    claim: str
    roles: Mapping[str, Role]
    session_s: float


class Begun(msgspec.Struct, frozen=True):
    """Where the browser goes, and what it is known by when it comes back."""

    url: str
    cookie: Secret


class Back(msgspec.Struct, frozen=True):
    """Where the browser goes at the end: the terminal's own port on the browser's machine."""

    url: str


class _Pending(msgspec.Struct, frozen=True):
    peer: str
    until: float  # monotonic
    cookie: bytes  # digest
    nonce: str
    verifier: Secret
    challenge: str  # the terminal's
    port: int


class _Ticket(msgspec.Struct, frozen=True):
    until: float
    challenge: str
    granted: Person | Refusal
    role: Role | None


class Logins:
    """`slow(peer)`, where it is asked for, counts a wrong guess and lets it wait (`bursar.faces.admin_door`)."""

    def __init__(
        self,
        terms: LoginTerms,
        provider: OidcProvider,
        sessions: Sessions,
        audit: Recorder,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._terms = terms
        self._provider = provider
        self._sessions = sessions
        self._audit = audit
        self._clock = clock
        self._entropy = entropy
        self._pending: dict[str, _Pending] = {}
        self._tickets: dict[bytes, _Ticket] = {}

    @property
    def is_secure(self) -> bool:
        """Whether browsers come by https, so that the cookie may say so."""
        return self._terms.redirect_url.startswith("https:")

    async def begin(self, challenge: str, port: int, peer: str) -> Begun:
        """Raises Refusal(invalid_input | too_many_logins | login_issuer_unavailable)."""
        if not _is_challenge(challenge) or not 1024 <= port <= 65535:
            raise Refusal("invalid_input", "challenge or port is not what `bursar login` sends", _AGAIN)
        endpoint = await self._provider.authorization_endpoint()
        self._make_room(peer)
        state, cookie, nonce, verifier = (encode_part(self._entropy.token_bytes(32)) for _ in range(4))
        until = self._clock.monotonic() + PENDING_S
        self._pending[state] = _Pending(peer, until, _sha256(cookie), nonce, Secret(verifier), challenge, port)
        asked = {
            "response_type": "code",
            "client_id": self._provider.client_id,
            "redirect_uri": self._terms.redirect_url,
            "scope": " ".join(self._terms.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        return Begun(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}", Secret(cookie))

    async def finish(
        self, query: Mapping[str, str], cookie: str, peer: str, slow: Callable[[str], Awaitable[None]]
    ) -> Back:
        """The issuer's answer, as the browser brings it.

        Raises Refusal(login_unknown | too_many_logins | too_many_guesses); what else is wrong, `redeem` tells.
        """
        now = self._clock.monotonic()
        pending = self._pending.get(query.get("state", ""))
        if pending is None or pending.until <= now or not hmac.compare_digest(pending.cookie, _sha256(cookie)):
            await slow(peer)
            hint = f"{_AGAIN}, and use the browser in which it opens, under the address of redirect_url"
            raise Refusal("login_unknown", "No login waits for this answer in this browser", hint)
        self._tickets = {name: one for name, one in self._tickets.items() if one.until > now}
        if len(self._tickets) >= MOST_PENDING:
            raise Refusal("too_many_logins", "Too many logins end at once", _AGAIN, retry_after=TICKET_S)
        del self._pending[query["state"]]  # once, whatever comes of it
        granted: Person | Refusal
        role = None
        try:
            granted = await self._person(query, pending)
            role = self._role_of(granted)
        except Refusal as refusal:
            granted = refusal
            await self._refused(refusal, peer)
            if refusal.word in ("login_denied", "login_token_refused"):
                await slow(peer)
        ticket = encode_part(self._entropy.token_bytes(32))
        until = self._clock.monotonic() + TICKET_S
        self._tickets[_sha256(ticket)] = _Ticket(until, pending.challenge, granted, role)
        return Back(f"http://127.0.0.1:{pending.port}/{pending.challenge}?{urlencode({'ticket': ticket})}")

    async def redeem(
        self, ticket: str, verifier: str, peer: str, slow: Callable[[str], Awaitable[None]]
    ) -> tuple[Session, Secret]:
        """Once, by the terminal that began. Raises what `finish` refused, or Refusal(login_unknown)."""
        kept = self._tickets.pop(_sha256(ticket), None)
        fits = kept is not None and hmac.compare_digest(kept.challenge, challenge_of(verifier))
        if kept is None or not fits or kept.until <= self._clock.monotonic():
            await slow(peer)
            raise Refusal("login_unknown", "No login waits to be taken up with this", _AGAIN)
        if isinstance(kept.granted, Refusal):
            raise kept.granted
        assert kept.role is not None  # a person without one was refused
        facts = {"issuer": self._provider.issuer, "peer": peer}
        return await self._sessions.begin(kept.granted.actor, kept.role, self._terms.session_s, facts)

    async def end(self, caller: Caller) -> None:
        """Log out. Raises Refusal(login_unknown) for one who did not come by a login."""
        if not caller.session:
            raise Refusal("login_unknown", f"{caller.actor} came with an admin token, not by a login", "bursar whoami")
        await self._sessions.end(caller.actor, caller.session)

    async def _person(self, query: Mapping[str, str], pending: _Pending) -> Person:
        if query.get("iss", self._provider.issuer) != self._provider.issuer:
            raise Refusal("login_token_refused", "The answer came from another issuer than was asked", _AGAIN)
        if "error" in query:
            said = query["error"]
            shown = said if len(said) <= 40 and said.isascii() and said.replace("_", "").isalnum() else "an error"
            hint = "See at the issuer whether you may use this application"
            raise Refusal("login_denied", f"The issuer did not let you in ({shown})", hint)
        code = query.get("code", "")
        if not code:
            raise Refusal("login_denied", "The issuer's answer has no code", _AGAIN)
        token = await self._provider.exchange(Secret(code), pending.verifier, self._terms.redirect_url)
        return await self._provider.person(token, pending.nonce)

    def _role_of(self, person: Person) -> Role:
        """The highest that a value of the claim gives."""
        values = set(texts_of(find_claim(person.claims, self._terms.claim)))
        given = {role for value, role in self._terms.roles.items() if value in values}
        for role in reversed(RIGHTS):
            if role in given:
                return role
        hint = f"Have yourself added at the issuer to what admin.oidc.roles names; it looks at {self._terms.claim}"
        raise Refusal("login_no_role", f"{person.actor} has no role here", hint, facts={"actor": person.actor})

    async def _refused(self, refusal: Refusal, peer: str) -> None:
        actor = str(refusal.facts.get("actor", "anonymous"))
        await self._audit.append(actor, "login.refused", f"peer/{peer}", {"word": refusal.word})

    def _make_room(self, peer: str) -> None:
        """What a flood from one address cannot take from the others."""
        now = self._clock.monotonic()
        self._pending = {state: one for state, one in self._pending.items() if one.until > now}
        of_peer = sum(one.peer == peer for one in self._pending.values())
        if len(self._pending) >= MOST_PENDING or of_peer >= MOST_PENDING_OF_A_PEER:
            hint = "Finish one in the browser, or wait some minutes"
            raise Refusal("too_many_logins", "Too many logins wait to be finished", hint, retry_after=PENDING_S)


def challenge_of(verifier: str) -> str:
    """S256 (RFC 7636 §4.2)."""
    return encode_part(_sha256(verifier))


def _is_challenge(text: str) -> bool:
    return len(text) == _CHALLENGE and text.isascii() and text.replace("-", "").replace("_", "").isalnum()


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
