"""Several stores at once, on real ones: where things go, how they move, and what an outage of one does to the rest."""

from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import pytest

from bursar.app.web import WireWeb
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy, KeyWrapper
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.environment import EnvironmentStore, Variable
from bursar.secrets.stores import Stores
from bursar.secrets.vault_leases import DynamicSecret
from tests.secrets.vaults import Opened
from tests.vault.fake import Dynamic, FakeVault

ALPHA = "openai/*/api_key/prod/alpha"
BETA = "openai/*/api_key/prod/beta"
TAGS = {"billing_owner": "ann", "allowed_models": "gpt-4o"}


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as running:
        yield running


@pytest.fixture
async def corp(vault: FakeVault) -> AsyncIterator[Opened]:
    web = WireWeb()
    yield Opened(vault, web)
    await web.close()


@pytest.fixture
async def own(folder: Path, wrapper: KeyWrapper, clock: Clock, entropy: Entropy) -> AsyncIterator[EmbeddedStore]:
    store = await EmbeddedStore.open(folder / "secrets.db", [wrapper], clock, entropy)
    yield store
    store.close()


@pytest.fixture
def stores(own: EmbeddedStore, corp: Opened, clock: Clock) -> Stores:
    fixed = EnvironmentStore("env", {"K": Variable(address="anthropic/*/*/*/*")}, {"K": "sk-env"}, clock)
    return Stores([own, corp.store, fixed], "corp")


async def word_of(doing: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as refused:
        await doing
    return refused.value.word


async def test_new_entries_go_to_the_default_store_or_the_one_that_is_named(
    stores: Stores, own: EmbeddedStore, corp: Opened, canary: Secret
) -> None:
    first, _ = await stores.put(ALPHA, canary, TAGS)
    second, _ = await stores.put(BETA, Secret("sk-other"), TAGS, store="embedded")
    assert [(e.id, e.store) for e in await stores.entries()] == [
        ((await stores.entries())[0].id, "env"),
        (first, "corp"),
        (second, "embedded"),
    ]
    assert await stores.get(first) == canary == await corp.store.get(first)
    assert (await stores.entry(second)).store == "embedded"
    again, version = await stores.put(BETA, Secret("sk-newer"), TAGS)
    assert (again, version) == (second, 2), "a new version goes where the entry lies"
    assert await word_of(stores.put(ALPHA, Secret("sk-x1"), TAGS, store="embedded")) == "already_exists"
    assert await word_of(stores.put("openai/*/*/*/*", Secret("sk-x2"), TAGS, store="nowhere")) == "store_unknown"
    assert await word_of(stores.put("openai/*/*/*/*", Secret("sk-x3"), TAGS, store="env")) == "store_read_only"


async def test_the_same_value_is_noticed_across_stores(stores: Stores, canary: Secret) -> None:
    await stores.put(ALPHA, canary, TAGS, store="embedded")
    assert await word_of(stores.put(BETA, canary, TAGS, store="corp")) == "duplicate_secret"
    assert await word_of(stores.put(BETA, Secret("sk-env"), TAGS)) == "duplicate_secret"
    await stores.put(BETA, canary, TAGS, allow_duplicate=True)


async def test_an_entry_moves_with_its_id_versions_tags_and_switch(
    stores: Stores, own: EmbeddedStore, corp: Opened, canary: Secret
) -> None:
    secret_id, _ = await stores.put(ALPHA, Secret("sk-first"), TAGS, store="embedded")
    await stores.put(ALPHA, canary, TAGS)
    await stores.set_disabled(secret_id, True)
    moved = await stores.move(secret_id, "corp")
    assert (moved.id, moved.store, moved.tags, moved.disabled, moved.version) == (secret_id, "corp", TAGS, True, 2)
    assert await stores.get(secret_id) == canary
    assert await stores.get(secret_id, 1) == Secret("sk-first")
    assert await own.entries() == []
    assert (await stores.move(secret_id, "corp")).store == "corp"  # said again: nothing to do
    back = await stores.move(secret_id, "embedded")
    assert (back.id, back.store) == (secret_id, "embedded")
    assert await corp.store.entries() == []
    assert await word_of(stores.move("sec_nothing", "corp")) == "secret_not_found"
    assert await word_of(stores.move(secret_id, "nowhere")) == "store_unknown"
    assert await word_of(stores.move(secret_id, "env")) == "store_read_only"


async def test_what_does_not_read_back_the_same_is_not_destroyed(
    stores: Stores, own: EmbeddedStore, corp: Opened, canary: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_id, _ = await stores.put(ALPHA, canary, TAGS, store="embedded")

    async def wrong(*_: object) -> Secret:
        return Secret("sk-altered")

    with monkeypatch.context() as patched:
        patched.setattr(corp.store, "get", wrong)
        assert await word_of(stores.move(secret_id, "corp")) == "move_unverified"
    assert await own.get(secret_id) == canary
    assert (await stores.entry(secret_id)).store == "embedded"
    assert (await stores.move(secret_id, "corp")).store == "corp"
    assert await stores.get(secret_id) == canary


@pytest.mark.parametrize("step", range(1, 12))
async def test_a_move_that_breaks_off_anywhere_loses_nothing(
    stores: Stores, own: EmbeddedStore, corp: Opened, vault: FakeVault, canary: Secret, step: int
) -> None:
    """The vault goes away at its n-th answer: the value can still be read, and a second move comes to its end."""
    secret_id, _ = await stores.put(ALPHA, canary, TAGS, store="embedded")
    vault.fail_next = [(0, "")] * (step - 1) + [(500, "gone")]
    broke_off = False
    try:
        await stores.move(secret_id, "corp")
    except Refusal:
        broke_off = True
    vault.fail_next = []
    assert await (own if broke_off else corp.store).get(secret_id) == canary
    moved = await stores.move(secret_id, "corp")
    assert (moved.id, moved.store) == (secret_id, "corp")
    assert await corp.store.get(secret_id) == canary
    assert await own.entries() == []


async def test_of_the_goal_another_entry_is_not_overwritten(stores: Stores, corp: Opened, canary: Secret) -> None:
    secret_id, _ = await stores.put(ALPHA, canary, TAGS, store="embedded")
    await corp.store.put(ALPHA, Secret("sk-theirs"), TAGS)
    assert await word_of(stores.move(secret_id, "corp")) == "already_exists"
    assert await stores.get(secret_id) == canary


async def test_what_vault_makes_itself_does_not_move(vault: FakeVault, corp: Opened, own: EmbeddedStore) -> None:
    vault.spaces[""].engines["openai"] = Dynamic(vault)
    leased = DynamicSecret(path="openai/creds/x", address=ALPHA)
    stores = Stores([own, Opened(vault, corp.api._web, dynamic=(leased,)).store], "embedded")
    (entry,) = await stores.entries()
    assert await word_of(stores.move(entry.id, "embedded")) == "store_read_only"
    assert await own.entries() == []


async def test_an_outage_of_one_hides_nothing_of_the_others(stores: Stores, vault: FakeVault, canary: Secret) -> None:
    there, _ = await stores.put(ALPHA, canary, TAGS)
    here, _ = await stores.put(BETA, Secret("sk-other"), TAGS, store="embedded")
    vault.sealed = True
    assert here in {entry.id for entry in await stores.entries()}
    assert set(stores.away) == {"corp"}
    (state,) = [state for state in stores.states() if state.fault]
    assert (state.name, state.fault, state.default) == ("corp", "store_sealed", True)
    assert await stores.get(here) == Secret("sk-other")
    stores.lies_in = {there: "corp"}.get
    assert await word_of(stores.entry(there)) == "store_sealed"
    assert await word_of(stores.entry("sec_unheard")) == "store_sealed", "that there is none cannot be said"
    assert await word_of(stores.put("openai/*/*/*/new", Secret("sk-new"), TAGS)) == "store_sealed"
    assert (await stores.put("openai/*/*/*/new", Secret("sk-new"), TAGS, store="embedded"))[1] == 1
    vault.sealed = False
    assert await stores.get(there) == canary


async def test_tags_of_several_stores_at_once(stores: Stores, canary: Secret) -> None:
    one, _ = await stores.put(ALPHA, canary, TAGS)
    two, _ = await stores.put(BETA, Secret("sk-other"), TAGS, store="embedded")
    tagged = await stores.tag_many({two: {"ticket": "1"}, one: {"ticket": "2"}})
    assert [(e.id, e.tags["ticket"]) for e in tagged] == [(two, "1"), (one, "2")]
