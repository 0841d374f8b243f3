"""The recovery key: the node wraps with its public half; only the private half, kept elsewhere, opens."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import Clock, Entropy
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.sealed_file import try_on
from bursar.secrets.sealing import WrapperError
from bursar.secrets.wrap import recovery
from bursar.secrets.wrap.local import LocalWrapper
from bursar.secrets.wrap.recovery import RecoveryWrapper
from tests.secrets.driving import at_once

CONTEXT = b"context"
PHRASE = Secret("correct horse battery staple")
ADDRESS = "openai/*/api_key/prod/*"


def refused(doing: Callable[[], object]) -> str:
    with pytest.raises(WrapperError) as fault:
        doing()
    return fault.value.word


@pytest.fixture
def pair(folder: Path, entropy: Entropy) -> RecoveryWrapper:
    return recovery.create_file(folder / "recovery.key", entropy)


def test_the_public_half_wraps_and_only_the_private_half_opens(pair: RecoveryWrapper, folder: Path) -> None:
    public = RecoveryWrapper(pair.id)
    wrapped = at_once(public.wrap(b"k" * 32, CONTEXT))
    assert refused(lambda: at_once(public.unwrap(wrapped, CONTEXT))) == "wrapper_lost"
    again = recovery.load_file(folder / "recovery.key")
    assert again.id == pair.id
    assert at_once(again.unwrap(wrapped, CONTEXT)) == b"k" * 32
    assert stat.S_IMODE((folder / "recovery.key").stat().st_mode) == 0o600


def test_another_key_context_or_byte_does_not_open(pair: RecoveryWrapper, folder: Path, entropy: Entropy) -> None:
    wrapped = at_once(pair.wrap(b"k" * 32, CONTEXT))
    other = recovery.create_file(folder / "other.key", entropy)
    assert refused(lambda: at_once(other.unwrap(wrapped, CONTEXT))) == "wrapper_wrong"
    assert refused(lambda: at_once(pair.unwrap(wrapped, b"elsewhere"))) == "wrapper_wrong"
    for at in range(len(wrapped)):
        spoiled = wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]
        assert refused(lambda spoiled=spoiled: at_once(pair.unwrap(spoiled, CONTEXT))) == "wrapper_wrong"
    assert refused(lambda: at_once(pair.unwrap(wrapped[:-1], CONTEXT))) == "wrapper_wrong"


def test_a_passphrase_makes_the_same_pair_again_and_another_one_does_not(entropy: Entropy) -> None:
    made = recovery.create_passphrase(PHRASE, entropy)
    wrapped = at_once(RecoveryWrapper(made.id).wrap(b"k" * 32, CONTEXT))
    assert at_once(recovery.unlock_passphrase(PHRASE, made.id).unwrap(wrapped, CONTEXT)) == b"k" * 32
    assert refused(lambda: recovery.unlock_passphrase(Secret("another passphrase"), made.id)) == "wrapper_wrong"
    weak = made.id.replace(".m65536.", ".m64.")
    assert refused(lambda: recovery.unlock_passphrase(PHRASE, weak)) == "wrapper_unsafe"
    assert refused(lambda: recovery.create_passphrase(Secret("short"), entropy)) == "wrapper_unsafe"


@pytest.mark.parametrize("wrapper_id", ["", "recovery:", "keyfile:00", "recovery:x25519." + "g" * 64])
def test_what_is_no_recovery_key_is_refused(wrapper_id: str) -> None:
    assert refused(lambda: RecoveryWrapper(wrapper_id)) == "wrapper_wrong"
    assert refused(lambda: recovery.unlock_passphrase(PHRASE, wrapper_id)) == "wrapper_wrong"


def test_a_damaged_or_open_file_is_refused(pair: RecoveryWrapper, folder: Path, entropy: Entropy) -> None:
    path = folder / "recovery.key"
    text = path.read_text()
    path.write_text(text[:-4] + "\n")
    assert refused(lambda: recovery.load_file(path)) == "wrapper_wrong"
    flipped = text[-2].translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    path.write_text(text[:-2] + flipped + "\n")
    assert refused(lambda: recovery.load_file(path)) == "wrapper_wrong"
    path.chmod(0o640)
    assert refused(lambda: recovery.load_file(path)) == "wrapper_unsafe"
    assert refused(lambda: recovery.load_file(folder / "none")) == "wrapper_lost"
    with pytest.raises(FileExistsError):
        recovery.create_file(path, entropy)


async def test_a_store_comes_back_by_the_recovery_key_alone(
    folder: Path, clock: Clock, entropy: Entropy, wrapper: LocalWrapper, pair: RecoveryWrapper, canary: Secret
) -> None:
    path = folder / "secrets.db"
    store = await EmbeddedStore.open(path, [wrapper], clock, entropy)
    secret_id, _ = await store.put(ADDRESS, canary, {})
    assert await try_on(path, pair) == (2, 0, (await try_on(path, pair)).fault)
    store.recover_by(RecoveryWrapper(pair.id))
    second, _ = await store.put("anthropic/*/api_key/prod/*", Secret("another-value"), {})
    assert (await try_on(path, pair))[:2] == (3, 1)
    assert await store.rewrap() == (2, 0)
    assert await try_on(path, pair) == (3, 3, "")
    assert await store.get(secret_id) == canary  # by the node's own key: the public half opens nothing
    store.close()

    fresh = LocalWrapper("test:fresh", os.urandom(32), entropy)
    with pytest.raises(Refusal) as lost:
        await EmbeddedStore.open(path, [fresh], clock, entropy)
    assert lost.value.word == "wrapper_lost"
    back = await EmbeddedStore.open(path, [fresh], clock, entropy, [pair])
    assert await back.rewrap() == (3, 0)
    back.close()
    alone = await EmbeddedStore.open(path, [fresh], clock, entropy)
    assert await alone.get(secret_id) == canary
    assert (await alone.get(second)).reveal() == "another-value"
    alone.close()


async def test_the_fault_of_the_nodes_own_key_is_told_not_that_of_the_recovery_key(
    folder: Path, clock: Clock, entropy: Entropy, wrapper: LocalWrapper, pair: RecoveryWrapper, canary: Secret
) -> None:
    store = await EmbeddedStore.open(folder / "secrets.db", [wrapper], clock, entropy)
    store.recover_by(RecoveryWrapper(pair.id))
    secret_id, _ = await store.put(ADDRESS, canary, {})
    wrapper._key = os.urandom(32)
    with pytest.raises(WrapperError) as refused:
        await store.get(secret_id)
    assert refused.value.facts == {"wrapper": wrapper.id}
    store.close()
