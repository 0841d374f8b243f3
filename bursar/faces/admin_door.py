"""The door of the admin API: which names it answers to, who may enter, and what wrong guesses cost.

The token is compared in constant time by digest. A right token is never slowed, so that nobody can lock the operator
out; a wrong one waits, longer with each recent failure, and only a few may wait at once.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from bursar.core.errors import Refusal
from bursar.core.roles import Caller
from bursar.core.secret import Secret
from bursar.core.tokens import parse
from bursar.ports import Clock

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 3.0
_FORGET_AFTER_S = 60.0
_MOST_WAITING = 16
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
OWNER = Caller("admin", "admin")
"""Whoever holds the node's own token."""

Recognise = Callable[[str], Caller | None]
"""Whose token a text is; None = nobody's. Raises Refusal for one that is over."""


class AuditOfGuesses(Protocol):
    async def append(self, actor: str, action: str, target: str, facts: dict[str, str | int]) -> object: ...


class Door:
    """`hosts` are the names (without port) under which the API may be addressed; None = any. `recognise` knows the
    tokens of people and programs besides the node's own.
    """

    def __init__(
        self,
        token: Secret,
        clock: Clock,
        hosts: Collection[str] | None = LOOPBACK_NAMES,
        *,
        recognise: Recognise = lambda _: None,
        tell: Callable[[int, str], Awaitable[None]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._digest = _digest(token.reveal())
        self._clock = clock
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._recognise = recognise
        self._tell = tell
        self._sleep = sleep
        self._recent = 0
        self._last_failure = 0.0
        self._waiting = 0
        self.failures = 0  # since the start

    def check_host(self, host: str) -> None:
        """A page that rebinds its own name to this address is stopped here. Raises Refusal(host_not_allowed)."""
        if self._hosts is None:
            return
        name = host.lower()
        name = name[: name.index("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]
        if name not in self._hosts:
            hint = "Call it as 127.0.0.1, or add the name to listen.admin.hosts"
            raise Refusal("host_not_allowed", "The admin API does not answer to this Host", hint)

    async def admit(self, authorization: str, peer: str) -> Caller:
        """Who is calling, and as what.

        Raises Refusal(admin_token_missing | admin_token_invalid | admin_token_expired | too_many_guesses).
        """
        scheme, _, given = authorization.partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer" or not given:
            hint = "Send `Authorization: Bearer bsa_...`; the token lies in admin.token in the data folder"
            raise Refusal("admin_token_missing", "The admin API wants a bearer token", hint)
        if hmac.compare_digest(_digest(given), self._digest):
            return OWNER
        known = self._recognise(given)
        if known is not None:
            return known
        await self.slow(peer)
        parsed = parse(given)
        message = (
            "This is a virtual key: it calls models, it does not administer" if parsed and parsed.kind == "key" else ""
        )
        hint = "Use the token in admin.token in the data folder"
        raise Refusal("admin_token_invalid", message or "This is not the admin token of this node", hint)

    async def slow(self, peer: str) -> None:
        """Count a wrong guess, and let it wait. Raises Refusal(too_many_guesses) when too many wait."""
        now = self._clock.monotonic()
        self._recent = self._recent + 1 if now - self._last_failure < _FORGET_AFTER_S else 1
        self._last_failure = now
        self.failures += 1
        if self._tell and _worth_telling(self.failures):
            await self._tell(self.failures, peer)
        if self._waiting >= _MOST_WAITING:
            hint = "Wait a minute, then use the token in admin.token in the data folder"
            raise Refusal("too_many_guesses", "Too many wrong tokens at once", hint, retry_after=_FORGET_AFTER_S)
        self._waiting += 1
        try:
            await self._sleep(min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(self._recent - 1, 10)))
        finally:
            self._waiting -= 1


def _worth_telling(failures: int) -> bool:
    """1, 2, 4, 8, ...: the audit learns of an attack without being filled by it."""
    return failures & (failures - 1) == 0


def _digest(token: str) -> bytes:
    """Equal lengths for the comparison, and no token in this object."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
