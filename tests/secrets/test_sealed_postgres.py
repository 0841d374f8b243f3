"""The sealed store in PostgreSQL: what holds for the file holds here, and for several nodes at once."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy, KeyWrapper
from bursar.secrets.sealed_postgres import SealedPostgres, sealed_under
from bursar.secrets.wrap.local import LocalWrapper
from bursar.stores.postgres import Address, Postgres
from bursar.stores.postgres_schema import migrate
from tests.secrets.test_embedded import (  # noqa: F401 - run here as well, on this file's `store`
    ALPHA,
    BETA,
    TAGS,
    test_a_malformed_address_is_refused,
    test_a_previous_version_still_counts_as_stored,
    test_a_second_put_at_the_address_is_a_new_version,
    test_a_value_pasted_into_a_tag_is_refused,
    test_an_unowned_key_is_unassigned_and_says_so,
    test_disabling_reaches_the_gateways_view,
    test_malformed_tags_are_refused,
    test_the_same_key_twice_is_noticed_and_the_other_named,
    test_the_tags_become_rules,
    test_unknown_entries_and_versions_are_named,
    test_what_cannot_be_a_key_is_refused,
    word_of,
)


@pytest.fixture
async def way(database: str) -> AsyncIterator[Postgres]:
    """The way to the database, its tables made."""
    opened = Postgres(Address(url=Secret(database)))
    await migrate(opened, "secrets")
    yield opened
    await opened.close()


@pytest.fixture
async def store(way: Postgres, wrapper: KeyWrapper, clock: Clock, entropy: Entropy) -> SealedPostgres:
    return await SealedPostgres.open(way, [wrapper], clock, entropy)


async def edit(way: Postgres, *statements: str) -> None:
    """What somebody with write access to the database can do."""
    async with way.connection() as db:
        for statement in statements:
            assert (await db.execute(statement)).split()[-1] != "0"


async def test_every_node_with_the_key_opens_what_one_has_sealed(
    store: SealedPostgres, way: Postgres, wrapper: KeyWrapper, clock: Clock, entropy: Entropy, canary: Secret
) -> None:
    secret_id, version = await store.put(ALPHA, canary, TAGS)
    other = await SealedPostgres.open(way, [wrapper], clock, entropy)
    assert await other.get(secret_id) == await other.get(secret_id, version) == canary
    assert await other.entries() == [await store.entry(secret_id)]


async def test_nodes_that_start_at_once_make_an_internal_secret_once(
    way: Postgres, wrapper: KeyWrapper, clock: Clock, entropy: Entropy
) -> None:
    nodes = await asyncio.gather(*(SealedPostgres.open(way, [wrapper], clock, entropy) for _ in range(6)))

    def pepper() -> Secret:
        return Secret(entropy.token_bytes(16).hex())

    assert (
        len({secret.reveal() for secret in await asyncio.gather(*(n.internal("pepper", pepper) for n in nodes))}) == 1
    )
    await nodes[0].set_internal("pepper", Secret("new"))
    assert await nodes[1].internal("pepper") == Secret("new")
    assert await word_of(nodes[1].internal("other")) == "secret_not_found"


async def test_nodes_that_put_at_once_make_one_entry(
    store: SealedPostgres, way: Postgres, wrapper: KeyWrapper, clock: Clock, entropy: Entropy
) -> None:
    other = await SealedPostgres.open(way, [wrapper], clock, entropy)
    puts = [node.put(ALPHA, Secret(f"value {n}"), TAGS) for n, node in enumerate([store, other] * 4)]
    outcomes = await asyncio.gather(*puts)
    assert len({secret_id for secret_id, _ in outcomes}) == 1
    assert sorted(version for _, version in outcomes) == list(range(1, 9))


async def test_a_node_without_the_key_is_refused_at_its_start(
    store: SealedPostgres, way: Postgres, wrapper: KeyWrapper, clock: Clock, entropy: Entropy, canary: Secret
) -> None:
    await store.put(ALPHA, canary, TAGS)
    assert await sealed_under(way) == {(wrapper.id,)}
    for stranger, word in (("test:other", "wrapper_lost"), (wrapper.id, "wrapper_wrong")):
        with pytest.raises(Refusal) as refused:
            await SealedPostgres.open(way, [LocalWrapper(stranger, os.urandom(32), entropy)], clock, entropy)
        assert refused.value.word == word


async def test_changed_and_swapped_rows_do_not_open(store: SealedPostgres, way: Postgres, canary: Secret) -> None:
    one, _ = await store.put(ALPHA, canary, {"billing_owner": "ann"})
    two, _ = await store.put(BETA, Secret("the other value"), {"billing_owner": "bob"})
    await edit(way, f"UPDATE bursar.secret SET tags = (SELECT tags FROM bursar.secret WHERE id = '{two}')")
    assert await word_of(store.get(one)) == "tags_changed"
    assert await store.get(two)
    sealed = f"SELECT sealed FROM bursar.secret_version WHERE secret_id = '{one}'"
    await edit(way, f"UPDATE bursar.secret_version SET sealed = ({sealed}) WHERE secret_id = '{two}'")
    assert await word_of(store.get(two)) == "tampered"


async def test_a_destroyed_entry_leaves_its_address_free(store: SealedPostgres, way: Postgres, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    assert await word_of(store.destroy(secret_id, 1)) == "in_use"
    await store.destroy(secret_id)
    assert await store.entries() == []
    assert await word_of(store.get(secret_id)) == "secret_not_found"
    async with way.connection() as db:
        assert await db.fetchval("SELECT count(*) FROM bursar.secret_version WHERE sealed IS NOT NULL") == 0
    again, version = await store.put(ALPHA, canary, TAGS)
    assert (again != secret_id, version) == (True, 1)


async def test_rewrap_moves_everything_and_may_be_stopped_between(
    store: SealedPostgres,
    way: Postgres,
    wrapper: KeyWrapper,
    recovery: KeyWrapper,
    clock: Clock,
    entropy: Entropy,
    canary: Secret,
) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    both = await SealedPostgres.open(way, [recovery], clock, entropy, [wrapper])
    assert await both.rewrap(limit=1) == (1, 1)
    assert await both.under() == {(wrapper.id,): 1, (recovery.id,): 1}
    assert await both.rewrap() == (1, 0)
    assert (both.sealing, both.ring) == ((recovery.id,), (recovery.id, wrapper.id))
    assert await (await SealedPostgres.open(way, [recovery], clock, entropy)).get(secret_id) == canary


async def test_tags_of_several_change_together_or_not_at_all(store: SealedPostgres, canary: Secret) -> None:
    one, _ = await store.put(ALPHA, canary, TAGS)
    two, _ = await store.put(BETA, Secret("other"), TAGS)
    assert await word_of(store.tag_many({one: {"ticket": "1"}, "sec_none": {}})) == "secret_not_found"
    assert "ticket" not in (await store.entry(one)).tags
    await store.tag_many({one: {"ticket": "1"}, two: {"ticket": "1"}})
    assert await store.get(one) == canary
    assert (await store.entry(two)).tags["ticket"] == "1"


async def test_the_database_away_is_said_in_the_stores_word(
    wrapper: KeyWrapper, clock: Clock, entropy: Entropy
) -> None:
    way = Postgres(Address(url=Secret("postgresql://bursar:hush@127.0.0.1:1/none"), connect_timeout=1))
    assert await word_of(SealedPostgres.open(way, [wrapper], clock, entropy)) == "secrets_unavailable"
    await way.close()
