"""HTTP to Vault or OpenBao, as their API documentation says: one call, its envelope, and its faults by name.

Sources: developer.hashicorp.com/vault/api-docs and openbao.org/api-docs (the same for all that is used here).
A token and a body's secret are `Secret` down to the wire, so that no traceback's local variables show them.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.secret import Secret
from bursar.ports import Web, WebAnswer

_HOPS = 2  # a standby points to the active node; one that points on and on is broken
_HINT_DOWN = "See that it runs, that the address is right, and that a firewall lets this node through"


class Reply:
    """A decoded answer. Its repr shows nothing, because `data` may hold a provider key."""

    __slots__ = ("auth", "data", "lease_duration", "lease_id", "renewable", "status", "wrap_info")

    def __init__(self, status: int, envelope: Mapping[str, Any]) -> None:
        self.status = status
        self.data: dict[str, Any] = envelope.get("data") or {}
        self.auth: dict[str, Any] = envelope.get("auth") or {}
        self.wrap_info: dict[str, Any] = envelope.get("wrap_info") or {}
        self.lease_id = str(envelope.get("lease_id") or "")
        self.lease_duration = int(envelope.get("lease_duration") or 0)
        self.renewable = bool(envelope.get("renewable"))

    def __repr__(self) -> str:
        return f"Reply({self.status})"


class VaultApi:
    """`store` is the name under which messages speak of it. `seconds` bounds each call."""

    def __init__(self, web: Web, store: str, url: str, namespace: str = "", seconds: float = 5.0) -> None:
        self._web = web
        self.store = store
        self._url = url.rstrip("/")
        self._namespace = namespace.strip("/")
        self._seconds = seconds

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: Secret | None = None,
        query: str = "",
    ) -> Reply:
        """The answer, also a 404 (what is not there, or the metadata of what is deleted). Raises Refusal for the rest.

        `path` is below /v1/, unquoted. A merge patch is sent as such. A read that broke off is tried once more: an
        idle connection may have been closed at the other end.
        """
        url = f"{self._url}/v1/{quote(path)}" + (f"?{query}" if query else "")
        headers = self._headers(method, token, body)
        sent = b"" if body is None else Secret(msgspec.json.encode(body, enc_hook=_reveal).decode())
        answer = await self._send(method, url, headers, sent)
        for _ in range(_HOPS):
            if answer.status not in (301, 302, 307, 308):
                break
            url = self._next(url, answer.headers.get("location", ""))
            answer = await self._send(method, url, headers, sent)
        return self._read(answer)

    def _headers(
        self, method: str, token: Secret | None, body: Mapping[str, object] | None
    ) -> list[tuple[str, str | Secret]]:
        headers: list[tuple[str, str | Secret]] = [("x-vault-request", "true")]
        if token is not None:
            headers.append(("x-vault-token", token))
        if self._namespace:
            headers.append(("x-vault-namespace", self._namespace))
        if body is not None:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            headers.append(("content-type", kind))
        return headers

    async def _send(
        self, method: str, url: str, headers: list[tuple[str, str | Secret]], body: bytes | Secret
    ) -> WebAnswer:
        for last in (False, True):
            try:
                return await self._web.call(method, url, headers, body, self._seconds)
            except UpstreamFault as fault:
                if last or not (method == "GET" and fault.kind == "reset"):
                    kind = fault.kind
                    break
        slow = "timeout" in kind
        what = f"did not answer within {self._seconds:g} s" if slow else f"was not reached ({kind})"
        raise Refusal("secrets_unavailable", f"The secret store {self.store} {what}", _HINT_DOWN) from None

    def _next(self, url: str, location: str) -> str:
        """Where a standby points. Never from https to http: the token would go in clear."""
        here, there = urlsplit(url), urlsplit(location)
        if there.scheme not in ("https", here.scheme) or not there.hostname:
            message = f"The secret store {self.store} points to an address that is not followed"
            raise Refusal("secrets_unavailable", message, "Give the address of the active node, or set its api_addr")
        return location

    def _read(self, answer: WebAnswer) -> Reply:
        envelope = _decode(answer.body)
        told = (envelope or {}).get("errors")
        if answer.status in (200, 204) or (answer.status == 404 and envelope is not None and not told):
            return Reply(answer.status, envelope or {})
        raise self._refusal(answer, envelope or {})

    def _refusal(self, answer: WebAnswer, envelope: Mapping[str, Any]) -> Refusal:
        told = " ".join(str(error) for error in envelope.get("errors") or ())
        after = answer.headers.get("retry-after", "")
        for status, said, word, what, hint in _FAULTS:
            if status == answer.status and said in told:
                wait = float(after) if after.isdigit() else None
                return Refusal(word, f"The secret store {self.store} {what}", hint, retry_after=wait)
        if answer.status >= 500:
            message = f"The secret store {self.store} failed (status {answer.status})"
            return Refusal("secrets_unavailable", message, _HINT_DOWN)
        what = f": {told[:160]}" if answer.status == 400 and told.isprintable() and told else ""
        message = f"The secret store {self.store} did not take a call (status {answer.status}){what}"
        return Refusal("store_mismatch", message, "See that url, namespace and mount lead to a KV engine, version 2")


_FAULTS: tuple[tuple[int, str, str, str, str], ...] = (  # status, what it says, -> word, message, hint
    (503, "sealed", "store_sealed", "is sealed", "Unseal it: `vault operator unseal`"),
    (
        403,
        "",
        "store_denied",
        "denies this node the permission",
        "See its policy for this node (deploy/vault), the namespace, and whether the token still lives",
    ),
    (429, "", "store_throttled", "has a quota, which is used up", "Raise its rate limit, or the cache's ttl"),
    (
        400,
        "check-and-set",
        "secret_changed",
        "has a newer version than the one that was read",
        "Look at it and say it again: bursar secrets versions",
    ),
    (412, "", "secrets_unavailable", "has not caught up with its own writes", "Try again in a moment"),
    (472, "", "secrets_unavailable", "is a disaster recovery replica", "Give the address of the primary cluster"),
    (473, "", "secrets_unavailable", "is a standby that does not serve this", "Give the address of the active node"),
)


def _reveal(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value).__name__)


def _decode(body: bytes) -> dict[str, Any] | None:
    """The envelope; {} for an empty body; None when it is no JSON object, so not Vault that speaks."""
    if not body:
        return {}
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
