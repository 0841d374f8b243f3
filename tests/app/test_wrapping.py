"""The ring of wrapping keys by configuration: a key changes without a secret being lost, and none is made in vain."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar import config
from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.vault import Vault, open_vault
from bursar.config import AwsKms, Config, Wrapper
from bursar.core.errors import Refusal
from bursar.secrets.sealed_file import sealed_under
from tests.secrets.test_transit import POLICY
from tests.vault.fake import FakeVault
from tests.vault.transit import Key, Transit

NEW, OLD = "a new passphrase", "an old passphrase"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def open_it(folder: Path) -> Callable[..., object]:
    async def opened(wrapper: Wrapper, *former: Wrapper) -> Vault:
        env = {"NEW": NEW, "OLD": OLD, "WRONG": "another passphrase"}
        settings = Config(wrapper=wrapper, former_wrappers=former)
        return await open_vault(settings, folder, env, SystemClock(), SystemEntropy())

    return opened


async def refused_word(doing: object) -> str:
    with pytest.raises(Refusal) as refused:
        await doing  # type: ignore[misc]
    return refused.value.word


FIRST, SECOND = Wrapper(), Wrapper(path="second.key")
BY_OLD = Wrapper(kind="passphrase", passphrase_env="OLD")
BY_NEW = Wrapper(kind="passphrase", passphrase_env="NEW")


@pytest.mark.parametrize(
    ("before", "after"), [(FIRST, SECOND), (FIRST, BY_NEW), (BY_OLD, SECOND), (BY_OLD, BY_NEW)], ids=lambda w: w.kind
)
async def test_a_change_of_the_wrapping_key(
    open_it: Callable[..., object], folder: Path, before: Wrapper, after: Wrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    first = await open_it(before)  # type: ignore[misc]
    first.store.close()
    assert await refused_word(open_it(after)) in ("wrapper_lost", "wrapper_wrong")
    made = (folder / "wrapping.key").exists(), (folder / "second.key").exists()
    assert made == (before.kind == "keyfile", False), "a key was made that opens nothing"
    both = await open_it(after, before)  # type: ignore[misc]
    assert (both.pepper, both.audit_seed) == (first.pepper, first.audit_seed)
    assert (await both.store.rewrap(limit=1)).left
    both.store.close()
    half = await open_it(after, before)  # type: ignore[misc]
    await half.store.rewrap()
    half.store.close()
    (ids,) = sealed_under(folder / "secrets.db")
    assert ids == half.store.sealing
    alone = await open_it(after)  # type: ignore[misc]
    assert alone.pepper == first.pepper
    alone.store.close()
    assert await refused_word(open_it(before)) in ("wrapper_lost", "wrapper_wrong")


async def test_a_wrong_passphrase_is_wrong_and_makes_no_new_key(open_it: Callable[..., object]) -> None:
    (await open_it(BY_OLD)).store.close()  # type: ignore[misc]
    assert await refused_word(open_it(Wrapper(kind="passphrase", passphrase_env="WRONG"))) == "wrapper_wrong"
    assert await refused_word(open_it(Wrapper(kind="passphrase", passphrase_env="NONE"))) == "wrapper_lost"


async def test_a_key_service_that_is_away_refuses_the_start_by_name(
    open_it: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setitem(os.environ, "NO_PROXY", "*")
    kms = AwsKms(key="alias/bursar", region="eu-central-1", endpoint="http://127.0.0.1:9", timeout=0.2)
    assert await refused_word(open_it(Wrapper(kind="awskms", awskms=kms))) == "wrapper_unavailable"


async def test_a_node_whose_key_is_in_vault(open_it: Callable[..., object], folder: Path) -> None:
    engine = Transit()
    engine.keys["bursar"] = Key()
    with FakeVault() as vault:
        vault.spaces[""].engines["transit"] = engine  # type: ignore[assignment]
        token = folder / "token"
        token.write_text(vault.token(POLICY) + "\n")
        settings = config.Transit(url=vault.url, credential_file=str(token), timeout=5)
        first = await open_it(Wrapper(kind="transit", transit=settings))  # type: ignore[misc]
        first.store.close()
        again = await open_it(Wrapper(kind="transit", transit=settings))  # type: ignore[misc]
        assert again.pepper == first.pepper
        again.store.close()
        token.unlink()
        assert await refused_word(open_it(Wrapper(kind="transit", transit=settings))) == "wrapper_denied"
        unset = config.Transit(url=vault.url, credential_env="NONE")
        assert await refused_word(open_it(Wrapper(kind="transit", transit=unset))) == "wrapper_denied"
    token.write_text("token")
    assert await refused_word(open_it(Wrapper(kind="transit", transit=settings))) == "wrapper_unavailable"
