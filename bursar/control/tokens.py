"""Tokens: a virtual key or an outside identity becomes a token of Bursar's own for minutes (RFC 8693), which may do
less, never more; asked about (RFC 7662), revoked (RFC 7009).

A token is recorded in the audit before anybody has it, by its id; its text is in the answer only.
"""

import hmac
from base64 import b32encode
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec.structs import replace

from bursar.control.directory import Audit, Directory
from bursar.control.policies import widened_by
from bursar.control.signing_keys import MAX_LIFE_S, SigningKeys
from bursar.control.token_marks import TokenMarks
from bursar.core.access_tokens import Claims, Header, encode_part, grant_of, has_shape, read_claims, take_apart
from bursar.core.controls import mode_of
from bursar.core.directory import Policy, Team, TokenKey, TrustRule, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.grants import Scopes, parse_scopes, render_scopes
from bursar.core.networks import is_within, read_networks
from bursar.core.secret import Secret
from bursar.core.tokens import digest, parse
from bursar.core.units import NS_PER_S
from bursar.ports import Entropy

SID_CHARACTERS = 16  # of the hex digest of a key's secret


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for. `life_s` 0 = as long as may be."""

    subject: Secret
    scope: str = ""
    life_s: int = 0
    rule_id: str = ""  # a trust rule by name, where several fit
    address: str = ""  # where the caller is


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    text: Secret
    jti: str
    life_s: int
    scope: str


class Behind(msgspec.Struct, frozen=True, kw_only=True):
    """What a token will stand on. `levels`: every policy that binds it."""

    sub: str  # "key/<id>", "trust/<id>"
    name: str  # client_id
    team: Team
    levels: tuple[Policy, ...]
    ends: int | None  # ns: the token may not outlive this
    life_s: int
    secret: str = ""
    facts: Mapping[str, str | int] = {}


class Federation(Protocol):
    """Reads tokens of outside issuers (`bursar.control.federation`)."""

    async def behind(self, wish: Wish) -> Behind:
        """Raises Refusal(subject_...)."""
        ...


class Tokens:
    """`issuer` is the address under which callers know this broker: `iss` and `aud` of its tokens."""

    def __init__(  # noqa: PLR0913 - one keyword a doorway
        self,
        directory: Directory,
        audit: Audit,
        signing: SigningKeys,
        entropy: Entropy,
        *,
        pepper: bytes,
        issuer: str,
        life_s: int,
        marks: TokenMarks,
        federation: Federation,
    ) -> None:
        self._directory = directory
        self._audit = audit
        self._entropy = entropy
        self._pepper = pepper
        self._life_s = life_s
        self._federation = federation
        self._marks = marks
        self.signing = signing
        self.issuer = issuer

    async def exchange(self, wish: Wish) -> Issued:
        """Raises Refusal: key_..., subject_..., scope_invalid, scope_widens, network_not_allowed, audit_unavailable."""
        scopes = parse_scopes(wish.scope)
        is_jwt = has_shape(wish.subject.reveal())
        behind = await self._federation.behind(wish) if is_jwt else self._key_behind(wish.subject)
        for level in behind.levels:
            check_scopes(level, scopes)
            check_address(level, wish.address)
        return await self._issue(behind, scopes, wish.life_s)

    def _key_behind(self, text: Secret) -> Behind:
        key, secret_digest, ends = self._find_key(text)
        team = self._directory.book.get(Team, key.team_id)
        if team.disabled:
            raise Refusal("key_disabled", "The team of this key is switched off", "Ask the team's owner")
        return Behind(
            sub=f"key/{key.id}",
            name=key.id,
            team=team,
            levels=(team.policy, key.policy),
            ends=ends,
            life_s=self._life_s,
            secret=secret_digest.hex()[:SID_CHARACTERS],
        )

    def _find_key(self, text: Secret) -> tuple[VirtualKey, bytes, int | None]:
        """The living key of this text, the digest of the text, and when the first of the two ends."""
        parsed = parse(text.reveal())
        key = None if parsed is None else self._directory.book.find(VirtualKey, parsed.public_id)
        mine = digest(text.reveal(), self._pepper)
        secret = None
        for known in key.secrets if key is not None else ():
            if hmac.compare_digest(known.digest, mine):
                secret = known
        if key is None or secret is None:
            raise Refusal("key_invalid", "The subject token is no key that is known here", "See `bursar keys list`")
        now = self._directory.now()
        ends = min((end for end in (key.expires_at, secret.expires_at) if end is not None), default=None)
        if ends is not None and ends <= now:
            raise Refusal("key_expired", "The key, or this text of it, has expired", "Use the key's new text")
        if key.disabled:
            raise Refusal("key_disabled", "The key is switched off", "Ask the team's owner")
        return key, mine, ends

    async def _issue(self, behind: Behind, scopes: Scopes, asked_s: int) -> Issued:
        now = self._directory.now()
        life = min(asked_s or behind.life_s, behind.life_s, MAX_LIFE_S)
        begin = now // NS_PER_S
        ends = begin + life if behind.ends is None else min(begin + life, behind.ends // NS_PER_S)
        if ends <= begin:
            raise Refusal("key_expired", "What the token would stand on ends within this second", "Renew it first")
        jti = b32encode(self._entropy.token_bytes(15)).decode().lower()
        claims = Claims(
            iss=self.issuer,
            sub=behind.sub,
            aud=self.issuer,
            client_id=behind.name,
            iat=begin,
            exp=ends,
            jti=jti,
            scope=render_scopes(scopes),
            sid=behind.secret,
        )
        payload = encode_part(msgspec.json.encode(claims))

        def to_sign(kid: str) -> bytes:
            header = msgspec.json.encode(Header(typ="at+jwt", alg="EdDSA", kid=kid))
            return f"{encode_part(header)}.{payload}".encode()

        signed, signature = await self.signing.sign(to_sign)
        facts = {"jti": jti, "team": behind.team.id, "expires": ends, **behind.facts}
        facts["scope"] = render_scopes(replace(scopes, caller=""))
        facts["caller"] = scopes.caller  # apart: where it names a person, the audit seals it
        await self._audit.append(behind.sub, "token.issue", behind.sub, facts)
        text = Secret(f"{signed.decode()}.{encode_part(signature)}")
        return Issued(text=text, jti=jti, life_s=ends - begin, scope=claims.scope)

    # ---- asking, revoking

    def introspect(self, text: Secret, asker: Secret) -> Claims | None:
        """The claims of a token that works now; None for everything else, whatever is wrong with it.

        `asker` is a virtual key or token of the same team. Raises Refusal(key_...) when it is not one that works.
        """
        team = self._team_of(asker)
        try:
            claims = self._read(text)
            return claims if self._standing(claims) == team else None
        except Refusal:
            return None

    def _team_of(self, text: Secret) -> str:
        if has_shape(text.reveal()):
            return self._standing(self._read(text))
        return self._find_key(text)[0].team_id

    async def revoke(self, text: Secret, address: str) -> None:
        """Whoever has a token may end it (RFC 7009). What is no living token of ours is none afterwards either."""
        try:
            claims = self._read(text)
        except Refusal:
            return
        await self.revoke_id(claims.sub, claims.jti, claims.exp * NS_PER_S, {"address": address})

    async def revoke_id(
        self, actor: str, jti: str, until: int | None = None, facts: Mapping[str, str | int] = MappingProxyType({})
    ) -> None:
        """By its id, as the audit tells it. Takes effect at the token's next hold."""
        ends = until or self._directory.now() + MAX_LIFE_S * NS_PER_S
        await self._marks.revoke(actor, jti, ends, facts)

    def _read(self, text: Secret) -> Claims:
        """The claims of a token that was signed here and has not expired. Raises Refusal."""
        if not has_shape(text.reveal()):
            raise Refusal("token_invalid", "This is no token")
        sealed, now = take_apart(text.reveal()), self._directory.now()
        key = self._directory.book.find(TokenKey, sealed.kid)
        if key is None or (key.until is not None and now >= key.until):
            raise Refusal("token_invalid", "The token was not signed here")
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(sealed.signature, sealed.signed)
        except InvalidSignature:
            raise Refusal("token_invalid", "The token was not signed here") from None
        return read_claims(sealed.payload, self.issuer, now)

    def _standing(self, claims: Claims) -> str:
        """The team of a token, as long as it is not revoked and all that it stands on is there."""
        book, grant = self._directory.book, grant_of(claims, "")
        found: VirtualKey | TrustRule | None
        if grant.kind == "token":
            found = key = book.find(VirtualKey, grant.parent)
            alive = key is not None and any(s.digest.hex().startswith(grant.secret) for s in key.secrets)
        else:
            found = book.find(TrustRule, claims.sub.partition("/")[2])
            alive = True
        team = None if found is None else book.find(Team, found.team_id)
        if found is None or team is None or not alive or found.disabled or team.disabled:
            raise Refusal("token_revoked", "What the token stood on is gone or switched off")
        if self._marks.is_revoked(grant.jti):
            raise Refusal("token_revoked", "The token was revoked")
        return team.id


def check_scopes(level: Policy, scopes: Scopes) -> None:
    """Raises Refusal(scope_widens) when one of the policies behind a token allows less than is asked for."""
    asked = Policy(
        models=scopes.models, purposes=scopes.purposes, max_tokens_cap=scopes.max_tokens, networks=scopes.networks
    )
    wider = widened_by(level, asked)
    if wider:
        told = "; ".join(f"{w.field}: {w.key} is asked for, {w.team} is allowed" for w in wider)
        raise Refusal("scope_widens", f"A token may only narrow: {told}", "Ask for less, or leave the scope out")


def check_address(level: Policy, address: str) -> None:
    """Raises Refusal(network_not_allowed)."""
    if level.networks is None or mode_of(level, "networks") != "enforce":
        return
    if not is_within(address, read_networks(level.networks)):
        raise Refusal("network_not_allowed", "No token is issued to callers from there", "Call from a network it names")
