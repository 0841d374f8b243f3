"""Generated histories: whatever is done to a store that can be written, it ends as the plain model says."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.app.web import WireWeb
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import SecretStore
from bursar.secrets.aws import AwsPlace, AwsStore
from bursar.secrets.cache import CachedStore
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.values import Fingerprint
from bursar.secrets.wrap.local import LocalWrapper
from tests.conformance.clouds import forget
from tests.conformance.conftest import SystemClock, SystemEntropy, vault_store
from tests.vault.fake import FakeVault

ADDRESSES = ("openai/*/api_key/prod/a", "openai/gpt-4o/api_key/prod/b")
TAGS = st.dictionaries(st.sampled_from(("note", "ticket")), st.sampled_from(("one", "two, three", "ü=*")), max_size=2)
ACT = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(ADDRESSES), TAGS),
    st.tuples(st.just("tag"), st.sampled_from(ADDRESSES), TAGS),
    st.tuples(st.just("untag"), st.sampled_from(ADDRESSES), st.just({"note": "-"})),
    st.tuples(st.just("disable"), st.sampled_from(ADDRESSES), st.just({})),
    st.tuples(st.just("enable"), st.sampled_from(ADDRESSES), st.just({})),
    st.tuples(st.just("destroy"), st.sampled_from(ADDRESSES), st.just({})),
)


@dataclass
class Held:
    value: Secret
    tags: dict[str, str]
    disabled: bool = False
    values: list[Secret] = field(default_factory=list)


@asynccontextmanager
async def embedded(_: pytest.FixtureRequest) -> AsyncIterator[SecretStore]:
    with TemporaryDirectory() as folder:
        entropy = SystemEntropy()
        wrapper = LocalWrapper("test:one", os.urandom(32), entropy)
        store = await EmbeddedStore.open(Path(folder) / "secrets.db", [wrapper], SystemClock(), entropy)
        yield store
        store.close()


@asynccontextmanager
async def vault(_: pytest.FixtureRequest) -> AsyncIterator[SecretStore]:
    web = WireWeb()
    with FakeVault() as running:
        yield CachedStore(vault_store(running, web, "custom_metadata"), SystemClock())
        await web.close()


@asynccontextmanager
async def vault_data(_: pytest.FixtureRequest) -> AsyncIterator[SecretStore]:
    web = WireWeb()
    with FakeVault() as running:
        yield vault_store(running, web, "data")
        await web.close()


@asynccontextmanager
async def aws(request: pytest.FixtureRequest) -> AsyncIterator[SecretStore]:
    moto = request.getfixturevalue("moto")
    forget(moto)
    yield AwsStore("cloud", AwsPlace(region="eu-central-1", endpoint=moto), Fingerprint(Secret("test")))


@pytest.mark.parametrize("opened", [embedded, vault, vault_data, aws], ids=lambda opened: str(opened.__name__))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(ACT, min_size=1, max_size=12))
def test_a_history_ends_as_the_model_says(
    opened: Callable[..., object], request: pytest.FixtureRequest, acts: list[tuple[str, str, dict[str, str]]]
) -> None:
    asyncio.run(live_through(opened, request, acts))


async def live_through(
    opened: Callable[..., object], request: pytest.FixtureRequest, acts: list[tuple[str, str, dict[str, str]]]
) -> None:
    model: dict[str, Held] = {}
    ids: dict[str, str] = {}
    async with opened(request) as store:  # type: ignore[attr-defined]
        for number, (act, address, tags) in enumerate(acts):
            if act == "put":
                value = Secret(f"sk-made-{number}-{os.urandom(8).hex()}")
                ids[address], _ = await store.put(address, value, tags)
                held = model.setdefault(address, Held(value, {}))
                held.value, held.tags = value, {"billing_owner": "unassigned", **tags}
                held.values.append(value)
                continue
            doing = do(store, act, ids.get(address, "sec_none"), tags)
            if address in model:
                await doing
                change(model, act, address, tags)
            else:
                with pytest.raises(Refusal) as refused:
                    await doing
                assert refused.value.word == "secret_not_found"
        await compare(store, model, ids)


async def do(store: SecretStore, act: str, secret_id: str, tags: dict[str, str]) -> None:
    if act == "tag":
        await store.tag(secret_id, tags)
    elif act == "untag":
        await store.tag(secret_id, dict.fromkeys(tags))
    elif act == "destroy":
        await store.destroy(secret_id)
    else:
        await store.set_disabled(secret_id, act == "disable")


def change(model: dict[str, Held], act: str, address: str, tags: dict[str, str]) -> None:
    held = model[address]
    if act == "tag":
        held.tags |= tags
    elif act == "untag":
        held.tags = {name: value for name, value in held.tags.items() if name not in tags}
    elif act == "destroy":
        del model[address]
    else:
        held.disabled = act == "disable"


async def compare(store: SecretStore, model: dict[str, Held], ids: dict[str, str]) -> None:
    entries = {entry.address: entry for entry in await store.entries()}
    assert set(entries) == set(model)
    for address, held in model.items():
        entry = entries[address]
        assert (entry.id, entry.tags, entry.disabled) == (ids[address], held.tags, held.disabled)
        assert entry == await store.entry(entry.id)
        assert await store.get(entry.id) == held.value
        found = await store.find(held.value)
        assert found is not None
        assert found.id == entry.id
