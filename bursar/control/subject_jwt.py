"""Tokens of outside issuers, read strictly: JWS compact (RFC 7515), the claims of RFC 7519, the advice of RFC 8725.

One reading, so that nothing has to agree with it: no member twice, no padding, no header that could change which key or
which algorithm counts. The allow-list of algorithms is the trust rule's; `none` and the symmetric ones are not in it.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from bursar.core.access_tokens import SKEW_S, decode_part
from bursar.core.errors import Refusal

MAX_SUBJECT = 16_384  # characters
_MAX_CLAIM_NAMES = 200
_REFUSED_HEADERS = frozenset({"crit", "jku", "jwk", "x5u", "x5c", "b64", "enc", "zip", "cty", "epk", "url", "nonce"})
_TYPES = frozenset({"", "jwt", "jose", "application/jwt", "at+jwt", "application/at+jwt"})
_MIN_RSA_BITS = 2_048
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
_CURVES: dict[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}

ALGORITHMS: dict[str, tuple[str, str]] = {
    **{f"{family}{bits}": ("RSA", "") for family in ("RS", "PS") for bits in _HASHES},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),  # RFC 9864's name of the same
}
"""Those that a trust rule may allow -> type and curve of their keys (RFC 7518 §3.1, RFC 8037)."""


class SubjectJwt(NamedTuple):
    """Taken apart; nothing in it is believed yet."""

    alg: str
    kid: str  # "" = the header has none
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


class Jwk(msgspec.Struct, frozen=True):
    """One public key of an issuer (RFC 7517). Members we do not need are ignored."""

    kty: str
    kid: str = ""
    use: str = ""
    alg: str = ""
    key_ops: tuple[str, ...] = ()
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""

    def serves(self, alg: str) -> bool:
        """Whether it may verify this algorithm: by its type, and by whatever it says of itself."""
        kty, crv = ALGORITHMS[alg]
        if self.kty != kty or (crv and self.crv != crv) or self.use not in ("", "sig", "jwt-svid"):
            return False
        same = {alg, "EdDSA", "Ed25519"} if kty == "OKP" else {alg}
        return self.alg in ("", *same) and (not self.key_ops or "verify" in self.key_ops)


def read_subject(text: str) -> SubjectJwt:
    """Raises Refusal(subject_too_large | subject_malformed | subject_header_refused)."""
    if len(text) > MAX_SUBJECT:
        raise Refusal("subject_too_large", f"The subject token has more than {MAX_SUBJECT} characters")
    parts = text.split(".")
    if len(parts) != 3:
        raise _malformed("is not three parts with dots between")
    try:
        header, claims = _object(decode_part(parts[0])), _object(decode_part(parts[1]))
        signature = decode_part(parts[2]) if parts[2] else b""
    except (ValueError, RecursionError) as fault:
        raise _malformed(fault.args[0] if isinstance(fault, _Twice) else "is not JSON in base64url") from None
    refused = sorted(_REFUSED_HEADERS & header.keys())
    if refused:
        raise Refusal("subject_header_refused", f"The subject token has the header {refused[0]}, which is not taken")
    alg, kid, typ = header.get("alg"), header.get("kid", ""), header.get("typ", "")
    if not isinstance(alg, str) or not isinstance(kid, str) or not isinstance(typ, str) or len(kid) > 256:
        raise Refusal("subject_header_refused", "alg, kid or typ of the subject token is not a short text")
    if typ.lower() not in _TYPES:
        raise Refusal("subject_header_refused", "The subject token is of another type (typ) than JWT")
    return SubjectJwt(alg, kid, claims, f"{parts[0]}.{parts[1]}".encode(), signature)


def check_claims(claims: Mapping[str, Any], audience: str, now_s: float) -> None:
    """`exp`, `nbf`, `iat` against the clock, `aud` against the rule's.

    Raises Refusal(subject_claims_refused | subject_expired | subject_not_yet_valid | subject_audience_wrong).
    """
    ends, begins, made = (_instant(claims, name) for name in ("exp", "nbf", "iat"))
    if ends is None:
        raise Refusal("subject_claims_refused", "The subject token never expires: it has no exp")
    if now_s >= ends + SKEW_S:
        raise Refusal("subject_expired", "The subject token has expired", "Fetch a new one from its issuer")
    if any(value is not None and value > now_s + SKEW_S for value in (begins, made)):
        hint = "If it is new, set the clocks of issuer and broker by the same source (NTP)"
        raise Refusal("subject_not_yet_valid", "The subject token is not valid yet", hint)
    given = claims.get("aud")
    audiences = given if isinstance(given, list) else [given]
    if audience not in audiences:
        hint = f"Ask its issuer for one with the audience {audience}"
        raise Refusal("subject_audience_wrong", "The subject token is for another audience", hint)
    for name in ("sub", "jti", "iss"):
        if name in claims and not isinstance(claims[name], str):
            raise Refusal("subject_claims_refused", f"The claim {name} of the subject token is not a text")


def is_signed_by(key: Jwk, alg: str, signed: bytes, signature: bytes) -> bool:
    """Whether it is this key's signature. A key that cannot be one verifies nothing."""
    try:
        if key.kty == "RSA":
            return _rsa(key, alg, signed, signature)
        if key.kty == "EC":
            return _ec(key, alg, signed, signature)
        Ed25519PublicKey.from_public_bytes(decode_part(key.x)).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _rsa(key: Jwk, alg: str, signed: bytes, signature: bytes) -> bool:
    public = rsa.RSAPublicNumbers(_number(key.e), _number(key.n)).public_key()
    if public.key_size < _MIN_RSA_BITS:
        return False
    digest = _HASHES[alg[2:]]()
    scheme = padding.PKCS1v15() if alg.startswith("RS") else padding.PSS(padding.MGF1(digest), digest.digest_size)
    public.verify(signature, signed, scheme, digest)
    return True


def _ec(key: Jwk, alg: str, signed: bytes, signature: bytes) -> bool:
    public = ec.EllipticCurvePublicNumbers(_number(key.x), _number(key.y), _CURVES[key.crv]()).public_key()
    half = (public.key_size + 7) // 8
    if len(signature) != 2 * half:
        return False
    r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
    public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(_HASHES[alg[2:]]()))
    return True


def _number(text: str) -> int:
    return int.from_bytes(decode_part(text))


class _Twice(ValueError):
    """A member of a JSON object occurs twice: two readers could believe different things."""


def _object(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_number)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Twice("names a claim or header twice")
    if len(members) > _MAX_CLAIM_NAMES:
        raise _Twice("has too many claims")
    return members


def _no_number(text: str) -> Any:
    raise ValueError(text)  # NaN, Infinity: not JSON (RFC 8259 §6)


def _instant(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refusal("subject_claims_refused", f"The claim {name} of the subject token is not an instant")
    return float(value)


def _malformed(problem: str) -> Refusal:
    return Refusal("subject_malformed", f"The subject token {problem}", "Send the token as its issuer made it")
