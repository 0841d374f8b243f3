"""Provider keys: the store is the truth, the directory follows, also after a crash between the two."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.control.provider_keys import ProviderKeys
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.stores import Stores
from bursar.secrets.wrap.keyfile import create
from tests.control.tenants import ACTOR, SeededEntropy, Tenants
from tests.secrets.driving import at_once

ADDRESS = "openai/*/api_key/prod/*"
VALUE = Secret("sk-proj-canary-0123456789")


class Vault(Tenants):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        entropy = SeededEntropy()
        wrappers = [create(folder / "wrapping.key", entropy)]
        self.secrets = at_once(EmbeddedStore.open(folder / "secrets.db", wrappers, self.clock, entropy))
        self.provider_keys = ProviderKeys(self.directory, Stores([self.secrets]), self.audit, ("openai", "anthropic"))

    def in_directory(self) -> dict[str, tuple[int, str, bool]]:
        keys = self.directory.snapshot().provider_keys
        return {key.address: (key.version, key.billing_owner, key.disabled) for key in keys}


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    made = Vault(tmp_path)
    yield made
    made.secrets.close()
    made.store.close()


async def test_the_directory_follows_every_act(vault: Vault) -> None:
    await vault.owners.create(ACTOR, "ACME")
    entry = await vault.provider_keys.put(ACTOR, ADDRESS, VALUE, {})
    assert vault.in_directory() == {ADDRESS: (1, "unassigned", False)}
    assert [e.id for e in await vault.provider_keys.unowned()] == [entry.id]
    await vault.provider_keys.put(ACTOR, ADDRESS, Secret("sk-proj-second-0123456789"), {"billing_owner": "acme"})
    assert vault.in_directory() == {ADDRESS: (2, "acme", False)}
    await vault.provider_keys.set_disabled(ACTOR, entry.id, True)
    assert vault.in_directory() == {ADDRESS: (2, "acme", True)}
    await vault.provider_keys.destroy(ACTOR, entry.id)
    assert vault.in_directory() == {}
    assert [line.action for line in vault.audit.lines if line.action.startswith("secret.")] == [
        "secret.put",
        "secret.put",
        "secret.disable",
        "secret.destroy",
    ]


async def test_a_crash_between_store_and_directory_heals_at_the_next_start(vault: Vault) -> None:
    await vault.secrets.put(ADDRESS, VALUE, {})
    other, _ = await vault.secrets.put("anthropic/*/api_key/prod/*", Secret("sk-ant-canary-0123456789"), {})
    assert vault.in_directory() == {}
    assert await vault.provider_keys.sync() == 2
    await vault.secrets.destroy(other)
    assert await vault.provider_keys.sync() == 1
    assert list(vault.in_directory()) == [ADDRESS]
    before = len(vault.audit.lines)
    assert await vault.provider_keys.sync() == 0
    assert len(vault.audit.lines) == before, "nothing differed, nothing is written"


async def test_without_the_audit_the_store_is_not_touched(vault: Vault) -> None:
    vault.audit.broken = True
    with pytest.raises(Refusal) as refused:
        await vault.provider_keys.put(ACTOR, ADDRESS, VALUE, {})
    assert refused.value.word == "audit_unavailable"
    assert await vault.secrets.entries() == []


async def test_what_the_store_refuses_is_recorded_as_failed(vault: Vault) -> None:
    await vault.provider_keys.put(ACTOR, ADDRESS, VALUE, {})
    with pytest.raises(Refusal):
        await vault.provider_keys.put(ACTOR, "openai/*/api_key/dev/*", VALUE, {})
    line = vault.audit.lines[-1]
    assert (line.action, line.outcome, line.facts) == ("secret.put", "failed", {"word": "duplicate_secret"})


async def test_a_caller_who_leaves_does_not_part_store_and_directory(vault: Vault) -> None:
    call = asyncio.create_task(vault.provider_keys.put(ACTOR, ADDRESS, VALUE, {}))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await vault.provider_keys.put(ACTOR, "anthropic/*/api_key/prod/*", Secret("sk-ant-canary-0123456789"), {})
    assert {entry.address for entry in await vault.secrets.entries()} == set(vault.in_directory())
    assert ADDRESS in vault.in_directory()


async def test_acts_at_the_same_time_end_in_one_truth(vault: Vault) -> None:
    await vault.owners.create(ACTOR, "ACME")
    entry = await vault.provider_keys.put(ACTOR, ADDRESS, VALUE, {})
    await asyncio.gather(
        vault.provider_keys.tag(ACTOR, entry.id, {"billing_owner": "acme"}),
        vault.provider_keys.set_disabled(ACTOR, entry.id, True),
        *(vault.provider_keys.tag(ACTOR, entry.id, {f"t{number}": "x"}) for number in range(8)),
    )
    (key,) = vault.directory.snapshot().provider_keys
    assert (key.billing_owner, key.disabled) == ("acme", True)
    assert set(key.tags) == {f"t{number}" for number in range(8)}


@pytest.mark.parametrize(
    ("address", "tags", "word"),
    [
        ("opnai/*/api_key/prod/*", {}, "invalid_address"),
        ("openai/*", {}, "invalid_address"),
        (ADDRESS, {"billing_owner": "nobody"}, "unknown_id"),
        (ADDRESS, {"note": f"it is {VALUE.reveal()}"}, "invalid_secret"),
        (ADDRESS, {"Bad Name": "x"}, "invalid_tags"),
    ],
)
async def test_refused_before_anything_is_written(vault: Vault, address: str, tags: dict[str, str], word: str) -> None:
    with pytest.raises(Refusal) as refused:
        await vault.provider_keys.put(ACTOR, address, VALUE, tags)
    assert refused.value.word == word
    assert refused.value.hint
    assert vault.audit.lines == []
    assert VALUE.reveal() not in str(refused.value) + str(refused.value.facts)
