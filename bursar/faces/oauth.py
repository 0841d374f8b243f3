"""The token endpoints over HTTP: forms in, JSON out, errors as RFC 6749 §5.2 has them. Stands on the data port; the
gateway hands the requests over.

`POST /oauth/token` (RFC 8693) · `POST /oauth/introspect` (RFC 7662) · `POST /oauth/revoke` (RFC 7009) ·
`GET /oauth/jwks` (RFC 7517) · `GET /.well-known/oauth-authorization-server` (RFC 8414), `openid-configuration`.
"""

import logging
from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec

from bursar.control.signing_keys import jwk_set
from bursar.control.tokens import Tokens, Wish
from bursar.core.errors import Refusal
from bursar.core.grants import known_scopes
from bursar.core.secret import Secret

Answer = tuple[int, list[tuple[str, str]], bytes]

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TYPE = "urn:ietf:params:oauth:token-type:"
ACCESS_TOKEN = f"{_TYPE}access_token"
_SUBJECTS = {ACCESS_TOKEN, f"{_TYPE}jwt", f"{_TYPE}id_token"}
_REQUESTABLE = {"", ACCESS_TOKEN, f"{_TYPE}jwt"}
_MANY = ("audience", "resource")  # RFC 8693 §2.1: these alone may be given more than once
_MOST_FIELDS = 32
_log = logging.getLogger("bursar.oauth")

_CODES = {
    "grant_not_supported": "unsupported_grant_type",
    "target_unknown": "invalid_target",
    "scope_invalid": "invalid_scope",
    "scope_widens": "invalid_scope",
    "token_type_unknown": "unsupported_token_type",
}
_HINT_FORM = "Send application/x-www-form-urlencoded; see docs/tokens.md"


class OAuth:
    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def answer(self, path: str, headers: Mapping[str, str], body: bytes, address: str) -> Answer:
        """One request whose route and method the gateway has checked. Never raises."""
        try:
            if path == "/oauth/jwks":
                return _json(200, jwk_set(await self._tokens.signing.public()))
            if path.startswith("/.well-known/"):
                return _json(200, self._metadata())
            return await self._posted(path, _form(headers, body), headers, address)
        except Refusal as refusal:
            return _error(refusal, headers)
        except Exception:  # noqa: BLE001 - the gateway waits for an answer, whatever it is
            _log.exception("a fault of our own at %s", path)
            fault = Refusal("internal_error", "Something failed inside Bursar", "Its log has the details")
            return _error(fault, headers)

    async def _posted(self, path: str, form: "_Form", headers: Mapping[str, str], address: str) -> Answer:
        if path == "/oauth/token":
            return await self._token(form, address)
        if path == "/oauth/introspect":
            return self._introspect(form, headers)
        return await self._revoke(form, address)

    async def _token(self, form: "_Form", address: str) -> Answer:
        if form.one("grant_type") != EXCHANGE:
            raise Refusal("grant_not_supported", "This endpoint exchanges tokens", f"Send grant_type={EXCHANGE}")
        if form.one("actor_token") or form.one("actor_token_type"):
            raise _bad("actor_token is not taken", "Leave it out")
        if form.one("requested_token_type") not in _REQUESTABLE:
            raise _bad("only access tokens are issued", f"Send requested_token_type={ACCESS_TOKEN}, or leave it out")
        if form.one("subject_token_type") not in _SUBJECTS:
            raise _bad("subject_token_type is missing or unknown", f"Send subject_token_type={ACCESS_TOKEN}")
        for target in form.all("audience") + form.all("resource"):
            if target.rstrip("/") != self._tokens.issuer.rstrip("/"):
                raise Refusal("target_unknown", "Tokens are issued for this broker only", "Leave audience out")
        life = form.one("expires_in")
        if life and not (life.isascii() and life.isdigit() and int(life[:9]) > 0):
            raise _bad("expires_in is no number of seconds", "Send expires_in=600, for example")
        wish = Wish(
            subject=Secret(form.must("subject_token")),
            scope=form.one("scope"),
            life_s=int(life[:9] or 0),
            rule_id=form.one("trust_rule"),
            address=address,
        )
        issued = await self._tokens.exchange(wish)
        answer = {
            "access_token": issued.text.reveal(),
            "issued_token_type": ACCESS_TOKEN,
            "token_type": "Bearer",
            "expires_in": issued.life_s,
        }
        return _json(200, answer | ({"scope": issued.scope} if issued.scope else {}))

    def _introspect(self, form: "_Form", headers: Mapping[str, str]) -> Answer:
        scheme, _, asker = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not asker.strip():
            return _unauthorized("Send a virtual key or token of the same team as a bearer token")
        token = Secret(form.must("token"))
        try:
            claims = self._tokens.introspect(token, Secret(asker.strip()))
        except Refusal as refusal:
            return _unauthorized(refusal.message)
        if claims is None:
            return _json(200, {"active": False})
        found = {name: value for name, value in msgspec.to_builtins(claims).items() if value and name != "sid"}
        return _json(200, {"active": True, "token_type": "Bearer", **found})

    async def _revoke(self, form: "_Form", address: str) -> Answer:
        token = form.must("token")
        if token.startswith(("bsr_", "bsa_")):
            # RFC 7009 §2.2.1: a key is switched off by its team, not by whoever finds it
            hint = "Switch a key off with `bursar keys disable`"
            raise Refusal("token_type_unknown", "Only tokens are revoked here, not keys", hint)
        await self._tokens.revoke(Secret(token), address)
        return 200, _fields("application/json"), b""

    def _metadata(self) -> dict[str, object]:
        issuer = self._tokens.issuer
        return {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/oauth/token",
            "introspection_endpoint": f"{issuer}/oauth/introspect",
            "revocation_endpoint": f"{issuer}/oauth/revoke",
            "jwks_uri": f"{issuer}/oauth/jwks",
            "grant_types_supported": [EXCHANGE],
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["EdDSA"],
            "token_endpoint_auth_methods_supported": ["none"],
            "scopes_supported": [f"{name}:*" for name in known_scopes()],
        }


class _Form:
    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)
        for name, values in self._values.items():
            if len(values) > 1 and name not in _MANY:
                raise _bad(f"{name[:40]} is given more than once", "Send each parameter once")

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def one(self, name: str) -> str:
        return self._values.get(name, [""])[0]

    def must(self, name: str) -> str:
        value = self.one(name)
        if not value:
            raise _bad(f"{name} is missing", f"Send {name}=...")
        return value


def _form(headers: Mapping[str, str], body: bytes) -> _Form:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise _bad("the body is not a form", _HINT_FORM)
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=_MOST_FIELDS)
    except (UnicodeDecodeError, ValueError):
        raise _bad("the form cannot be read", _HINT_FORM) from None
    return _Form(pairs)


def _bad(problem: str, hint: str) -> Refusal:
    return Refusal("token_request_invalid", problem, hint)


def _fields(kind: str) -> list[tuple[str, str]]:
    return [("content-type", kind), ("cache-control", "no-store"), ("pragma", "no-cache")]


def _json(status: int, value: object) -> Answer:
    return status, _fields("application/json"), msgspec.json.encode(value)


def _unauthorized(why: str) -> Answer:
    body = {"error": "invalid_client", "error_description": _plain(why)}
    fields = [*_fields("application/json"), ("www-authenticate", 'Bearer realm="bursar"')]
    return 401, fields, msgspec.json.encode(body)


def _error(refusal: Refusal, headers: Mapping[str, str]) -> Answer:
    """RFC 6749 §5.2; for a subject token that does not do, `invalid_request` (RFC 8693 §2.2.2).

    The gateway has put the request's id into `headers`.
    """
    status = refusal.rule.status
    code = _CODES.get(refusal.word, "invalid_request")
    if status >= 500:
        code = "server_error" if status == 500 else "temporarily_unavailable"
    text = f"{refusal.message}. {refusal.hint}" if refusal.hint else refusal.message
    body = {"error": code, "error_description": _plain(text), "bursar": {"word": refusal.word}}
    if request_id := headers.get("x-bursar-request-id"):
        body["bursar"] = {"word": refusal.word, "request_id": request_id}
    fields = [*_fields("application/json"), ("x-bursar-word", refusal.word)]
    if refusal.retry_after is not None:
        fields.append(("retry-after", str(max(1, round(refusal.retry_after)))))
    return status if status >= 500 else 400, fields, msgspec.json.encode(body)


def _plain(text: str) -> str:
    """The characters that RFC 6749 §5.2 lets a description have."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
