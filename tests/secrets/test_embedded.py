"""The embedded store on real files: round trips, bindings, duplicates, and what a thief of the files gets."""

import base64
import os
import shutil
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bursar.core.errors import RULES, Refusal
from bursar.core.provider_keys import provider_key_of
from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy, KeyWrapper, SecretStore
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.sealed_file import sealed_under
from bursar.secrets.wrap.local import LocalWrapper
from tests.secrets.driving import at_once

ALPHA = "openai/*/api/prod/alpha"
BETA = "openai/*/api/prod/beta"
TAGS = {
    "billing_owner": "ann",
    "purpose": "inference, embedding",
    "allowed_models": "gpt-4o",
    "max_tokens_default": "256",
}

Opener = Callable[..., EmbeddedStore]


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "secrets.db"


@pytest.fixture
def opened(path: Path, wrapper: KeyWrapper, clock: Clock, entropy: Entropy) -> Opener:
    def open_it(*wrappers: KeyWrapper, at: Path = path, opening: tuple[KeyWrapper, ...] = ()) -> EmbeddedStore:
        return at_once(EmbeddedStore.open(at, wrappers or (wrapper,), clock, entropy, opening))

    return open_it


@pytest.fixture
def store(opened: Opener) -> EmbeddedStore:
    return opened()


async def word_of(doing: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as refused:
        await doing
    assert refused.value.word in RULES
    return refused.value.word


def edit(path: Path, *statements: str) -> None:
    """What somebody with write access to the file can do."""
    with sqlite3.connect(path) as database:
        for statement in statements:
            assert database.execute(statement).rowcount != 0
    database.close()


async def test_what_is_put_is_got_back_after_a_restart(store: EmbeddedStore, opened: Opener, canary: Secret) -> None:
    port: SecretStore = store
    secret_id, version = await port.put(ALPHA, canary, TAGS)
    store.close()
    again = opened()
    assert await again.get(secret_id) == canary
    assert await again.get(secret_id, version) == canary
    (entry,) = await again.entries()
    assert entry == await again.entry(secret_id)
    assert (entry.address, entry.version, entry.unowned, entry.disabled) == (ALPHA, 1, False, False)


async def test_the_tags_become_rules(store: EmbeddedStore, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, {**TAGS, "ticket": "OPS-7"})
    key = provider_key_of(await store.entry(secret_id))
    assert key.purposes == ("inference", "embedding")
    assert key.allowed_models == ("gpt-4o",)
    assert (key.max_tokens_default, key.billing_owner, key.tags) == (256, "ann", {"ticket": "OPS-7"})


async def test_an_unowned_key_is_unassigned_and_says_so(store: EmbeddedStore, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, {})
    entry = await store.entry(secret_id)
    assert entry.unowned
    assert entry.tags == {"billing_owner": "unassigned"}
    assert not (await store.tag(secret_id, {"billing_owner": "ann"})).unowned
    assert (await store.tag(secret_id, {"billing_owner": None})).unowned


async def test_a_second_put_at_the_address_is_a_new_version(store: EmbeddedStore, canary: Secret) -> None:
    first = await store.put(ALPHA, canary, TAGS)
    newer = Secret("another value")
    assert await store.put(ALPHA, newer, {"billing_owner": "bob"}) == (first[0], 2)
    assert await store.get(first[0]) == newer
    assert await store.get(first[0], 1) == canary  # sealed anew under the tags the entry has now
    entry = await store.entry(first[0])
    assert [(v.version, v.state) for v in entry.versions] == [(1, "previous"), (2, "current")]
    assert entry.tags == {"billing_owner": "bob"}


async def test_the_same_key_twice_is_noticed_and_the_other_named(store: EmbeddedStore, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    with pytest.raises(Refusal, match=r"openai/\*/api/prod/alpha, version 1") as refused:
        await store.put(BETA, canary, TAGS)
    assert refused.value.word == "duplicate_secret"
    assert refused.value.facts["secret"] == secret_id
    assert await word_of(store.put(ALPHA, canary, TAGS)) == "duplicate_secret"
    assert await word_of(store.put_version(secret_id, canary)) == "duplicate_secret"
    assert len(await store.entries()) == 1
    other, _ = await store.put(BETA, canary, TAGS, allow_duplicate=True)
    assert await store.get(other) == canary


async def test_a_previous_version_still_counts_as_stored(store: EmbeddedStore, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    await store.put_version(secret_id, Secret("newer"))
    assert await word_of(store.put(BETA, canary, TAGS)) == "duplicate_secret"
    await store.destroy(secret_id, 1)
    await store.put(BETA, canary, TAGS)


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("openai", "invalid_address"),
        ("openai/*/api/prod", "invalid_address"),
        ("openai/*/api/prod/alpha/more", "invalid_address"),
        ("*/*/*/*/*", "invalid_address"),
        ("openai//api/prod/alpha", "invalid_address"),
        ("openai/gpt*/api/prod/alpha", "invalid_address"),
        ("openai/../api/prod/alpha", "invalid_address"),
        ("openai/*/api/prod/al pha", "invalid_address"),
    ],
)
async def test_a_malformed_address_is_refused(store: EmbeddedStore, canary: Secret, address: str, word: str) -> None:
    assert await word_of(store.put(address, canary, TAGS)) == word


@pytest.mark.parametrize(
    "tags",
    [
        {"purpose": ""},
        {"purpose": " , "},
        {"allowed_models": ","},
        {"max_tokens_default": "0"},
        {"max_tokens_default": "-1"},
        {"max_tokens_default": "1e3"},
        {"max_tokens_default": "²"},
        {"max_tokens_default": "99999999999"},
        {"Upper": "x"},
        {"": "x"},
        {"note": "two\nlines"},
        {"note": "x" * 2000},
        {f"t{n}": "x" for n in range(70)},
    ],
)
async def test_malformed_tags_are_refused(store: EmbeddedStore, canary: Secret, tags: dict[str, str]) -> None:
    assert await word_of(store.put(ALPHA, canary, tags)) == "invalid_tags"
    assert await store.entries() == []


@pytest.mark.parametrize("value", ["", "  ", "key\n", " key", "a\0b", "x" * 70_000])
async def test_what_cannot_be_a_key_is_refused(store: EmbeddedStore, value: str) -> None:
    assert await word_of(store.put(ALPHA, Secret(value), TAGS)) == "invalid_secret"


async def test_a_value_pasted_into_a_tag_is_refused(store: EmbeddedStore, canary: Secret) -> None:
    assert await word_of(store.put(ALPHA, canary, {"note": f"key {canary.reveal()}"})) == "invalid_secret"


async def test_unknown_entries_and_versions_are_named(store: EmbeddedStore, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    asked = [
        store.get("sec_none"),
        store.get(secret_id, 2),
        store.entry("sec_none"),
        store.tag("sec_none", {}),
        store.put_version("sec_none", canary),
        store.set_disabled("sec_none", True),
        store.destroy("sec_none"),
        store.destroy(secret_id, 9),
    ]
    assert [await word_of(each) for each in asked] == ["secret_not_found"] * len(asked)


async def test_a_destroyed_version_is_gone_from_the_files(
    store: EmbeddedStore, folder: Path, path: Path, canary: Secret
) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    assert await word_of(store.destroy(secret_id, 1)) == "in_use"
    with sqlite3.connect(path) as database:
        ((sealed,),) = database.execute("SELECT sealed FROM version").fetchall()
    database.close()
    await store.destroy(secret_id)
    assert await store.entries() == []
    assert await word_of(store.get(secret_id)) == "secret_not_found"
    assert not any(sealed[100:140] in content for _, _, content in files_in(folder))
    again, version = await store.put(ALPHA, canary, TAGS)  # the address is free for a new entry
    assert (again != secret_id, version) == (True, 1)


async def test_disabling_reaches_the_gateways_view(store: EmbeddedStore, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    assert provider_key_of(await store.set_disabled(secret_id, True)).disabled
    assert not provider_key_of(await store.set_disabled(secret_id, False)).disabled


def files_in(folder: Path) -> list[tuple[str, int, bytes]]:
    """Name, mode and content of each."""
    return [(file.name, stat.S_IMODE(file.stat().st_mode), file.read_bytes()) for file in folder.iterdir()]


# ---- somebody who can write the file ---------------------------------------------------------------------------------


async def test_changed_and_swapped_rows_do_not_open(store: EmbeddedStore, path: Path, canary: Secret) -> None:
    one, _ = await store.put(ALPHA, canary, {"billing_owner": "ann"})
    two, _ = await store.put(BETA, Secret("the other value"), {"billing_owner": "bob"})
    swap = (
        "CREATE TEMP TABLE kept AS SELECT id, tags FROM secret",
        "UPDATE secret SET tags = (SELECT tags FROM kept WHERE kept.id != secret.id)",
    )
    edit(path, *swap)
    assert await word_of(store.get(one)) == "tags_changed"
    assert await word_of(store.get(two)) == "tags_changed"
    assert await word_of(store.tag(one, {"note": "x"})) == "tags_changed"
    edit(path, *swap)
    assert await store.get(one) == canary
    edit(path, f"UPDATE secret SET address = 'openai/*/api/prod/gamma' WHERE id = '{one}'")
    assert await word_of(store.get(one)) == "tags_changed"
    edit(
        path,
        f"UPDATE version SET sealed = (SELECT sealed FROM version WHERE secret_id = '{one}') WHERE secret_id = '{two}'",
    )
    assert await word_of(store.get(two)) == "tampered"
    edit(path, f"UPDATE secret SET tags = 'no json' WHERE id = '{two}'")
    assert await word_of(store.get(two)) == "tags_changed"


async def test_an_old_version_cannot_pose_as_the_new_one(store: EmbeddedStore, path: Path, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    await store.put_version(secret_id, Secret("newer"))
    edit(path, "UPDATE version SET sealed = (SELECT sealed FROM version WHERE version = 1) WHERE version = 2")
    assert await word_of(store.get(secret_id)) == "tampered"


async def test_a_copy_without_its_wrapper_is_refused_when_opened(
    store: EmbeddedStore,
    opened: Opener,
    folder: Path,
    path: Path,
    entropy: Entropy,
    wrapper: KeyWrapper,
    canary: Secret,
) -> None:
    await store.put(ALPHA, canary, TAGS)
    store.close()
    shutil.copy(path, folder / "copy.db")
    for stranger, word in [("test:other", "wrapper_lost"), (wrapper.id, "wrapper_wrong")]:
        with pytest.raises(Refusal) as refused:
            opened(LocalWrapper(stranger, os.urandom(32), entropy), at=folder / "copy.db")
        assert refused.value.word == word
    assert sealed_under(folder / "copy.db") == {(wrapper.id,)}
    assert sealed_under(folder / "none.db") == set()


# ---- wrapping keys ---------------------------------------------------------------------------------------------------


async def test_rewrap_moves_everything_and_may_be_stopped_between(
    store: EmbeddedStore, opened: Opener, wrapper: LocalWrapper, recovery: LocalWrapper, canary: Secret
) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    await store.put_version(secret_id, Secret("newer"))
    store.close()

    class DiesAt(LocalWrapper):
        left = 2

        async def wrap(self, data_key: bytes, context: bytes) -> bytes:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return await super().wrap(data_key, context)

    dying = DiesAt.__new__(DiesAt)
    dying.__dict__.update(recovery.__dict__)
    half = opened(dying, opening=(wrapper,))
    with pytest.raises(KeyboardInterrupt):
        await half.rewrap()
    half.close()

    both = opened(recovery, opening=(wrapper,))
    assert await both.under() == {(recovery.id,): 2, (wrapper.id,): 1}
    assert await both.rewrap() == (1, 0)
    assert await both.rewrap() == (0, 0)
    both.close()
    after = opened(recovery)
    assert await after.get(secret_id, 1) == canary
    after.close()


async def test_a_second_recovery_wrapper_opens_alone(
    store: EmbeddedStore, opened: Opener, wrapper: KeyWrapper, recovery: KeyWrapper, canary: Secret
) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    store.close()
    two = opened(wrapper, recovery)
    assert await two.rewrap(limit=1) == (1, 1)
    assert await two.rewrap(limit=1) == (1, 0)
    two.close()
    assert await opened(recovery).get(secret_id) == canary


# ---- internal secrets ------------------------------------------------------------------------------------------------


def test_an_internal_secret_is_made_once(store: EmbeddedStore, opened: Opener, entropy: Entropy) -> None:
    made = at_once(store.internal("digest-pepper", lambda: Secret(entropy.token_bytes(32).hex())))
    assert at_once(store.internal("digest-pepper", lambda: pytest.fail("made twice"))) == made
    store.close()
    again = opened()
    assert at_once(again.internal("digest-pepper", lambda: pytest.fail("made twice"))) == made
    at_once(again.set_internal("digest-pepper", Secret("new")))
    assert at_once(again.internal("digest-pepper", lambda: pytest.fail("made twice"))) == Secret("new")


def test_internal_secrets_cannot_trade_places(store: EmbeddedStore, path: Path) -> None:
    at_once(store.internal("one", lambda: Secret("first")))
    at_once(store.internal("two", lambda: Secret("second")))
    edit(path, "UPDATE internal SET sealed = (SELECT sealed FROM internal WHERE name = 'one') WHERE name = 'two'")
    with pytest.raises(Refusal) as refused:
        at_once(store.internal("two", lambda: pytest.fail("made twice")))
    assert refused.value.word == "tampered"


# ---- files, faults, canaries -----------------------------------------------------------------------------------------


async def test_the_files_are_private_and_hold_no_value_in_any_form(
    store: EmbeddedStore, folder: Path, canary: Secret
) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    await store.tag(secret_id, {"note": "changed"})
    value = canary.reveal().encode()
    forms = [value, base64.b64encode(value)[:-4], value.hex().encode(), value[::-1]]
    files = files_in(folder)
    assert {name for name, _, _ in files} == {"secrets.db", "secrets.db-wal", "secrets.db-shm"}
    for _, mode, content in files:
        assert mode == 0o600
        assert not any(form in content for form in forms)


async def test_no_refusal_shows_a_value(
    store: EmbeddedStore, path: Path, canary: Secret, shown: Callable[[BaseException], str]
) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)

    async def told(doing: Awaitable[object]) -> str:
        try:
            await doing
        except Refusal as refusal:
            return shown(refusal) + str(refusal.facts) + refusal.hint
        return pytest.fail("was not refused")

    texts = [
        await told(store.put(BETA, canary, TAGS)),
        await told(store.put(ALPHA, canary, {"note": canary.reveal()[:-1], "Bad": "x"})),
        await told(store.put("bad", canary, TAGS)),
    ]
    edit(path, "UPDATE version SET sealed = substr(sealed, 1, 120) || zeroblob(length(sealed) - 120)")
    texts.append(await told(store.get(secret_id)))
    edit(path, "DROP TABLE version")
    texts += [await told(store.put(BETA, canary, TAGS)), await told(store.get(secret_id))]
    for text in texts:
        assert canary.reveal() not in text
    assert canary.reveal() not in repr(store) + repr(vars(store)) + str(await told(store.entries()))


async def test_a_full_disk_refuses_and_loses_nothing(store: EmbeddedStore, canary: Secret) -> None:
    secret_id, _ = await store.put(ALPHA, canary, TAGS)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then fails as on a full disk
    assert await word_of(store.put_version(secret_id, Secret("x" * 60_000))) == "secrets_unavailable"
    assert await store.get(secret_id) == canary
    store._db.execute("PRAGMA max_page_count = 100000")
    assert await store.put_version(secret_id, Secret("newer")) == 2


def test_a_file_that_is_no_database_or_too_new_is_refused(opened: Opener, path: Path) -> None:
    path.write_text("this is not a database, but long enough to look like a file with a header of a hundred bytes")
    with pytest.raises(Refusal) as refused:
        opened()
    assert refused.value.word == "secrets_unavailable"
    path.unlink()
    opened().close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 999")
    database.close()
    with pytest.raises(Refusal, match="newer"):
        opened()
