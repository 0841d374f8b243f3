"""In front of a store that lies elsewhere: fewer calls to it, and a bounded answer while it is away.

- A value is kept by entry *and version*, so that a new version never meets an old value.
- `ttl`: how long an answer is believed. `negative_ttl`: how long "there is none" and "not permitted" are, and how long
  a failed call is not tried again for the same question.
- `stale`: how long after its ttl an answer still serves while the store is away, sealed or throttled. Never when the
  store answers that it denies: a right that was taken away is gone at once.
- One call at a time for one question; whoever comes meanwhile waits for its answer.
- After `failures` calls in a row without an answer the store is left alone for `cool_down`, then tried by one call.

Values are kept in memory only, here and in the gateways' leases, and dropped when they may not serve any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import msgspec

from bursar.core.errors import Refusal
from bursar.core.provider_keys import Put, SecretEntry
from bursar.core.secret import Secret
from bursar.ports import Clock, SecretStore

AWAY = frozenset({"secrets_unavailable", "store_sealed", "store_throttled"})
_KEPT_REFUSALS = frozenset({"secret_not_found", "store_denied", "secret_malformed", "store_login_failed"})
_SWEEP_S = 30.0

T = TypeVar("T")


class CachePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, and a count."""

    ttl: float = 60.0
    negative_ttl: float = 5.0
    stale: float = 3600.0
    failures: int = 5
    cool_down: float = 5.0


@runtime_checkable
class Tended(Protocol):
    """A store that has something to renew, and to give back at the end."""

    async def tend(self) -> float: ...

    async def close(self) -> None: ...


class _Kept:
    """An answer and its age. Its repr does not show it."""

    __slots__ = ("answer", "at", "refusal", "try_at")

    def __init__(self, at: float, answer: object = None, refusal: Refusal | None = None) -> None:
        self.at, self.answer, self.refusal = at, answer, refusal
        self.try_at = at  # until then a failed call is not tried again


class CachedStore:
    """`bursar.ports.SecretStore` in front of another one."""

    def __init__(self, store: SecretStore, clock: Clock, policy: CachePolicy | None = None) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy or CachePolicy()
        self._kept: dict[Hashable, _Kept] = {}
        self._flights: dict[Hashable, asyncio.Task[Any]] = {}
        self._failures = 0
        self._open_until = 0.0
        self._swept = clock.monotonic()
        self.fault: Refusal | None = None  # why it is away; None while it answers
        self.stale_answers = 0  # since the start

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def writable(self) -> bool:
        return self._store.writable

    async def tend(self) -> float:
        """Drop what may not serve any more; let the store renew what it has -> seconds until the next time."""
        self._sweep()
        due = await self._store.tend() if isinstance(self._store, Tended) else _SWEEP_S
        return min(due, _SWEEP_S)

    async def close(self) -> None:
        self._kept.clear()
        if isinstance(self._store, Tended):
            await self._store.close()

    # ---- reading

    async def entries(self) -> list[SecretEntry]:
        return list(await self._through("entries", self._store.entries))

    async def entry(self, secret_id: str) -> SecretEntry:
        return await self._through(("entry", secret_id), lambda: self._store.entry(secret_id))

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        number = (await self.entry(secret_id)).version if version is None else version
        return await self._through(("value", secret_id, number), lambda: self._store.get(secret_id, number))

    async def find(self, value: Secret) -> SecretEntry | None:
        return await self._guarded(lambda: self._store.find(value))

    # ---- writing: through, and what was kept of it forgotten

    async def put(
        self,
        address: str,
        value: Secret,
        tags: Mapping[str, str],
        allow_duplicate: bool = False,
        secret_id: str | None = None,
    ) -> tuple[str, int]:
        act = self._store.put
        return await self._writing(None, lambda: act(address, value, tags, allow_duplicate, secret_id))

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]:
        return await self._writing(None, lambda: self._store.put_many(puts))

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int:
        return await self._writing(secret_id, lambda: self._store.put_version(secret_id, value, allow_duplicate))

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        return await self._writing(secret_id, lambda: self._store.tag(secret_id, changes))

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
        return await self._writing(None, lambda: self._store.tag_many(changes))

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry:
        return await self._writing(secret_id, lambda: self._store.set_disabled(secret_id, disabled))

    async def destroy(self, secret_id: str, version: int | None = None) -> None:
        await self._writing(secret_id, lambda: self._store.destroy(secret_id, version))

    # ---- inside

    async def _writing(self, secret_id: str | None, act: Callable[[], Awaitable[T]]) -> T:
        """Forgets before and after: a reader beside it must not bring back what was."""
        self._forget(secret_id)
        try:
            return await self._guarded(act)
        finally:
            self._forget(secret_id)

    def _forget(self, secret_id: str | None) -> None:
        """What is kept of one entry (None = of all), and what is on its way."""
        tables: tuple[dict[Hashable, Any], ...] = (self._kept, self._flights)
        for table in tables:
            for key in [k for k in table if secret_id is None or k == "entries" or secret_id in cast(tuple[str], k)]:
                del table[key]

    async def _through(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        kept, now, policy = self._kept.get(key), self._clock.monotonic(), self._policy
        if kept is not None and kept.refusal is not None and now - kept.at < policy.negative_ttl:
            raise _again(kept.refusal)
        if kept is not None and kept.refusal is None:
            if now - kept.at < policy.ttl:
                return cast(T, kept.answer)
            if now < kept.try_at and self._may_serve(kept, now):
                self.stale_answers += 1
                return cast(T, kept.answer)
        try:
            return cast(T, await asyncio.shield(self._flight(key, fetch)))
        except Refusal as refusal:
            now = self._clock.monotonic()
            if refusal.word in AWAY and kept is not None and self._may_serve(kept, now):
                kept.try_at = now + policy.negative_ttl
                self.stale_answers += 1
                return cast(T, kept.answer)
            raise _again(refusal) from None

    def _may_serve(self, kept: _Kept, now: float) -> bool:
        return kept.refusal is None and now - kept.at < self._policy.ttl + self._policy.stale

    def _flight(self, key: Hashable, fetch: Callable[[], Awaitable[object]]) -> "asyncio.Task[object]":
        task = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.ensure_future(self._fetch(key, fetch))
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _landed(self, key: Hashable, done: "asyncio.Task[object]") -> None:
        if self._flights.get(key) is done:
            del self._flights[key]
        if not done.cancelled():
            done.exception()  # read once: nobody may be waiting any more

    async def _fetch(self, key: Hashable, fetch: Callable[[], Awaitable[object]]) -> object:
        me = asyncio.current_task()
        try:
            answer = await self._guarded(fetch)
        except Refusal as refusal:
            if self._flights.get(key) is me:
                self._keep_refusal(key, refusal)
            raise
        if self._flights.get(key) is me:  # else it was changed meanwhile
            self._kept[key] = _Kept(self._clock.monotonic(), answer)
        return answer

    def _keep_refusal(self, key: Hashable, refusal: Refusal) -> None:
        """An outage is remembered only where nothing is kept that may serve through it."""
        kept, now = self._kept.get(key), self._clock.monotonic()
        lost = refusal.word in AWAY and (kept is None or not self._may_serve(kept, now))
        if refusal.word in _KEPT_REFUSALS or lost:
            self._kept[key] = _Kept(now, refusal=refusal)

    async def _guarded(self, act: Callable[[], Awaitable[T]]) -> T:
        """Through the breaker. Raises Refusal: the store's own, or at once the last one while it is left alone."""
        wait = self._open_until - self._clock.monotonic()
        if wait > 0 and self.fault is not None:
            raise _again(self.fault, retry_after=wait)
        if self._failures >= self._policy.failures:
            self._open_until = self._clock.monotonic() + self._policy.cool_down  # this call tries it, the others wait
        try:
            result = await act()
        except Refusal as refusal:
            self._answered(refusal)
            raise
        self._answered(None)
        return result

    def _answered(self, refusal: Refusal | None) -> None:
        if refusal is None or refusal.word not in AWAY:
            self._failures, self._open_until = 0, 0.0
            self.fault = refusal if refusal is not None and refusal.word.startswith("store_") else None
            return
        self._failures += 1
        self.fault = refusal
        if self._failures >= self._policy.failures:
            self._open_until = self._clock.monotonic() + self._policy.cool_down

    def _sweep(self) -> None:
        now, policy = self._clock.monotonic(), self._policy
        for key, kept in list(self._kept.items()):
            if now - kept.at >= (policy.negative_ttl if kept.refusal else policy.ttl + policy.stale):
                del self._kept[key]


def _again(refusal: Refusal, retry_after: float | None = None) -> Refusal:
    """The same word once more, without the traceback of the first time."""
    after = refusal.retry_after if retry_after is None else retry_after
    return Refusal(refusal.word, refusal.message, refusal.hint, after, dict(refusal.facts))
