"""What every secret store does, whatever it is made of. One suite, all adapters."""

import secrets
from collections.abc import Awaitable

import pytest

from bursar.core.errors import RULES, Refusal
from bursar.core.provider_keys import Put, provider_key_of
from bursar.core.secret import Secret
from tests.conformance.stands import Stand

ALPHA = "openai/*/api_key/prod/alpha"
BETA = "openai/gpt-4o/api_key/prod/beta"
TAGS = {"billing_owner": "ann", "purpose": "inference,embedding", "allowed_models": "gpt-4o,gpt-4*", "ticket": "OPS-7"}


def made() -> Secret:
    return Secret("sk-made-" + secrets.token_urlsafe(24))


async def word_of(doing: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as refused:
        await doing
    assert refused.value.word in RULES
    return refused.value.word


async def test_a_value_comes_back_with_its_tags(stand: Stand) -> None:
    value = made()
    secret_id = await stand.seed(ALPHA, value, TAGS)
    entry = await stand.store.entry(secret_id)
    assert (entry.id, entry.address, entry.store, entry.fault) == (secret_id, ALPHA, stand.store.name, "")
    assert entry.tags == TAGS
    assert entry.version > 0
    assert [version.state for version in entry.versions] == ["current"]
    assert await stand.store.get(secret_id) == value
    assert await stand.store.get(secret_id, entry.version) == value
    key = provider_key_of(entry)
    assert (key.store, key.allowed_models, key.disabled) == (stand.store.name, ("gpt-4o", "gpt-4*"), False)


async def test_what_is_not_there_is_said_by_the_same_word(stand: Stand) -> None:
    secret_id = await stand.seed(ALPHA, made(), TAGS)
    assert await word_of(stand.store.entry("sec_nothing")) == "secret_not_found"
    assert await word_of(stand.store.get("sec_nothing")) == "secret_not_found"
    assert await word_of(stand.store.get(secret_id, 999)) == "secret_not_found"


async def test_entries_are_listed_by_address(stand: Stand) -> None:
    assert await stand.store.entries() == []
    ids = {await stand.seed(address, made(), TAGS) for address in (BETA, ALPHA)}
    entries = await stand.store.entries()
    assert [entry.address for entry in entries] == [ALPHA, BETA]
    assert {entry.id for entry in entries} == ids
    assert entries == [await stand.store.entry(entry.id) for entry in entries]


async def test_an_unowned_entry_is_unassigned_and_flagged(stand: Stand) -> None:
    secret_id = await stand.seed(ALPHA, made(), {})
    entry = await stand.store.entry(secret_id)
    assert entry.unowned
    assert entry.tags == {"billing_owner": "unassigned"}


async def test_a_new_value_is_a_new_version(stand: Stand) -> None:
    first, second = made(), made()
    secret_id = await stand.seed(ALPHA, first, TAGS)
    before = (await stand.store.entry(secret_id)).version
    assert await stand.replace(ALPHA, second, TAGS) == secret_id
    entry = await stand.store.entry(secret_id)
    assert entry.version > before
    assert await stand.store.get(secret_id) == second
    if not stand.one_version:
        assert await stand.store.get(secret_id, before) == first
        assert [version.state for version in entry.versions] == ["previous", "current"]


async def test_the_holder_of_a_value_is_found(stand: Stand) -> None:
    value = made()
    secret_id = await stand.seed(ALPHA, value, TAGS)
    found = await stand.store.find(value)
    assert found is not None
    assert found.id == secret_id
    assert await stand.store.find(made()) is None


async def test_characters_with_a_meaning_elsewhere_make_the_round_trip(stand: Stand) -> None:
    address = "azure-openai/o1+x:2026%07@eu/api_key/_prod/a.b-c".replace("_prod", "prod_1")
    tags = {"billing_owner": "Ännchen & Co.", "note": "a,b;c=d/e*f %2F +x", "allowed_models": "o1*,gpt-[45]"}
    secret_id = await stand.seed(address, made(), tags)
    entry = await stand.store.entry(secret_id)
    assert (entry.address, entry.tags) == (address, tags)
    assert [one.id for one in await stand.store.entries()] == [secret_id]


# ---- writing


async def test_a_store_that_cannot_be_written_says_so(fixed: Stand) -> None:
    value = made()
    secret_id = await fixed.seed(ALPHA, value, TAGS)
    assert not fixed.store.writable
    for act in (
        fixed.store.put(BETA, made(), TAGS),
        fixed.store.put_many([Put(BETA, made(), TAGS)]),
        fixed.store.put_version(secret_id, made()),
        fixed.store.tag(secret_id, {"ticket": None}),
        fixed.store.set_disabled(secret_id, True),
        fixed.store.destroy(secret_id),
    ):
        assert await word_of(act) == "store_read_only"
    assert await fixed.store.get(secret_id) == value


async def test_put_counts_versions(written: Stand) -> None:
    secret_id, one = await written.store.put(ALPHA, made(), TAGS)
    again, two = await written.store.put(ALPHA, made(), {**TAGS, "ticket": "OPS-8"})
    assert (again, two) == (secret_id, one + 1)
    assert await written.store.put_version(secret_id, made()) == two + 1
    entry = await written.store.entry(secret_id)
    assert (entry.version, entry.tags["ticket"]) == (two + 1, "OPS-8")
    assert entry.created_at <= entry.updated_at


async def test_an_entry_from_elsewhere_keeps_its_id(written: Stand) -> None:
    secret_id, _ = await written.store.put(ALPHA, made(), TAGS, secret_id="sec_fromelsewhere")
    assert secret_id == "sec_fromelsewhere"
    assert (await written.store.entry(secret_id)).address == ALPHA
    assert [entry.id for entry in await written.store.entries()] == [secret_id]
    assert await written.store.put_version(secret_id, made()) == 2


async def test_an_entry_that_comes_back_keeps_its_id(written: Stand) -> None:
    await written.store.put(ALPHA, made(), TAGS, secret_id="sec_wanderer")
    await written.store.destroy("sec_wanderer")
    value = made()
    assert (await written.store.put(BETA, value, {"billing_owner": "bob"}, secret_id="sec_wanderer"))[
        0
    ] == "sec_wanderer"
    assert await written.store.get("sec_wanderer") == value
    (entry,) = await written.store.entries()
    assert (entry.id, entry.address, entry.tags, entry.disabled) == (
        "sec_wanderer",
        BETA,
        {"billing_owner": "bob"},
        False,
    )


async def test_tags_are_set_and_removed(written: Stand) -> None:
    value = made()
    secret_id, _ = await written.store.put(ALPHA, value, TAGS)
    entry = await written.store.tag(secret_id, {"ticket": None, "purpose": "inference", "new": "x"})
    expected = {**TAGS, "purpose": "inference", "new": "x"}
    del expected["ticket"]
    assert entry.tags == expected == (await written.store.entry(secret_id)).tags
    assert await written.store.get(secret_id) == value
    assert await word_of(written.store.tag(secret_id, {"purpose": ","})) == "invalid_tags"
    assert await word_of(written.store.tag("sec_nothing", {"a": "b"})) == "secret_not_found"


async def test_tags_of_several_are_set_or_none_of_them(written: Stand) -> None:
    one, _ = await written.store.put(ALPHA, made(), TAGS)
    two, _ = await written.store.put(BETA, made(), TAGS)
    entries = await written.store.tag_many({one: {"ticket": "1"}, two: {"ticket": None}})
    assert [(entry.id, entry.tags.get("ticket")) for entry in entries] == [(one, "1"), (two, None)]
    assert await word_of(written.store.tag_many({one: {"ticket": "2"}, two: {"purpose": ","}})) == "invalid_tags"
    assert await word_of(written.store.tag_many({one: {"ticket": "2"}, "sec_nothing": {}})) == "secret_not_found"
    assert (await written.store.entry(one)).tags["ticket"] == "1"


async def test_several_are_stored_or_none_of_them(written: Stand) -> None:
    held, values = made(), [made() for _ in range(4)]
    await written.store.put(ALPHA, held, TAGS)
    before = await written.store.entries()
    puts = [Put(f"openai/*/api_key/many/n{n}", value, TAGS) for n, value in enumerate(values)]
    again = Put("openai/*/api_key/many/x", held, TAGS)
    assert await word_of(written.store.put_many([*puts[:2], again, *puts[2:]])) == "duplicate_secret"
    assert await word_of(written.store.put_many([*puts, puts[0]])) == "invalid_address"
    assert await word_of(written.store.put_many([*puts, Put(BETA, values[0], {})])) == "duplicate_secret"
    assert await word_of(written.store.put_many([*puts, Put(BETA, made(), {"purpose": ","})])) == "invalid_tags"
    assert await written.store.entries() == before
    stored = await written.store.put_many(puts)
    assert [await written.store.get(secret_id) for secret_id, _ in stored] == values
    assert [(await written.store.entry(secret_id)).tags for secret_id, _ in stored] == [TAGS] * 4


async def test_an_entry_is_switched_off_and_on(written: Stand) -> None:
    secret_id, _ = await written.store.put(ALPHA, made(), TAGS)
    assert (await written.store.set_disabled(secret_id, True)).disabled
    assert (await written.store.entry(secret_id)).disabled
    assert (await written.store.entry(secret_id)).tags == TAGS
    assert not (await written.store.set_disabled(secret_id, False)).disabled


async def test_an_old_version_is_destroyed_the_current_one_is_not(written: Stand) -> None:
    first, second = made(), made()
    secret_id, one = await written.store.put(ALPHA, first, TAGS)
    two = await written.store.put_version(secret_id, second)
    if not written.destroys_versions:
        assert await word_of(written.store.destroy(secret_id, one)) == "store_unsupported"
        return
    assert await word_of(written.store.destroy(secret_id, two)) == "in_use"
    assert await word_of(written.store.destroy(secret_id, 99)) == "secret_not_found"
    await written.store.destroy(secret_id, one)
    assert await word_of(written.store.get(secret_id, one)) == "secret_not_found"
    assert await written.store.get(secret_id) == second
    assert [version.state for version in (await written.store.entry(secret_id)).versions] == ["destroyed", "current"]


async def test_a_destroyed_entry_is_gone(written: Stand) -> None:
    secret_id, _ = await written.store.put(ALPHA, made(), TAGS)
    await written.store.destroy(secret_id)
    assert await word_of(written.store.get(secret_id)) == "secret_not_found"
    assert await word_of(written.store.entry(secret_id)) == "secret_not_found"
    assert await word_of(written.store.destroy(secret_id)) == "secret_not_found"
    assert await written.store.entries() == []


async def test_the_same_value_is_noticed_unless_that_is_meant(written: Stand) -> None:
    value = made()
    await written.store.put(ALPHA, value, TAGS)
    assert await word_of(written.store.put(BETA, value, TAGS)) == "duplicate_secret"
    await written.store.put(BETA, value, TAGS, allow_duplicate=True)
    assert len(await written.store.entries()) == 2


@pytest.mark.parametrize(
    ("address", "value", "tags", "word"),
    [
        ("openai", "sk-x", {}, "invalid_address"),
        ("*/*/api_key/*/*", "sk-x", {}, "invalid_address"),
        ("openai/../api_key/*/*", "sk-x", {}, "invalid_address"),
        (ALPHA, "", {}, "invalid_secret"),
        (ALPHA, " sk-x", {}, "invalid_secret"),
        (ALPHA, "sk-shown", {"note": "it is sk-shown"}, "invalid_secret"),
        (ALPHA, "sk-x", {"Upper": "x"}, "invalid_tags"),
        (ALPHA, "sk-x", {"purpose": " , "}, "invalid_tags"),
        (ALPHA, "sk-x", {"note": "line\nend"}, "invalid_tags"),
    ],
)
async def test_bad_input_is_named_and_stores_nothing(
    written: Stand, address: str, value: str, tags: dict[str, str], word: str
) -> None:
    assert await word_of(written.store.put(address, Secret(value), tags)) == word
    assert await written.store.entries() == []
