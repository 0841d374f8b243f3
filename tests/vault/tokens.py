"""Tokens, leases and wrapped responses of the fake: everything that has a time to live."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.vault.answers import Answer, Ask, VaultError, ok
from tests.vault.kv import stamp


@dataclass
class Token:
    id: str
    accessor: str
    policies: tuple[str, ...]
    ttl: int  # seconds; 0 = never ends
    max_ttl: int
    renewable: bool
    created: float
    expires: float  # 0 = never
    path: str
    namespace: str
    meta: dict[str, str] = field(default_factory=dict)


@dataclass
class Lease:
    id: str
    token: str
    ttl: int
    max_ttl: int
    renewable: bool
    issued: float
    expires: float
    revoked: bool = False


@dataclass
class Wrapped:
    answer: dict[str, Any]
    path: str
    created: float
    ttl: int


class Lives:
    """`now` is the fake's clock, which tests move."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.tokens: dict[str, Token] = {}
        self.leases: dict[str, Lease] = {}
        self.wrapped: dict[str, Wrapped] = {}
        self.max_ttl = 0  # set by a test: what every token and lease ends at, seconds after its issue

    # ---- tokens

    def mint(
        self,
        policies: Iterable[str],
        *,
        ttl: int = 3600,
        max_ttl: int = 0,
        renewable: bool = True,
        path: str = "auth/token/create",
        namespace: str = "",
        meta: dict[str, str] | None = None,
    ) -> Token:
        now = self.now()
        token = Token(
            id="hvs." + secrets.token_urlsafe(24),
            accessor=secrets.token_urlsafe(12),
            policies=tuple(dict.fromkeys(("default", *policies))),
            ttl=ttl,
            max_ttl=max_ttl,
            renewable=renewable and ttl > 0,
            created=now,
            expires=now + ttl if ttl else 0,
            path=path,
            namespace=namespace,
            meta=meta or {},
        )
        self.tokens[token.id] = token
        return token

    def find(self, token_id: str) -> Token:
        token = self.tokens.get(token_id)
        if token is None or (token.expires and token.expires <= self.now()):
            raise VaultError(403, "permission denied", "invalid token")
        return token

    def auth(self, token: Token) -> dict[str, Any]:
        return {
            "client_token": token.id,
            "accessor": token.accessor,
            "policies": list(token.policies),
            "token_policies": list(token.policies),
            "metadata": token.meta,
            "lease_duration": self._left(token.expires),
            "renewable": token.renewable,
            "entity_id": "",
            "token_type": "service",
            "orphan": True,
        }

    def _left(self, expires: float) -> int:
        return max(0, round(expires - self.now())) if expires else 0

    def token_call(self, ask: Ask, action: str, token: Token) -> Answer:
        if action == "lookup-self":
            return ok(
                {
                    "id": token.id,
                    "accessor": token.accessor,
                    "policies": list(token.policies),
                    "creation_ttl": token.ttl,
                    "ttl": self._left(token.expires),
                    "expire_time": stamp(token.expires) if token.expires else None,
                    "renewable": token.renewable,
                    "path": token.path,
                    "num_uses": 0,
                    "orphan": True,
                    "type": "service",
                    "meta": token.meta,
                }
            )
        if action == "renew-self":
            if not token.renewable:
                raise VaultError(400, "lease is not renewable")
            token.expires = self._renewed(token.created, token.max_ttl, token.ttl)
            return ok(auth=self.auth(token))
        if action == "revoke-self":
            del self.tokens[token.id]
            return Answer(204)
        if action == "create":
            made = self.mint(
                ask.body.get("policies", ()),
                ttl=int(str(ask.body.get("ttl", 3600)).removesuffix("s")),
                renewable=ask.body.get("renewable", True),
            )
            return ok(auth=self.auth(made))
        raise VaultError(404, "unsupported path")

    def _renewed(self, issued: float, own_max: int, ttl: int) -> float:
        most = own_max or self.max_ttl
        ends = self.now() + ttl
        return min(ends, issued + most) if most else ends

    # ---- leases

    def lend(self, token: Token, path: str, ttl: int, max_ttl: int) -> Lease:
        now = self.now()
        lease = Lease(f"{path}/{secrets.token_hex(8)}", token.id, ttl, max_ttl, True, now, now + ttl)
        self.leases[lease.id] = lease
        return lease

    def live(self, lease_id: str) -> Lease:
        lease = self.leases.get(lease_id)
        if lease is None or lease.revoked or lease.expires <= self.now():
            raise VaultError(400, "lease not found")
        return lease

    def lease_call(self, ask: Ask, action: str) -> Answer:
        lease = self.live(str(ask.body.get("lease_id", "")))
        if action == "renew":
            wanted = int(ask.body.get("increment") or lease.ttl)
            lease.expires = self._renewed(lease.issued, lease.max_ttl, wanted)
            left = self._left(lease.expires)
            return ok(None, lease_id=lease.id, renewable=lease.renewable, lease_duration=left)
        if action == "lookup":
            left = self._left(lease.expires)
            return ok({"id": lease.id, "ttl": left, "renewable": lease.renewable, "expire_time": stamp(lease.expires)})
        if action == "revoke":
            lease.revoked = True
            return Answer(204)
        raise VaultError(404, "unsupported path")

    # ---- wrapped responses

    def wrap(self, answer: dict[str, Any], path: str, ttl: int) -> Answer:
        """The answer kept under a single-use token; only that is told."""
        token = "hvs.wrap." + secrets.token_urlsafe(24)
        self.wrapped[token] = Wrapped(answer, path, self.now(), ttl)
        info = {
            "token": token,
            "accessor": secrets.token_urlsafe(12),
            "ttl": ttl,
            "creation_time": stamp(self.now()),
            "creation_path": path,
        }
        return ok(None, wrap_info=info)

    def is_wrapping(self, token: str) -> bool:
        return token in self.wrapped

    def wrapping_call(self, ask: Ask, action: str) -> Answer:
        token = str(ask.body.get("token") or ask.token)
        kept = self.wrapped.get(token)
        if kept is None or kept.created + kept.ttl <= self.now():
            raise VaultError(400, "wrapping token is not valid or does not exist")
        if action == "lookup":
            return ok({"creation_path": kept.path, "creation_time": stamp(kept.created), "creation_ttl": kept.ttl})
        if action == "unwrap":
            del self.wrapped[token]
            return Answer(200, kept.answer)
        raise VaultError(404, "unsupported path")
