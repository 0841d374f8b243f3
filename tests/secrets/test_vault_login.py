"""How Bursar is let in by Vault, stays in, and is let in again; leased credentials likewise."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import hvac
import pytest

from bursar.app.web import WireWeb
from bursar.core.errors import Refusal
from bursar.core.provider_keys import provider_key_of
from bursar.core.secret import Secret
from bursar.secrets.vault_leases import DynamicSecret
from tests.secrets.vaults import Opened
from tests.vault.fake import Dynamic, FakeVault
from tests.vault.logins import Machine

POLICY = """
path "secret/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }
path "openai/creds/*" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"""
ADDRESS = "openai/*/api_key/prod/alpha"
TAGS = {"billing_owner": "ann"}


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as running:
        yield running


@pytest.fixture
async def web() -> AsyncIterator[WireWeb]:
    made = WireWeb()
    yield made
    await made.close()


async def word_of(doing: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as refused:
        await doing
    return refused.value.word


def approle(vault: FakeVault, web: WireWeb, **role: object) -> Opened:
    role_id, secret_id = vault.approle("bursar", POLICY, **{"token_ttl": "60s", **role})
    return Opened(vault, web, lambda: Secret(secret_id), method="approle", role=role_id)


def renewals(vault: FakeVault) -> int:
    return sum(path == "auth/token/renew-self" for _, path, _ in vault.asked)


async def test_approle(vault: FakeVault, web: WireWeb) -> None:
    opened = approle(vault, web)
    secret_id, _ = await opened.store.put(ADDRESS, Secret("sk-val"), TAGS)
    assert await opened.store.get(secret_id) == Secret("sk-val")
    assert vault.spaces[""].logins["approle"].logins == 1, "one login serves many calls"


async def test_a_token_is_renewed_at_two_thirds(vault: FakeVault, web: WireWeb) -> None:
    opened = approle(vault, web)
    await opened.store.entries()
    assert await opened.store.tend() == pytest.approx(40, abs=1)
    assert renewals(vault) == 0
    vault.advance(40.5)
    assert await opened.store.tend() == pytest.approx(40, abs=1)
    assert renewals(vault) == 1
    for _ in range(5):
        vault.advance(40.5)
        await opened.store.tend()
    await opened.store.entries()
    assert vault.spaces[""].logins["approle"].logins == 1


async def test_near_its_longest_life_a_token_is_replaced(vault: FakeVault, web: WireWeb) -> None:
    opened = approle(vault, web, token_max_ttl="90s")
    await opened.store.entries()
    for _ in range(3):
        vault.advance(40.5)
        await opened.store.tend()
        await opened.store.entries()
    assert vault.spaces[""].logins["approle"].logins == 2


async def test_a_renewal_that_fails_is_tried_again(vault: FakeVault, web: WireWeb) -> None:
    opened = approle(vault, web)
    await opened.store.entries()
    vault.advance(40.5)
    vault.sealed = True
    assert await opened.store.tend() == pytest.approx(5, abs=0.5)
    vault.sealed = False
    vault.advance(5.5)
    assert await opened.store.tend() > 30
    assert renewals(vault) == 2
    assert vault.spaces[""].logins["approle"].logins == 1


async def test_a_crowd_before_a_failing_login_waits_once(vault: FakeVault, web: WireWeb) -> None:
    opened = approle(vault, web)
    vault.delay, vault.sealed = 0.3, True
    found = await asyncio.gather(*(opened.login.token() for _ in range(20)), return_exceptions=True)
    assert {one.word for one in found if isinstance(one, Refusal)} == {"store_sealed"}
    assert sum(path.endswith("/login") for _, path, _ in vault.asked) == 1
    vault.delay, vault.sealed = 0, False
    assert await opened.login.token()


async def test_a_revoked_token_is_replaced_once(vault: FakeVault, web: WireWeb) -> None:
    opened = approle(vault, web)
    await opened.store.entries()
    vault.lives.tokens.clear()
    await opened.store.entries()
    assert vault.spaces[""].logins["approle"].logins == 2


async def test_a_secret_id_that_is_used_up_is_named(vault: FakeVault, web: WireWeb) -> None:
    opened = approle(vault, web, secret_id_num_uses=1)
    await opened.store.entries()
    vault.lives.tokens.clear()
    assert await word_of(opened.store.entries()) == "store_login_failed"


async def test_leaving_gives_the_login_back(vault: FakeVault, web: WireWeb) -> None:
    opened = approle(vault, web)
    await opened.store.entries()
    held = len(vault.lives.tokens)
    await opened.store.close()
    assert len(vault.lives.tokens) == held - 1
    static = Opened(vault, web)
    await static.store.entries()
    await static.store.close()
    assert vault.root in vault.lives.tokens, "a token that was handed over is not ours to revoke"


async def test_a_token_from_a_file_is_taken_up_when_it_changes(vault: FakeVault, web: WireWeb, tmp_path: Path) -> None:
    file = tmp_path / "token"
    first = vault.token(POLICY, ttl=60)
    file.write_text(first)
    opened = Opened(vault, web, lambda: Secret(file.read_text()))
    await opened.store.entries()
    vault.advance(40.5)
    await opened.store.tend()
    assert renewals(vault) == 1
    del vault.lives.tokens[first]
    assert await word_of(opened.store.entries()) == "store_denied"
    file.write_text(vault.token(POLICY))
    assert await opened.store.entries() == []


async def test_a_token_that_ended_is_named(vault: FakeVault, web: WireWeb) -> None:
    token = vault.token(POLICY, ttl=60, renewable=False)
    opened = Opened(vault, web, lambda: Secret(token))
    await opened.store.entries()
    vault.advance(41)
    await opened.store.tend()
    vault.advance(20)
    assert await word_of(opened.store.entries()) == "store_login_failed"


async def test_kubernetes_and_jwt(vault: FakeVault, web: WireWeb, tmp_path: Path) -> None:
    cluster, root = Machine(), hvac.Client(vault.url, vault.root)
    root.sys.create_or_update_policy("bursar", POLICY)
    root.sys.enable_auth_method("kubernetes", path="k8s")
    root.write_data("auth/k8s/config", data={"kubernetes_host": "https://c", "pem_keys": [cluster.pem]})
    root.auth.kubernetes.create_role("bursar", "bursar", "llm", policies=["bursar"], ttl="60s", mount_point="k8s")
    root.sys.enable_auth_method("jwt")
    root.auth.jwt.configure(jwt_validation_pubkeys=[cluster.pem])
    root.auth.jwt.create_role("ci", "sub", [], role_type="jwt", bound_audiences=["v"], token_policies=["bursar"])
    file = tmp_path / "token"  # as the kubelet keeps it fresh
    file.write_text(cluster.service_account("bursar", "llm", "vault", vault.clock() + 50))
    k8s = Opened(vault, web, lambda: Secret(file.read_text()), method="kubernetes", mount="k8s", role="bursar")
    await k8s.store.entries()
    vault.advance(3600)
    assert await word_of(k8s.store.entries()) == "store_login_failed", "the projected token has expired"
    file.write_text(cluster.service_account("bursar", "llm", "vault", vault.clock() + 50))
    await k8s.store.entries()
    forged = Machine().service_account("bursar", "llm", "vault", vault.clock() + 50)
    assert (
        await word_of(
            Opened(vault, web, lambda: Secret(forged), method="kubernetes", mount="k8s", role="bursar").store.entries()
        )
        == "store_login_failed"
    )
    text = cluster.token(sub="x", aud="v", exp=int(vault.clock() + 60))
    await Opened(vault, web, lambda: Secret(text), method="jwt", role="ci").store.entries()
    assert (
        await word_of(Opened(vault, web, lambda: Secret(text), method="jwt", role="no").store.entries())
        == "store_login_failed"
    )
    away = Opened(vault, web, lambda: Secret(text), method="jwt", mount="nowhere", role="ci")
    assert await word_of(away.store.entries()) == "store_login_failed"


# ---- wrapped


def wrapped_secret_id(vault: FakeVault) -> tuple[str, str]:
    role_id, _ = vault.approle("bursar", POLICY)
    root = hvac.Client(vault.url, vault.root)
    return role_id, root.auth.approle.generate_secret_id("bursar", wrap_ttl="60s")["wrap_info"]["token"]


async def test_a_wrapped_secret_id_is_opened_once(vault: FakeVault, web: WireWeb) -> None:
    role_id, token = wrapped_secret_id(vault)
    opened = Opened(vault, web, lambda: Secret(token), method="approle", role=role_id, wrapped=True)
    await opened.store.entries()
    vault.lives.tokens = {vault.root: vault.lives.tokens[vault.root]}
    await opened.store.entries()  # logs in anew with what was opened
    late = Opened(vault, web, lambda: Secret(token), method="approle", role=role_id, wrapped=True)
    assert await word_of(late.store.entries()) == "store_login_failed"


async def test_a_wrapping_token_made_elsewhere_is_not_opened(vault: FakeVault, web: WireWeb) -> None:
    """Somebody who took the real one hands over one of his own: where it was made tells."""
    role_id, _ = vault.approle("bursar", POLICY)
    forged = hvac.Client(vault.url, vault.root).sys.wrap({"secret_id": "forged"}, 60)["wrap_info"]["token"]
    opened = Opened(vault, web, lambda: Secret(forged), method="approle", role=role_id, wrapped=True)
    assert await word_of(opened.store.entries()) == "store_login_failed"
    assert vault.lives.is_wrapping(forged), "it was only looked at"


# ---- leased credentials


@pytest.fixture
def engine(vault: FakeVault) -> Dynamic:
    engine = vault.spaces[""].engines["openai"] = Dynamic(vault)
    engine.ttl = 90
    return engine


LEASED = DynamicSecret(path="openai/creds/inference", address=ADDRESS, tags=TAGS)


async def test_a_leased_credential_is_an_entry_like_others(vault: FakeVault, web: WireWeb, engine: Dynamic) -> None:
    store = Opened(vault, web, dynamic=(LEASED,)).store
    (entry,) = await store.entries()
    assert (entry.address, entry.store, provider_key_of(entry).disabled) == (ADDRESS, "corp", False)
    assert await store.get(entry.id) == Secret("made-value-1") == await store.get(entry.id, entry.version)
    assert engine.made == 1
    assert await word_of(store.get(entry.id, entry.version - 1)) == "secret_not_found"
    for act in (store.put_version(entry.id, Secret("sk-x")), store.destroy(entry.id), store.tag(entry.id, {"a": "b"})):
        assert await word_of(act) == "store_read_only"


async def test_it_is_renewed_at_two_thirds_and_revoked_at_the_end(
    vault: FakeVault, web: WireWeb, engine: Dynamic
) -> None:
    store = Opened(vault, web, dynamic=(LEASED,)).store
    (entry,) = await store.entries()
    for _ in range(4):
        assert await store.tend() == pytest.approx(60, abs=1)
        vault.advance(60.5)
    await store.tend()
    assert await store.get(entry.id, entry.version) == Secret("made-value-1")
    assert engine.made == 1
    (lease,) = vault.lives.leases.values()
    await store.close()
    assert lease.revoked


async def test_near_its_longest_life_it_is_replaced_and_both_live_for_a_while(
    vault: FakeVault, web: WireWeb, engine: Dynamic
) -> None:
    engine.max_ttl = 120
    store = Opened(vault, web, dynamic=(LEASED,)).store
    (first,) = await store.entries()
    for _ in range(2):
        vault.advance(60.1)
        await store.tend()
        if engine.made == 2:
            break
    (second,) = await store.entries()
    assert second.version > first.version
    assert await store.get(first.id) == Secret(f"made-value-{engine.made}")
    await store.close()
    assert all(lease.revoked or lease.expires <= vault.clock() for lease in vault.lives.leases.values())


async def test_an_overlap_is_left_for_those_who_hold_the_old_one(
    vault: FakeVault, web: WireWeb, engine: Dynamic
) -> None:
    engine.max_ttl = 85
    engine.ttl = 60
    store = Opened(vault, web, dynamic=(LEASED,)).store
    (first,) = await store.entries()
    vault.advance(40.1)
    await store.tend()  # 45 s are left
    vault.advance(30.1)
    await store.tend()  # 15 s are left: less than a third
    (second,) = await store.entries()
    assert [version.state for version in second.versions] == ["previous", "current"]
    assert await store.get(first.id, first.version) == Secret("made-value-1")
    assert await store.get(first.id) == Secret("made-value-2")
    vault.advance(16)
    assert await word_of(store.get(first.id, first.version)) == "secret_not_found"


async def test_an_engine_that_refuses_closes_its_entry_only(
    vault: FakeVault, web: WireWeb, engine: Dynamic, canary: Secret
) -> None:
    gone = DynamicSecret(path="openai/other", address="openai/*/api_key/prod/beta", tags={})
    wrong = DynamicSecret(path="openai/creds/x", field="no_such", address="openai/*/api_key/prod/gamma")
    store = Opened(vault, web, dynamic=(gone, wrong, LEASED)).store
    await store.put("openai/*/api_key/prod/kv", canary, TAGS)
    faults = {entry.address: entry.fault for entry in await store.entries()}
    assert faults.pop("openai/*/api_key/prod/beta") in ("store_mismatch", "secret_not_found")
    assert faults.pop("openai/*/api_key/prod/gamma") == "secret_malformed"
    assert set(faults.values()) == {""}
