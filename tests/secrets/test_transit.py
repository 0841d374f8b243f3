"""Vault's transit engine as the wrapping key, over real HTTP: round trips, bindings, and each way to be refused."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import hvac
import pytest

from bursar.app.clock import SystemClock
from bursar.app.web import WireWeb
from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.sealing import WrapperError
from bursar.secrets.vault_api import VaultApi
from bursar.secrets.vault_login import VaultClient, VaultLogin
from bursar.secrets.wrap import transit
from bursar.secrets.wrap.transit import TransitWrapper
from tests.vault.fake import FakeVault
from tests.vault.transit import Key, Transit

KEY = b"k" * 32
CONTEXT = b"secret one, version 1"
POLICY = """
path "transit/encrypt/bursar" { capabilities = ["update"] }
path "transit/decrypt/bursar" { capabilities = ["update"] }
"""


@pytest.fixture
def engine() -> Transit:
    made = Transit()
    made.keys["bursar"] = Key()
    return made


@pytest.fixture
def vault(engine: Transit) -> Iterator[FakeVault]:
    with FakeVault() as running:
        running.spaces[""].engines["transit"] = engine  # type: ignore[assignment]
        yield running


@pytest.fixture
async def client(vault: FakeVault) -> AsyncIterator[Callable[..., VaultClient]]:
    web = WireWeb()

    def made(token: str = "", seconds: float = 5.0) -> VaultClient:
        api = VaultApi(web, "wrapper", vault.url, seconds=seconds)
        mine = Secret(token or vault.token(POLICY))
        return VaultClient(api, VaultLogin(api, SystemClock(), lambda: mine))

    yield made
    await web.close()


async def refusal_of(doing: Awaitable[object]) -> WrapperError:
    with pytest.raises(WrapperError) as refused:
        await doing
    return refused.value


async def word_of(doing: Awaitable[object]) -> str:
    return (await refusal_of(doing)).word


async def test_what_is_wrapped_is_unwrapped_also_after_vault_rotated_its_key(
    client: Callable[..., VaultClient], engine: Transit, entropy: Entropy
) -> None:
    wrapper = await transit.connect(client(), "transit", "bursar", entropy)
    assert wrapper.id == "transit:transit/bursar"
    wrapped = await wrapper.wrap(KEY, CONTEXT)
    assert wrapped.startswith(b"vault:v1:")
    engine.keys["bursar"].versions.append(b"2" * 32)
    assert (await wrapper.wrap(KEY, CONTEXT)).startswith(b"vault:v2:")
    assert await wrapper.unwrap(wrapped, CONTEXT) == KEY


async def test_another_context_key_or_byte_does_not_open(client: Callable[..., VaultClient], engine: Transit) -> None:
    wrapper = TransitWrapper(client(), "transit", "bursar")
    wrapped = await wrapper.wrap(KEY, CONTEXT)
    assert await word_of(wrapper.unwrap(wrapped, b"secret two, version 1")) == "wrapper_wrong"
    assert await word_of(wrapper.unwrap(wrapped[:-8] + b"AAAAAAA=", CONTEXT)) == "wrapper_wrong"
    assert await word_of(wrapper.unwrap(b"\xff no ciphertext", CONTEXT)) == "wrapper_wrong"
    engine.keys["bursar"] = Key()
    assert await word_of(wrapper.unwrap(wrapped, CONTEXT)) == "wrapper_wrong"
    del engine.keys["bursar"]
    assert await word_of(wrapper.unwrap(wrapped, CONTEXT)) == "wrapper_lost"


async def test_a_key_that_cannot_bind_or_is_not_there_is_lost(
    client: Callable[..., VaultClient], engine: Transit, vault: FakeVault, entropy: Entropy
) -> None:
    engine.keys["bursar"] = Key(type="rsa-4096")
    assert await word_of(transit.connect(client(), "transit", "bursar", entropy)) == "wrapper_lost"
    assert await word_of(transit.connect(client(vault.root), "elsewhere", "bursar", entropy)) == "wrapper_lost"


async def test_denied_sealed_throttled_slow_and_down_have_their_words(
    client: Callable[..., VaultClient], vault: FakeVault, shown: Callable[[BaseException], str]
) -> None:
    wrapper = TransitWrapper(client(), "transit", "bursar")
    wrapped = await wrapper.wrap(KEY, CONTEXT)
    denied = TransitWrapper(
        client(vault.token('path "other" { capabilities = ["read"] }', name="other")), "transit", "bursar"
    )
    assert await word_of(denied.wrap(KEY, CONTEXT)) == "wrapper_denied"
    assert (
        await word_of(TransitWrapper(client("no-such-token"), "transit", "bursar").wrap(KEY, CONTEXT))
        == "wrapper_denied"
    )
    vault.fail_next = [(429, "request path quota exceeded")]
    assert await word_of(wrapper.unwrap(wrapped, CONTEXT)) == "wrapper_unavailable"
    vault.sealed = True
    sealed = await refusal_of(wrapper.wrap(KEY, CONTEXT))
    assert (sealed.word, sealed.facts["vault"]) == ("wrapper_unavailable", "store_sealed")
    assert "unseal" in sealed.hint
    vault.sealed = False
    slow = TransitWrapper(client(seconds=1.0), "transit", "bursar")
    await slow.unwrap(wrapped, CONTEXT)
    vault.delay = 3.0
    late = await refusal_of(slow.wrap(KEY, CONTEXT))
    assert (late.word, bool(late.retry_after)) == ("wrapper_unavailable", True)
    assert repr(KEY)[2:-1] not in shown(late)
    assert base64.b64encode(KEY).decode() not in shown(late)
    vault.delay = 0.0
    vault.stop()
    assert await word_of(wrapper.wrap(KEY, CONTEXT)) == "wrapper_unavailable"
    assert await word_of(wrapper.unwrap(wrapped, CONTEXT)) == "wrapper_unavailable"


async def test_a_store_under_transit_goes_on_after_vault_was_away(
    folder: Path, clock: Clock, entropy: Entropy, client: Callable[..., VaultClient], vault: FakeVault, canary: Secret
) -> None:
    wrapper = await transit.connect(client(), "transit", "bursar", entropy)
    store = await EmbeddedStore.open(folder / "secrets.db", [wrapper], clock, entropy)
    secret_id, _ = await store.put("openai/*/api_key/prod/*", canary, {"billing_owner": "ann"})
    vault.sealed = True
    assert await word_of(store.get(secret_id)) == "wrapper_unavailable"
    assert await word_of(store.tag(secret_id, {"note": "x"})) == "wrapper_unavailable"
    assert "note" not in (await store.entry(secret_id)).tags, "half a change was written"
    vault.sealed = False
    assert await store.get(secret_id) == canary
    made = await asyncio.gather(*(store.put_version(secret_id, Secret(f"value-{n}")) for n in range(5)))
    assert made == [2, 3, 4, 5, 6]
    store.close()


def test_the_fake_speaks_as_hvac_expects(vault: FakeVault) -> None:
    caller = hvac.Client(url=vault.url, token=vault.root)
    caller.secrets.transit.create_key(name="other")
    plain = base64.b64encode(b"hello").decode()
    sealed = caller.secrets.transit.encrypt_data(name="other", plaintext=plain)["data"]["ciphertext"]
    caller.secrets.transit.rotate_key(name="other")
    assert caller.secrets.transit.decrypt_data(name="other", ciphertext=sealed)["data"]["plaintext"] == plain
    assert caller.secrets.transit.read_key(name="other")["data"]["latest_version"] == 2
    with pytest.raises(hvac.exceptions.InvalidRequest):
        caller.secrets.transit.decrypt_data(name="other", ciphertext="vault:v9:AAAA")
    with pytest.raises(hvac.exceptions.InvalidRequest):
        caller.write("transit/decrypt/other", ciphertext=sealed, associated_data=plain)
