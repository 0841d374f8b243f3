"""Vault beyond what every store does: a layout that was there before, the ways to be gone, its faults by name."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import hvac
import pytest

from bursar.app.web import WireWeb
from bursar.core.errors import RULES, Refusal
from bursar.core.layout import Layout
from bursar.core.provider_keys import provider_key_of
from bursar.core.secret import Secret
from bursar.ports import WebAnswer
from bursar.secrets.vault import FINGERPRINT, VaultPlace
from tests.secrets.vaults import ADOPTED, Opened
from tests.vault.fake import FakeVault
from tests.vault.kv import Kv1

ADDRESS = "openai/*/api_key/prod/alpha"
PATH = "bursar/openai/_/api_key/prod/alpha"
TAGS = {"billing_owner": "ann", "purpose": "inference"}


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as running:
        yield running


@pytest.fixture
async def web() -> AsyncIterator[WireWeb]:
    made = WireWeb()
    yield made
    await made.close()


@pytest.fixture
def opened(vault: FakeVault, web: WireWeb) -> Opened:
    return Opened(vault, web)


async def word_of(doing: Awaitable[object]) -> str:
    return (await refusal_of(doing)).word


async def refusal_of(doing: Awaitable[object]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        await doing
    assert refused.value.word in RULES
    return refused.value


# ---- adopted in place, as S3 says


async def test_the_layout_of_requirement_s3_is_adopted_in_place(vault: FakeVault, web: WireWeb, canary: Secret) -> None:
    """`secret/llm/team-alpha/api-key` with value, billing_owner, purpose, allowed_models: read as it lies."""
    lies = {
        "value": canary.reveal() + "\n",
        "billing_owner": "team-alpha-billing",
        "purpose": "inference, fine-tuning",
        "allowed_models": "gpt-4o, gpt-4o-mini",
    }
    vault.write("llm/team-alpha/api-key", lies)
    vault.write("llm/team-alpha/deeper/still", {"value": "not of this layout"})
    vault.write("other/thing", {"value": "nor this"})
    before = vault.kv().keys["llm/team-alpha/api-key"].versions[1].data
    store = Opened(vault, web, place=ADOPTED).store
    (entry,) = await store.entries()
    assert entry.address == "openai/*/api-key/*/team-alpha"
    key = provider_key_of(entry)
    assert (key.billing_owner, key.purposes) == ("team-alpha-billing", ("inference", "fine-tuning"))
    assert key.allowed_models == ("gpt-4o", "gpt-4o-mini")
    assert await store.get(entry.id) == canary
    assert before == lies, "nothing was written"
    assert vault.kv().keys["llm/team-alpha/api-key"].current == 1


async def test_what_others_wrote_beside_the_value_outlives_our_writes(
    vault: FakeVault, web: WireWeb, canary: Secret
) -> None:
    vault.write("llm/alpha/api-key", {"value": "old", "Contact": "ann@x", "purpose": "inference"}, {"Team": "A"})
    store = Opened(vault, web, place=ADOPTED).store
    (entry,) = await store.entries()
    assert await store.put_version(entry.id, canary) == 2
    await store.tag(entry.id, {"billing_owner": "ann", "purpose": None})
    key = vault.kv().keys["llm/alpha/api-key"]
    assert key.versions[3].data == {"value": canary.reveal(), "Contact": "ann@x", "billing_owner": "ann"}
    assert (key.custom or {})["Team"] == "A"
    assert (await store.entry(entry.id)).version == 3


async def test_lists_numbers_and_defaults_of_the_store(vault: FakeVault, web: WireWeb) -> None:
    vault.write("llm/a/k", {"value": "v", "allowed_models": ["gpt-4o", "o1*"], "max_tokens_default": 256})
    layout = Layout(path="llm/{team}/{key_type}", address={"provider": "openai"}, tags={"billing_owner": "platform"})
    (entry,) = await Opened(vault, web, place=VaultPlace(layout=layout, tags_in="data")).store.entries()
    key = provider_key_of(entry)
    assert (key.allowed_models, key.max_tokens_default, key.billing_owner) == (("gpt-4o", "o1*"), 256, "platform")


async def test_a_tag_that_is_missing_or_malformed_is_shown_and_closes_the_entry(vault: FakeVault, web: WireWeb) -> None:
    vault.write("llm/a/unowned", {"value": "v1"})
    vault.write("llm/a/wrong", {"value": "v2", "max_tokens_default": "many"})
    vault.write("llm/b c/spaced", {"value": "v3"})
    store = Opened(vault, web, place=ADOPTED).store
    by_address = {entry.address: entry for entry in await store.entries()}
    unowned = by_address["openai/*/unowned/*/a"]
    assert (unowned.unowned, unowned.fault, provider_key_of(unowned).disabled) == (True, "", False)
    assert by_address["openai/*/wrong/*/a"].fault == "invalid_tags"
    assert by_address["openai/*/spaced/*/b c"].fault == "invalid_address"
    assert all(provider_key_of(e).disabled for e in by_address.values() if e.fault)


@pytest.mark.parametrize("lies", [{"key": "x"}, {"value": 7}, {"value": " "}, {"value": "two\nlines"}, {"value": None}])
async def test_a_value_that_is_no_provider_key_is_named_and_not_told(
    vault: FakeVault, web: WireWeb, lies: dict[str, object]
) -> None:
    vault.write("llm/a/k", lies)
    store = Opened(vault, web, place=ADOPTED).store
    (entry,) = await store.entries()
    refusal = await refusal_of(store.get(entry.id))
    assert refusal.word == "secret_malformed"
    assert "two" not in refusal.message


async def test_a_value_of_unknown_shape_is_accepted(opened: Opened) -> None:
    value = Secret("AQ.whatever/they+think=of#next")
    secret_id, _ = await opened.store.put(ADDRESS, value, TAGS)
    assert await opened.store.get(secret_id) == value


# ---- versions and the ways to be gone


async def test_deleted_brought_back_and_destroyed_by_somebody_else(
    vault: FakeVault, opened: Opened, canary: Secret
) -> None:
    kv = hvac.Client(vault.url, vault.root).secrets.kv.v2
    secret_id, _ = await opened.store.put(ADDRESS, Secret("first"), TAGS)
    await opened.store.put_version(secret_id, canary)
    kv.delete_latest_version_of_secret(PATH)
    entry = await opened.store.entry(secret_id)
    assert ([v.state for v in entry.versions], entry.version) == (["previous", "deleted"], 0)
    assert provider_key_of(entry).disabled
    assert await word_of(opened.store.get(secret_id)) == "secret_not_found"
    assert await word_of(opened.store.get(secret_id, 2)) == "secret_not_found"
    assert await opened.store.get(secret_id, 1) == Secret("first")
    kv.undelete_secret_versions(PATH, [2])
    assert await opened.store.get(secret_id) == canary
    kv.destroy_secret_versions(PATH, [1])
    assert await word_of(opened.store.get(secret_id, 1)) == "secret_not_found"
    assert await opened.store.put_version(secret_id, Secret("third")) == 3  # the check-and-set still holds
    kv.delete_metadata_and_all_versions(PATH)
    assert await word_of(opened.store.get(secret_id)) == "secret_not_found"
    assert await word_of(opened.store.entry(secret_id)) == "secret_not_found"


async def test_a_write_that_somebody_else_came_before_is_refused(
    vault: FakeVault, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_id, _ = await opened.store.put(ADDRESS, Secret("mine"), TAGS)
    ask = opened.client.ask

    async def between(method: str, path: str, *rest: object, **more: object) -> object:
        if method == "POST" and "/data/" in path:
            vault.write(PATH, {"value": "theirs"})
        return await ask(method, path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(opened.client, "ask", between)
    assert await word_of(opened.store.put_version(secret_id, Secret("late"))) == "secret_changed"
    assert await opened.store.get(secret_id) == Secret("theirs")


async def test_tags_are_there_before_the_value(vault: FakeVault, opened: Opened) -> None:
    """A value without its tags would be everybody's: where the second step fails, nothing can be used."""
    policy = f"""
        path "secret/metadata/*" {{ capabilities = ["create", "update", "patch", "read", "list"] }}
        path "secret/data/{PATH}" {{ capabilities = ["read"] }}
    """
    token = vault.token(policy)
    store = Opened(vault, opened.api._web, lambda: Secret(token)).store
    assert await word_of(store.put(ADDRESS, Secret("sk-val"), TAGS)) == "store_denied"
    assert await store.entries() == []
    secret_id, version = await opened.store.put(ADDRESS, Secret("sk-val"), {"billing_owner": "bob"})
    assert (version, (await opened.store.entry(secret_id)).tags["billing_owner"]) == (1, "bob")


async def test_limits_of_custom_metadata_are_told_before_anything_is_sent(opened: Opened, vault: FakeVault) -> None:
    for tags in ({"note": "x" * 513}, {f"t{n}": "v" for n in range(61)}, {"bursar_id": "sec_forged"}):
        assert await word_of(opened.store.put(ADDRESS, Secret("sk-val"), tags)) == "invalid_tags"
    assert vault.kv().keys == {}


async def test_the_fingerprint_in_the_metadata_is_keyed(vault: FakeVault, opened: Opened, canary: Secret) -> None:
    await opened.store.put(ADDRESS, canary, TAGS)
    custom = vault.kv().keys[PATH].custom or {}
    assert len(custom[FINGERPRINT]) == 40
    assert canary.reveal() not in str(custom)


async def test_namespaces(vault: FakeVault, web: WireWeb, canary: Secret) -> None:
    root = hvac.Client(vault.url, vault.root)
    root.sys.create_namespace("llm")
    hvac.Client(vault.url, vault.root, namespace="llm").sys.enable_secrets_engine(
        "kv", path="secret", options={"version": "2"}
    )
    inner = Opened(vault, web, namespace="llm").store
    await inner.put(ADDRESS, canary, TAGS)
    assert len(await inner.entries()) == 1
    assert await Opened(vault, web).store.entries() == []
    assert await word_of(Opened(vault, web, namespace="nowhere").store.entries()) == "store_login_failed"


# ---- faults, each by its word


async def test_sealed(vault: FakeVault, opened: Opened) -> None:
    secret_id, _ = await opened.store.put(ADDRESS, Secret("sk-val"), TAGS)
    vault.sealed = True
    for act in (opened.store.entries(), opened.store.get(secret_id), opened.store.put(ADDRESS, Secret("sk-new"), TAGS)):
        assert await word_of(act) == "store_sealed"
    vault.sealed = False
    assert await opened.store.get(secret_id) == Secret("sk-val")


async def test_slow_down_and_broken(vault: FakeVault, web: WireWeb, canary: Secret) -> None:
    slow = Opened(vault, web, lambda: canary, seconds=0.2)
    vault.delay = 5
    refusal = await refusal_of(slow.store.entries())
    assert (refusal.word, "0.2 s" in refusal.message) == ("secrets_unavailable", True)
    vault.delay = 0
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = Opened(vault, web, url=f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert await word_of(away.store.entries()) == "secrets_unavailable"
    ready = Opened(vault, web)
    await ready.store.entries()
    for status, word in ((500, "secrets_unavailable"), (502, "secrets_unavailable"), (412, "secrets_unavailable")):
        vault.fail_next = [(status, "internal error")]
        assert await word_of(ready.store.entries()) == word
    vault.fail_next = [(429, "request path rate limit quota exceeded")]
    assert await word_of(ready.store.entries()) == "store_throttled"
    for status in (472, 473):
        vault.fail_next = [(status, "")]
        assert await word_of(ready.store.entries()) == "secrets_unavailable"


async def test_denied(vault: FakeVault, web: WireWeb) -> None:
    vault.write(PATH, {"value": "v"})
    lister = vault.token('path "secret/metadata/*" { capabilities = ["read", "list"] }', name="lister")
    store = Opened(vault, web, lambda: Secret(lister)).store
    (entry,) = await store.entries()
    refusal = await refusal_of(store.get(entry.id))
    assert refusal.word == "store_denied"
    assert "deploy/vault" in refusal.hint
    assert await word_of(store.put_version(entry.id, Secret("sk-new"))) == "store_denied"


async def test_the_wrong_engine_or_none(vault: FakeVault, web: WireWeb) -> None:
    vault.spaces[""].engines["first"] = Kv1()
    for mount in ("first", "missing"):
        refusal = await refusal_of(
            Opened(vault, web, place=VaultPlace(mount=mount)).store.put(ADDRESS, Secret("sk-val"), {})
        )
        assert refusal.word == "store_mismatch"


async def test_something_that_is_no_vault(vault: FakeVault, web: WireWeb) -> None:
    class Stranger:
        async def call(self, *_: object) -> object:
            return WebAnswer(404, {}, b"<html>Not found</html>")

    refusal = await refusal_of(Opened(vault, Stranger()).store.entries())  # type: ignore[arg-type]
    assert refusal.word in ("store_mismatch", "store_login_failed")


async def test_a_standby_points_to_the_active_node(vault: FakeVault, web: WireWeb, canary: Secret) -> None:
    with FakeVault() as standby:
        standby.standby_of = vault.url
        store = Opened(vault, web, url=standby.url).store
        secret_id, _ = await store.put(ADDRESS, canary, TAGS)
        assert await store.get(secret_id) == canary
        standby.standby_of = standby.url  # round and round
        assert await word_of(store.get(secret_id)) == "store_mismatch"
        standby.standby_of = "gopher://elsewhere"
        assert await word_of(store.get(secret_id)) == "secrets_unavailable"


async def test_nothing_of_it_shows_a_secret(
    vault: FakeVault, web: WireWeb, canary: Secret, shown: Callable[[BaseException], str]
) -> None:
    """Neither the token nor a value, in what a traceback with local variables tells of each way to fail."""
    token = vault.token('path "secret/metadata/*" { capabilities = ["read", "list", "create", "update"] }')
    opened = Opened(vault, web, lambda: Secret(token))
    acts: list[Callable[[], Awaitable[object]]] = [
        lambda: opened.store.put(ADDRESS, canary, TAGS),
        lambda: opened.store.get("sec_nothing"),
        opened.store.entries,
    ]
    for fault in ([], [(500, "x")] * 9, [(429, "x")] * 9, [(400, "x")] * 9):
        for act in acts:
            vault.fail_next = list(fault)
            try:
                await act()
            except Refusal as refusal:
                told = shown(refusal)
                assert canary.reveal() not in told
                assert token not in told
    assert token not in repr(opened.__dict__) + repr(vars(opened.login))
