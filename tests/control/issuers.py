"""An outside issuer made of `cryptography` alone: it shares no code with what reads its tokens."""

import base64
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

NOW_S = 1_764_000_000  # tests.control.tenants.START_NS
ISSUER = "https://issuer.example.org"
AUDIENCE = "http://127.0.0.1:4000"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8))


@cache
def rsa_key(name: str = "rsa", bits: int = 2048) -> rsa.RSAPrivateKey:
    del name
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key({"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}[curve]())


@cache
def ed_key(name: str = "ed") -> ed25519.Ed25519PrivateKey:
    del name
    return ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "kid": kid, "n": number(numbers.n), "e": number(numbers.e), **more}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        point = key.public_key().public_numbers()
        size = (key.key_size + 7) // 8
        crv = {256: "P-256", 384: "P-384", 521: "P-521"}[key.key_size]
        place = {"x": b64(point.x.to_bytes(size)), "y": b64(point.y.to_bytes(size))}
        return {"kty": "EC", "crv": crv, "kid": kid, **place, **more}
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(key.public_key().public_bytes_raw()), **more}


_HASH = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}


def sign(alg: str, key: Any, message: bytes) -> bytes:
    if alg == "none":
        return b""
    if alg.startswith("HS"):
        mac = hmac.HMAC(key, _HASH[alg[2:]]())
        mac.update(message)
        return mac.finalize()
    if alg in ("EdDSA", "Ed25519"):
        return bytes(key.sign(message))
    digest = _HASH[alg[2:]]()
    if alg.startswith("RS"):
        return bytes(key.sign(message, padding.PKCS1v15(), digest))
    if alg.startswith("PS"):
        return bytes(key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest))
    size = (key.key_size + 7) // 8
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
    return r.to_bytes(size) + s.to_bytes(size)


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good token; None takes one away."""
    made = {
        "iss": ISSUER,
        "sub": "repo:octo/app:ref:refs/heads/main",
        "aud": AUDIENCE,
        "iat": NOW_S - 5,
        "nbf": NOW_S - 5,
        "exp": NOW_S + 300,
        "jti": "one",
        "repository": "octo/app",
        "ref": "refs/heads/main",
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def mint(
    payload: Mapping[str, Any] | str | None = None,
    *,
    alg: str = "RS256",
    key: Any = None,
    header: Mapping[str, Any] | str | None = None,
) -> str:
    """A token. `payload` and `header` as text are taken as they are."""
    head = header if isinstance(header, str) else json.dumps({"alg": alg, "typ": "JWT", "kid": "k1", **(header or {})})
    body = payload if isinstance(payload, str) else json.dumps(claims() if payload is None else payload)
    message = f"{b64(head.encode())}.{b64(body.encode())}"
    return f"{message}.{b64(sign(alg, rsa_key() if key is None else key, message.encode()))}"


def key_set(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": list(keys) or [jwk(rsa_key(), "k1", use="sig", alg="RS256")]})
