"""The keys of outside issuers: an address, a file or the set itself, as the trust rule pins it. Kept for an hour.

An issuer that is away is believed by its last keys for a day. A key that is not known is asked for anew, but at most
every half minute, whoever asks; all who wait for the same set wait for one request.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from bursar.control.subject_jwt import ALGORITHMS, Jwk, SubjectJwt, is_signed_by
from bursar.core.directory import TrustRule
from bursar.core.errors import Refusal
from bursar.ports import Clock

MAX_DOCUMENT = 256 * 1024  # bytes of a key set or a discovery document
_FRESH_S, _STALE_S, _AGAIN_S = 3_600.0, 86_400.0, 30.0
_MOST_KEYS = 200
_MOST_SOURCES = 1_000


class Fetch(Protocol):
    """GET a document of at most MAX_DOCUMENT bytes within seconds: https, no redirects.

    Raises Refusal(subject_keys_unavailable).
    """

    async def __call__(self, url: str, *, private: bool) -> bytes: ...


class Discovery(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


class KeySet(msgspec.Struct, frozen=True):
    keys: tuple[msgspec.Raw, ...]


class _Held(msgspec.Struct):
    keys: tuple[Jwk, ...] = ()
    read_at: float = 0.0  # monotonic; 0 = never
    tried_at: float = 0.0
    stamp: int = 0  # of a file


class IssuerKeys:
    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._held: dict[tuple[str, str], _Held] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[_Held]] = {}

    async def find(self, rule: TrustRule, kid: str, alg: str) -> Sequence[Jwk]:
        """The keys that a token with this header may be signed by: the one of its `kid`, or all that could be.

        Raises Refusal(subject_keys_unavailable | subject_key_unknown).
        """
        held = await self._current(rule)
        found = _suited(held.keys, kid, alg)
        if not found and self._clock.monotonic() - held.tried_at >= _AGAIN_S:
            found = _suited((await self._ask(rule)).keys, kid, alg)
        if not found:
            message = "The issuer has no such key for the subject token's kid and alg"
            raise Refusal("subject_key_unknown", message, "Fetch a new token from its issuer")
        return found

    async def verify(self, rule: TrustRule, token: SubjectJwt) -> None:
        """That the token is signed by a key of the rule's issuer, in a way that the rule allows. Raises Refusal."""
        if token.alg not in rule.algorithms:
            shown = ", ".join(rule.algorithms)
            raise Refusal("subject_algorithm_refused", f"The subject token is not signed by one of {shown}")
        keys = await self.find(rule, token.kid, token.alg)
        if not any(is_signed_by(key, token.alg, token.signed, token.signature) for key in keys):
            raise Refusal("subject_signature_wrong", "The subject token's signature is wrong")

    async def _current(self, rule: TrustRule) -> _Held:
        held = self._held.get(_source(rule))
        now = self._clock.monotonic()
        if held is not None and held.read_at and now - held.read_at < _FRESH_S and not _is_file(rule.jwks):
            return held
        if held is not None and held.tried_at and now - held.tried_at < _AGAIN_S and not _is_file(rule.jwks):
            return self._last(rule, held, now)
        try:
            return await self._ask(rule)
        except Refusal:
            held = self._held.get(_source(rule))
            if held is None or not held.read_at:
                raise
            return self._last(rule, held, now)

    def _last(self, rule: TrustRule, held: _Held, now: float) -> _Held:
        """What is known of an issuer that did not answer just now."""
        if held.read_at and now - held.read_at < _STALE_S:
            return held
        raise Refusal("subject_keys_unavailable", f"The keys of {rule.issuer} cannot be had now", retry_after=_AGAIN_S)

    async def _ask(self, rule: TrustRule) -> _Held:
        name = _source(rule)
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.ensure_future(self._read(rule))
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)  # one who leaves must not fail the others

    async def _read(self, rule: TrustRule) -> _Held:
        if len(self._held) >= _MOST_SOURCES:
            self._held.clear()
        held = self._held.setdefault(_source(rule), _Held())
        held.tried_at = self._clock.monotonic()
        held.keys = await self._document(rule)
        held.read_at = self._clock.monotonic()
        return held

    async def _document(self, rule: TrustRule) -> tuple[Jwk, ...]:
        if rule.jwks.startswith("{"):
            return read_keys(rule.jwks.encode())
        if rule.jwks and _is_file(rule.jwks):
            return read_keys(await asyncio.to_thread(_file, rule.jwks))
        url = rule.jwks
        if not url:
            where = f"{rule.issuer.rstrip('/')}/.well-known/openid-configuration"
            url = _discovered(await self._fetch(where, private=rule.allow_private), rule.issuer)
        return read_keys(await self._fetch(url, private=rule.allow_private))


def read_keys(raw: bytes) -> tuple[Jwk, ...]:
    """The public keys of a JWK set that can verify anything; others are skipped. Raises Refusal."""
    try:
        found = msgspec.json.decode(raw, type=KeySet).keys[:_MOST_KEYS]
        keys = [msgspec.json.decode(key, type=Jwk) for key in found if _is_public(key)]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _unusable("is no JWK set") from None
    return tuple(key for key in keys if key.kty in {kty for kty, _ in ALGORITHMS.values()})


def _is_public(raw: msgspec.Raw) -> bool:
    """A set with a private half in it was published by mistake: such a key proves nothing any more."""
    return "d" not in msgspec.json.decode(raw, type=dict)


def _suited(keys: Sequence[Jwk], kid: str, alg: str) -> list[Jwk]:
    return [key for key in keys if key.serves(alg) and (not kid or key.kid == kid)]


def _discovered(raw: bytes, issuer: str) -> str:
    try:
        found = msgspec.json.decode(raw, type=Discovery)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _unusable("has no usable discovery document") from None
    if found.issuer != issuer:
        raise _unusable("calls itself by another name in its discovery document")
    return found.jwks_uri


def _source(rule: TrustRule) -> tuple[str, str]:
    return rule.issuer, rule.jwks


def _is_file(jwks: str) -> bool:
    return jwks.startswith("/")


def _file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise _unusable(f"cannot be read from the file: {error.strerror}") from None
    if len(raw) > MAX_DOCUMENT:
        raise _unusable("is too large")
    return raw


def _unusable(problem: str) -> Refusal:
    hint = "Whoever runs this broker sees why with `bursar trust test`"
    return Refusal("subject_keys_unavailable", f"The issuer's key set {problem}", hint, retry_after=_AGAIN_S)
