"""Bursar's own tokens as text: a signed JWT of the profile `at+jwt` (RFC 9068), EdDSA over Ed25519 (RFC 8037).

The reader takes exactly what the writer writes: no other algorithm, no other header, no padding, no second form of
the same signature. Nothing of the payload is looked at before the signature is known to be right.
"""

import re
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from typing import Literal, NamedTuple

import msgspec

from bursar.core.errors import Refusal
from bursar.core.grants import Grant, parse_scopes
from bursar.core.units import NS_PER_S

MAX_TOKEN = 8_192  # characters
SKEW_S = 60  # how far ahead of ours a clock may be that issued a token
_KID = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")  # what is of the other alphabet is of none


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`crit`, `jku`, `jwk`, `x5u` and whatever else a stranger may think of do not fit in here."""

    typ: Literal["at+jwt"]
    alg: Literal["EdDSA"]
    kid: str


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9068 §2.2. `sub` is ``key/<id>`` or ``trust/<id>``; instants are whole seconds."""

    iss: str
    sub: str
    aud: str
    client_id: str
    iat: int
    exp: int
    jti: str
    scope: str = ""
    sid: str = ""  # digest prefix of the key's secret that was exchanged


class Sealed(NamedTuple):
    """A token taken apart, before anything in it is believed."""

    kid: str
    signed: bytes
    signature: bytes
    payload: bytes


_header = msgspec.json.Decoder(Header)
_claims = msgspec.json.Decoder(Claims)


def has_shape(text: str) -> bool:
    """Whether it wants to be a JWT: such a text is never a virtual key."""
    return text.startswith("ey") and text.count(".") == 2


def take_apart(text: str) -> Sealed:
    """Raises Refusal(token_invalid)."""
    if len(text) > MAX_TOKEN:
        raise _invalid("is too long")
    head, payload, signature = text.split(".")
    try:
        header = _header.decode(decode_part(head))
        sealed = Sealed(header.kid, f"{head}.{payload}".encode(), decode_part(signature), decode_part(payload))
    except (ValueError, msgspec.MsgspecError):
        raise _invalid("is not one of Bursar's") from None
    if not _KID.fullmatch(header.kid) or len(sealed.signature) != 64:
        raise _invalid("is not one of Bursar's")
    return sealed


def read_claims(payload: bytes, issuer: str, now: int) -> Claims:
    """The claims of a token whose signature is right. Raises Refusal(token_invalid | token_expired)."""
    try:
        claims = _claims.decode(payload)
    except (ValueError, msgspec.MsgspecError):
        raise _invalid("has claims that Bursar does not write") from None
    if claims.iss != issuer or claims.aud != issuer:
        raise _invalid(f"is of another issuer or for another audience than {issuer}")
    if now >= claims.exp * NS_PER_S:
        raise Refusal("token_expired", "The token has expired", "Fetch a new one: POST /oauth/token")
    if claims.iat * NS_PER_S > now + SKEW_S * NS_PER_S:
        raise Refusal(
            "token_invalid", "The token is from the future", "Set the clocks of the nodes by the same source (NTP)"
        )
    return claims


def grant_of(claims: Claims, kid: str) -> Grant:
    """Raises Refusal(token_invalid)."""
    kind, _, name = claims.sub.partition("/")
    if kind not in ("key", "trust") or not name or not claims.jti:
        raise _invalid("has claims that Bursar does not write")
    return Grant(
        jti=claims.jti,
        kind="token" if kind == "key" else "federation",
        parent=name if kind == "key" else trust_plan(name),
        expires_at=claims.exp * NS_PER_S,
        scopes=parse_scopes(claims.scope),
        kid=kid,
        secret=claims.sid,
    )


def trust_plan(rule_id: str) -> str:
    """The id under which a trust rule's plan stands among those of the keys, in the ledger too."""
    return f"trust:{rule_id}"


def decode_part(text: str) -> bytes:
    """Strict base64url without padding (RFC 7515 §2). Raises ValueError for a second spelling of the same bytes."""
    if not text:
        raise ValueError("not base64url")
    raw = a2b_base64(text.encode("ascii").translate(_TO_BASE64) + b"=" * (-len(text) % 4), strict_mode=True)
    if len(text) % 4 and encode_part(raw[-(len(raw) % 3) :]) != text[-(len(text) % 4) :]:
        raise ValueError("not canonical base64url")
    return raw


def encode_part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _invalid(problem: str) -> Refusal:
    return Refusal("token_invalid", f"The token {problem}", "Fetch a new one: POST /oauth/token")
