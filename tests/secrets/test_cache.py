"""The cache in front of a store: what it saves, what it serves while the store is away, and what it never does."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

import pytest

from bursar.core.errors import Refusal
from bursar.core.provider_keys import Put, SecretEntry, SecretVersion
from bursar.core.secret import Secret
from bursar.secrets.cache import CachedStore, CachePolicy

POLICY = CachePolicy(ttl=60, negative_ttl=5, stale=600, failures=3, cool_down=10)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> int:
        return int(self.seconds * 1e9)


class Scripted:
    """A store whose every answer the test decides; counts how often it was really asked."""

    name, writable = "scripted", True

    def __init__(self) -> None:
        self.word = ""  # what each call is refused with
        self.version = 1
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    async def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.gate is not None:
            await self.gate.wait()
        if self.word:
            raise Refusal(self.word, "scripted", "hint", 3.0, {"a": 1})

    async def entry(self, secret_id: str) -> SecretEntry:
        await self._answer("entry")
        version = SecretVersion(version=self.version, state="current", created_at=1)
        return SecretEntry(id=secret_id, address="openai/*/*/*/*", tags={}, version=self.version, versions=(version,))

    async def entries(self) -> list[SecretEntry]:
        await self._answer("entries")
        return []

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        await self._answer(f"get {version}")
        return Secret(f"value-{version}")

    async def find(self, value: Secret) -> SecretEntry | None:
        await self._answer("find")
        return None

    async def put(self, *_: object) -> tuple[str, int]:
        await self._answer("put")
        self.version += 1
        return "sec_a", self.version

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]:
        return [await self.put() for _ in puts]

    async def put_version(self, *_: object) -> int:
        self.version += 1
        await self._answer("put_version")
        return self.version

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        await self._answer("tag")
        return await self.entry(secret_id)

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
        return [await self.tag(secret_id, changed) for secret_id, changed in changes.items()]

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry:
        return await self.tag(secret_id, {})

    async def destroy(self, *_: object) -> None:
        await self._answer("destroy")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Scripted:
    return Scripted()


@pytest.fixture
def cached(store: Scripted, clock: Clock) -> CachedStore:
    return CachedStore(store, clock, POLICY)


async def word_of(doing: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as refused:
        await doing
    return refused.value.word


async def test_within_its_ttl_the_store_is_asked_once(store: Scripted, cached: CachedStore, clock: Clock) -> None:
    for _ in range(3):
        assert await cached.get("sec_a") == Secret("value-1")
    assert store.asked == ["entry", "get 1"]
    clock.seconds += 60
    await cached.get("sec_a")
    assert store.asked == ["entry", "get 1"] * 2


async def test_the_version_is_part_of_the_key(store: Scripted, cached: CachedStore, clock: Clock) -> None:
    assert await cached.get("sec_a") == Secret("value-1")
    store.version = 2  # changed past us
    clock.seconds += 60
    assert await cached.get("sec_a") == Secret("value-2")
    assert await cached.get("sec_a", 1) == Secret("value-1")


async def test_one_flight_for_many_and_a_caller_who_leaves(store: Scripted, cached: CachedStore) -> None:
    store.gate = asyncio.Event()
    callers = [asyncio.create_task(cached.get("sec_a", 1)) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    callers[0].cancel()
    store.gate.set()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert set(found[1:]) == {Secret("value-1")}
    assert store.asked == ["get 1"]


async def test_refusals_are_kept_for_a_short_while(store: Scripted, cached: CachedStore, clock: Clock) -> None:
    for word in ("secret_not_found", "store_denied", "secret_malformed", "store_login_failed"):
        store.word, store.asked = word, []
        for _ in range(3):
            assert await word_of(cached.get(word, 1)) == word
        assert len(store.asked) == 1
        store.word = ""
        clock.seconds += 5
        assert await cached.get(word, 1) == Secret("value-1")


@pytest.mark.parametrize("word", ["secrets_unavailable", "store_sealed", "store_throttled"])
async def test_an_outage_serves_stale_within_bounds_and_then_refuses(
    store: Scripted, cached: CachedStore, clock: Clock, word: str
) -> None:
    await cached.get("sec_a")
    store.word = word
    clock.seconds += 61
    assert await cached.get("sec_a") == Secret("value-1")
    assert cached.stale_answers == 2  # the entry and the value
    assert cached.fault is not None
    assert cached.fault.word == word
    clock.seconds += 590
    assert await cached.get("sec_a") == Secret("value-1")
    clock.seconds += 10
    assert await word_of(cached.get("sec_a")) == word
    assert await word_of(cached.get("sec_never_seen")) == word
    store.word = ""
    clock.seconds += POLICY.cool_down
    assert await cached.get("sec_a") == Secret("value-1")
    assert cached.fault is None


async def test_a_right_that_was_taken_away_is_gone_at_once(store: Scripted, cached: CachedStore, clock: Clock) -> None:
    await cached.get("sec_a")
    clock.seconds += 61
    for word in ("store_denied", "store_login_failed", "secret_not_found"):
        store.word = word
        assert await word_of(cached.get("sec_a")) == word
        clock.seconds += 5


async def test_while_it_is_away_each_question_is_asked_rarely(
    store: Scripted, cached: CachedStore, clock: Clock
) -> None:
    await cached.entry("sec_a")
    store.word, store.asked = "secrets_unavailable", []
    clock.seconds += 61
    for _ in range(20):
        await cached.entry("sec_a")
    assert store.asked == ["entry"]


async def test_an_outage_from_the_start_is_not_waited_for_again_and_again(
    store: Scripted, cached: CachedStore, clock: Clock
) -> None:
    store.word = "secrets_unavailable"
    for _ in range(10):
        assert await word_of(cached.entries()) == "secrets_unavailable"
    assert store.asked == ["entries"]
    store.word = ""
    clock.seconds += 5
    assert await cached.entries() == []


async def test_the_breaker_leaves_it_alone_and_tries_with_one_call(
    store: Scripted, cached: CachedStore, clock: Clock
) -> None:
    store.word = "secrets_unavailable"
    for number in range(POLICY.failures):
        assert await word_of(cached.entry(f"sec_{number}")) == "secrets_unavailable"
    store.asked = []
    for number in range(10):
        with pytest.raises(Refusal) as refused:
            await cached.entry(f"sec_new_{number}")
        assert refused.value.retry_after == pytest.approx(POLICY.cool_down)
    assert store.asked == []
    clock.seconds += POLICY.cool_down
    store.gate, store.word = asyncio.Event(), ""
    trial = asyncio.create_task(cached.entry("sec_trial"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await word_of(cached.entry("sec_other")) == "secrets_unavailable", "one call is the trial"
    store.gate.set()
    await trial
    await cached.entry("sec_third")
    assert store.asked == ["entry", "entry"]


async def test_a_write_forgets_what_was_kept_and_what_is_on_its_way(
    store: Scripted, cached: CachedStore, clock: Clock
) -> None:
    assert (await cached.entry("sec_a")).version == 1
    await cached.put_version("sec_a", Secret("x"))
    assert (await cached.entry("sec_a")).version == 2
    store.gate = asyncio.Event()
    slow = asyncio.create_task(cached.get("sec_a", 2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.gate.set()
    store.gate = None
    await cached.destroy("sec_a")
    await slow
    store.word = "secret_not_found"
    assert await word_of(cached.get("sec_a", 2)) == "secret_not_found", "what was on its way was not kept"


async def test_writes_fail_with_the_stores_word_and_are_not_repeated(store: Scripted, cached: CachedStore) -> None:
    store.word = "secret_changed"
    assert await word_of(cached.put_version("sec_a", Secret("x"))) == "secret_changed"
    assert store.asked == ["put_version"]


async def test_values_leave_the_memory(store: Scripted, cached: CachedStore, clock: Clock, canary: Secret) -> None:
    await cached.get("sec_a")
    assert "value-1" not in repr(vars(cached))
    clock.seconds += 661
    await cached.tend()
    assert not cached._kept
