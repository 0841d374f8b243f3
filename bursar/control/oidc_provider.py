"""An OpenID Connect issuer, asked: its discovery document, its token endpoint, and whom its ID token names.

The token is read by `bursar.control.subject_jwt`, its keys come by `bursar.control.issuer_keys`: what holds for the
tokens of workloads holds for those of people.
"""

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote_plus

import msgspec

from bursar.control.issuer_keys import Fetch, IssuerKeys
from bursar.control.subject_jwt import check_claims, read_subject
from bursar.core.directory import TrustRule
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.ports import Clock

_FRESH_S, _AGAIN_S = 3_600.0, 5.0
_LONGEST_NAME = 200


class Post(Protocol):
    """POST a form; status and at most 256 kB of the answer, within seconds: https, no redirects.

    Raises Refusal(subject_keys_unavailable).
    """

    async def __call__(
        self, url: str, form: Mapping[str, Secret | str], authorization: Secret | None, *, private: bool
    ) -> tuple[int, bytes]: ...


class Person(msgspec.Struct, frozen=True):
    """Whom the issuer named. `actor` is the name that the audit has of him."""

    actor: str
    claims: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Person({self.actor})"


class _Endpoints(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class _Answer(msgspec.Struct, frozen=True):
    id_token: str = ""
    error: str = ""


class OidcProvider:
    """`rule` says issuer, audience (the client id) and algorithms; `secret` None = a public client."""

    def __init__(
        self, rule: TrustRule, secret: Secret | None, keys: IssuerKeys, fetch: Fetch, post: Post, clock: Clock
    ) -> None:
        self._rule = rule
        self._secret = secret
        self._keys = keys
        self._fetch = fetch
        self._post = post
        self._clock = clock
        self._found: _Endpoints | None = None
        self._found_at = 0.0
        self._failed: tuple[float, Refusal] | None = None
        self._asking = asyncio.Lock()

    @property
    def issuer(self) -> str:
        return self._rule.issuer

    @property
    def client_id(self) -> str:
        return self._rule.audience

    async def authorization_endpoint(self) -> str:
        return (await self._endpoints()).authorization_endpoint

    async def exchange(self, code: Secret, verifier: Secret, redirect_url: str) -> Secret:
        """The ID token for a code. Raises Refusal(login_denied | login_issuer_unavailable)."""
        found = await self._endpoints()
        form: dict[str, Secret | str] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_url,
            "code_verifier": verifier,
        }
        methods = found.token_endpoint_auth_methods_supported
        in_form = self._secret is None or ("client_secret_basic" not in methods and "client_secret_post" in methods)
        authorization = None
        if in_form:
            form["client_id"] = self.client_id
        if self._secret is not None and in_form:
            form["client_secret"] = self._secret
        elif self._secret is not None:
            authorization = _basic(self.client_id, self._secret)
        try:
            status, raw = await self._post(found.token_endpoint, form, authorization, private=self._rule.allow_private)
        except Refusal as refusal:
            raise _away(refusal) from None
        try:
            answer = msgspec.json.decode(raw, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            answer = _Answer()
        if status == 200 and answer.id_token:
            return Secret(answer.id_token)
        if status >= 500:
            raise _away(None)
        said = answer.error if answer.error in _ERRORS else f"status {status}"
        hint = "See admin.oidc: client_id, its secret, redirect_url, and what the issuer has of them"
        raise Refusal("login_denied", f"The issuer gave no ID token for its code ({said})", hint)

    async def person(self, token: Secret, nonce: str) -> Person:
        """Raises Refusal(login_token_refused | login_issuer_unavailable)."""
        try:
            return await self._read(token, nonce)
        except Refusal as refusal:
            if refusal.word == "subject_keys_unavailable":
                raise _away(refusal) from None
            if not refusal.word.startswith("subject_"):
                raise
            message = refusal.message.replace("subject token", "ID token")
            hint = refusal.hint.replace("subject token", "ID token")
            raise Refusal("login_token_refused", message, hint, facts={"cause": refusal.word}) from None

    async def _read(self, token: Secret, nonce: str) -> Person:
        read = read_subject(token.reveal())
        claims = read.claims
        if claims.get("iss") != self.issuer:
            raise _refused("is of another issuer")
        await self._keys.verify(self._rule, read)
        check_claims(claims, self.client_id, self._clock.now() / NS_PER_S)
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        party = claims.get("azp")
        if (len(audiences) > 1 and party is None) or party not in (None, self.client_id):
            raise _refused("is for another party (azp)")
        if claims.get("nonce") != nonce:
            raise _refused("does not belong to this login (nonce)")
        if "iat" not in claims:
            raise _refused("does not say when it was made (iat)")
        return Person(f"oidc:{_name_of(claims)}", claims)

    async def _endpoints(self) -> _Endpoints:
        """Asked by one for all, kept for an hour; a failure for seconds. Raises Refusal(login_issuer_unavailable)."""
        async with self._asking:
            now = self._clock.monotonic()
            if self._found is not None and now - self._found_at < _FRESH_S:
                return self._found
            if self._failed is not None and now - self._failed[0] < _AGAIN_S:
                raise self._failed[1]
            try:
                self._found, self._found_at = await self._discovered(), now
            except Refusal as refusal:
                self._failed = self._clock.monotonic(), refusal
                raise
            return self._found

    async def _discovered(self) -> _Endpoints:
        where = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            found = msgspec.json.decode(await self._fetch(where, private=self._rule.allow_private), type=_Endpoints)
        except Refusal as refusal:
            raise _away(refusal) from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise _away(None, "has no usable discovery document") from None
        if found.issuer != self.issuer:
            raise _away(None, "calls itself by another name in its discovery document")
        if _origin_scheme(found.authorization_endpoint) != _origin_scheme(self.issuer):
            raise _away(None, "names a login page that is not https")
        return found


_ERRORS = frozenset(
    (
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    )
)
"""RFC 6749 §5.2. Nothing else of what an issuer says is repeated."""


def _name_of(claims: Mapping[str, Any]) -> str:
    """The e-mail address if the issuer has verified it, else the subject, which is unique there."""
    subject, mail = claims.get("sub"), claims.get("email")
    if not isinstance(subject, str) or not subject:
        raise _refused("names nobody (sub)")
    name = mail if isinstance(mail, str) and mail and claims.get("email_verified") is True else subject
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise _refused("names nobody in a short printable text (sub)")
    return name


def _basic(client_id: str, secret: Secret) -> Secret:
    """RFC 6749 §2.3.1: both are form-encoded first."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret.reveal())}"
    return Secret(f"Basic {b64encode(pair.encode()).decode()}")


def _origin_scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _refused(problem: str) -> Refusal:
    return Refusal("login_token_refused", f"The issuer's ID token {problem}", "Begin again: bursar login")


def _away(cause: Refusal | None, problem: str = "does not answer as it should") -> Refusal:
    message = cause.message if cause else f"The issuer {problem}"
    hint = "See whether admin.oidc.issuer is right and reachable from here"
    return Refusal("login_issuer_unavailable", message, hint, retry_after=30)
