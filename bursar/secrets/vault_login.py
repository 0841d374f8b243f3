"""Being let in by Vault or OpenBao: by token, AppRole, Kubernetes or JWT; kept alive by renewal at two thirds.

What is needed to get in (a token, a role's secret id, a machine's JWT) is read anew from its file at each login, so
that a rotated one is taken up, and is nowhere kept. The token that was got lives in memory only.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import Clock
from bursar.secrets.vault_api import Reply, VaultApi

Method = Literal["token", "approle", "kubernetes", "jwt"]
RENEW_AFTER = 2 / 3
NEVER = float("inf")
_TRY_AGAIN_S = 5.0
_WRAPPED_PATHS: Mapping[str, tuple[str, str]] = {  # where a wrapped bootstrap secret must have been made
    "token": ("auth/token/create", "client_token"),
    "approle": ("auth/", "secret_id"),
}


class VaultLogin:
    """`bootstrap` reads the token, secret id or JWT; it raises Refusal(store_login_failed) when there is none.

    `wrapped`: what it reads is a response-wrapping token, opened once; where it was made is checked before that.
    """

    def __init__(
        self,
        api: VaultApi,
        clock: Clock,
        bootstrap: Callable[[], Secret],
        *,
        method: Method = "token",
        mount: str = "",
        role: str = "",
        wrapped: bool = False,
    ) -> None:
        self._api = api
        self._clock = clock
        self._bootstrap = bootstrap
        self.method = method
        self._mount = mount or method
        self._role = role
        self._wrapped = wrapped
        self._opened: Secret | None = None
        self._token: Secret | None = None
        self._ttl = 0.0  # as first given, seconds; 0 = never ends
        self._renewable = False
        self._due = NEVER  # monotonic instant of the next renewal
        self._ends = NEVER
        self._turn = asyncio.Lock()
        self._fault: tuple[float, Refusal] | None = None  # the last login that failed, and when

    async def token(self) -> Secret:
        """A token that lives; logs in when there is none. Raises Refusal.

        Whoever waited while a login failed gets its refusal: a crowd before a Vault that hangs waits once, not in turn.
        """
        asked = self._clock.monotonic()
        async with self._turn:
            if self._token is None or self._clock.monotonic() >= self._ends:
                if self._fault is not None and self._fault[0] > asked:
                    known = self._fault[1]
                    raise Refusal(known.word, known.message, known.hint, known.retry_after)
                try:
                    await self._log_in()
                except Refusal as refusal:
                    self._fault = (self._clock.monotonic(), refusal)
                    raise
            assert self._token is not None
            return self._token

    async def again(self, refused: Secret) -> bool:
        """After a 403: a new token, unless somebody has got one meanwhile or this method has no other -> try again?"""
        async with self._turn:
            if self._token != refused:
                return True
            if self.method == "token":
                fresh = await self._bootstrap_secret()
                if fresh == refused:
                    return False
            await self._log_in()
            return True

    async def tend(self) -> float:
        """Renew when that is due -> seconds until the next time. Raises nothing that a later try could mend."""
        async with self._turn:
            now = self._clock.monotonic()
            if self._token is None or now < self._due:
                return min(self._due, self._ends) - now
            try:
                await self._renew(self._token)
            except Refusal as refusal:
                if refusal.word in ("store_denied", "store_mismatch"):  # it can be renewed no more
                    self._due = NEVER
                    if self.method != "token":
                        self._token = None
                    return _TRY_AGAIN_S
                self._due = now + _TRY_AGAIN_S
            return self._due - now

    async def leave(self) -> None:
        """Give back a token that was got by logging in; one that was handed over stays valid."""
        async with self._turn:
            token, self._token = self._token, None
            if token is not None and self.method != "token":
                await self._api.call("POST", "auth/token/revoke-self", token=token)

    # ---- in turn

    async def _log_in(self) -> None:
        secret = await self._bootstrap_secret()
        if self.method == "token":
            reply = await self._said("GET", "auth/token/lookup-self", None, secret)
            self._keep(secret, float(reply.data.get("ttl") or 0), bool(reply.data.get("renewable")))
            return
        body: dict[str, object] = {"role": self._role, "jwt": secret}
        if self.method == "approle":
            body = {"role_id": self._role, "secret_id": secret}
        reply = await self._said("POST", f"auth/{self._mount}/login", body, None)
        token = reply.auth.get("client_token")
        if not isinstance(token, str) or not token:
            raise self._failed("gave no token", "See the login method's mount and role")
        self._keep(Secret(token), float(reply.auth.get("lease_duration") or 0), bool(reply.auth.get("renewable")))

    async def _said(self, method: str, path: str, body: Mapping[str, object] | None, token: Secret | None) -> Reply:
        """A call of the login itself: what is refused here is the login."""
        try:
            reply = await self._api.call(method, path, body, token=token)
        except Refusal as refusal:
            if refusal.word not in ("store_denied", "store_mismatch"):
                raise
            hint = f"See its {self.method} login: mount, role, and whether what this node shows is still valid"
            raise self._failed(f"refused the {self.method} login", hint) from None
        if reply.status == 404:
            raise self._failed(f"has no {self.method} login at {path.rpartition('/')[0]}", "Enable it there")
        return reply

    def _failed(self, what: str, hint: str) -> Refusal:
        return Refusal("store_login_failed", f"The secret store {self._api.store} {what}", hint)

    async def _bootstrap_secret(self) -> Secret:
        if not self._wrapped:
            return self._bootstrap()
        if self._opened is None:
            self._opened = await self._unwrap(self._bootstrap())
        return self._opened

    async def _unwrap(self, wrapping: Secret) -> Secret:
        """Open a response-wrapping token, once, after a look at where it was made: a forged one shows there."""
        wanted, field = _WRAPPED_PATHS[self.method]
        used = "It was opened before, by whom? Revoke what it held, and hand over a new one"
        try:
            looked = await self._api.call("POST", "sys/wrapping/lookup", {"token": wrapping})
            made_at = str(looked.data.get("creation_path", ""))
            if not made_at.startswith(wanted) or (self.method == "approle" and not made_at.endswith("/secret-id")):
                raise self._failed("wrapped something else than this login needs", "Hand over a new wrapping token")
            opened = await self._api.call("POST", "sys/wrapping/unwrap", token=wrapping)
        except Refusal as refusal:
            if refusal.word not in ("store_denied", "store_mismatch"):
                raise
            raise self._failed("does not know the wrapping token", used) from None
        found = (opened.auth or opened.data).get(field)
        if not isinstance(found, str) or not found:
            raise self._failed("wrapped something else than this login needs", "Hand over a new wrapping token")
        return Secret(found)

    async def _renew(self, token: Secret) -> None:
        if not self._renewable:
            self._due, self._token = NEVER, self._token if self.method == "token" else None
            return
        reply = await self._api.call("POST", "auth/token/renew-self", {}, token=token)
        left = float(reply.auth.get("lease_duration") or 0)
        near_its_end = left < self._ttl / 3
        if near_its_end and self.method != "token":
            await self._log_in()
            return
        now = self._clock.monotonic()
        self._ends = now + left
        self._due = now + left * RENEW_AFTER

    def _keep(self, token: Secret, ttl: float, renewable: bool) -> None:
        now = self._clock.monotonic()
        self._token, self._ttl, self._renewable = token, ttl, renewable
        self._ends = now + ttl if ttl else NEVER
        self._due = now + ttl * RENEW_AFTER if ttl else NEVER


class VaultClient:
    """Calls with the login's token; one that is refused is tried once more with a new one."""

    def __init__(self, api: VaultApi, login: VaultLogin) -> None:
        self._api = api
        self.login = login
        self.store = api.store

    async def ask(self, method: str, path: str, body: Mapping[str, object] | None = None, query: str = "") -> Reply:
        """Raises Refusal."""
        token = await self.login.token()
        try:
            return await self._api.call(method, path, body, token=token, query=query)
        except Refusal as refusal:
            if refusal.word != "store_denied" or not await self.login.again(token):
                raise
        return await self._api.call(method, path, body, token=await self.login.token(), query=query)
