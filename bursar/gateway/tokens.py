"""Stage 2 for tokens: a signed text becomes a plan. Read once, then found by the digest of the whole text.

The gateway reads tokens by itself, so that those already issued are served while control is away. What a token stands
on is looked at anew with every use: a switched-off key, team or trust rule kills it at the next hold.
"""

from collections.abc import Callable
from typing import Protocol

from bursar.core.access_tokens import grant_of, has_shape, read_claims, take_apart
from bursar.core.directory import BudgetDef
from bursar.core.errors import Refusal
from bursar.core.policy import KeyPlan
from bursar.gateway.tenants import Tenants

MOST_REMEMBERED = 20_000  # tokens; one forgotten is read again


class Verify(Protocol):
    """Whether the signature is that of the public key (Ed25519, 32 bytes) over the message. Never raises."""

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool: ...


def nobody_signs(public: bytes, signature: bytes, message: bytes) -> bool:  # noqa: ARG001 - the shape of Verify
    """Where no composition root has handed in anything better."""
    return False


class Tokens:
    """`define` is the money store's: a token's own budget is defined before any hold names it."""

    def __init__(self, tenants: Tenants, define: Callable[[BudgetDef], None]) -> None:
        self._tenants = tenants
        self._define = define
        self._known: dict[bytes, tuple[int, KeyPlan]] = {}  # by digest; as of this version of the directory
        self.issuer = ""
        self.verify: Verify = nobody_signs

    def plan_of(self, text: str, digest: bytes, now: int) -> KeyPlan | None:
        """The plan of a token; None for a text that is none. Raises Refusal(token_invalid | token_expired |
        token_revoked).
        """
        known = self._known.get(digest)
        if known is None:
            return self._read(text, digest, now) if has_shape(text) else None
        version, plan = known
        if version != self._tenants.version:
            plan = self._tenants.current(plan)
            self._known[digest] = self._tenants.version, plan
        return plan

    def _read(self, text: str, digest: bytes, now: int) -> KeyPlan:
        sealed = take_apart(text)
        key = self._tenants.token_keys.get(sealed.kid)
        if key is None or (key.until is not None and now >= key.until):
            raise _foreign()
        if not self.verify(key.public, sealed.signature, sealed.signed):
            raise _foreign()
        plan = self._tenants.narrowed(grant_of(read_claims(sealed.payload, self.issuer, now), sealed.kid))
        assert plan.grant is not None
        if plan.grant.scopes.budget_pico is not None:
            self._define(plan.fixed_budgets[-1])
        if len(self._known) >= MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[digest] = self._tenants.version, plan
        return plan


def _foreign() -> Refusal:
    return Refusal("token_invalid", "The token was not signed here", "Fetch a new one: POST /oauth/token")
