"""A mounted directory beyond what every store does: swaps, generations, links that lead out, and what is malformed."""

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path

import pytest

from bursar.core.errors import RULES, Refusal
from bursar.core.layout import Layout
from bursar.core.secret import Secret
from bursar.secrets.environment import EnvironmentStore, Variable
from bursar.secrets.mounted import MountedStore
from tests.conformance.stands import LaterClock, Mount

FLAT = Layout(path="{provider}__{team}")


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path / "mount")


@pytest.fixture
def store(mount: Mount) -> MountedStore:
    return MountedStore("disk", mount.folder, FLAT)


async def word_of(doing: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as refused:
        await doing
    assert refused.value.word in RULES
    return refused.value.word


async def test_a_swap_is_followed_at_once(mount: Mount, store: MountedStore) -> None:
    mount.set({"openai__alpha": b"first", "openai__beta": b"other"})
    (alpha, beta) = await store.entries()
    assert (alpha.address, beta.address) == ("openai/*/*/*/alpha", "openai/*/*/*/beta")
    await asyncio.sleep(0.01)  # the file system's clock is coarse
    mount.set({"openai__alpha": b"second"})
    assert await store.get(alpha.id) == Secret("second")
    assert (await store.entry(alpha.id)).version > alpha.version
    assert await word_of(store.get(alpha.id, alpha.version)) == "secret_not_found", "the old one cannot be had any more"
    mount.set({"openai__alpha": None})
    assert await word_of(store.get(alpha.id)) == "secret_not_found"
    assert [entry.id for entry in await store.entries()] == [beta.id]


async def test_value_and_tags_are_always_of_one_generation(mount: Mount, store: MountedStore) -> None:
    """A reader beside a writer that swaps on and on never sees a value under the tags of another one."""

    def files(number: int) -> dict[str, bytes | None]:
        tags = json.dumps({"billing_owner": f"owner-{number}"}).encode()
        return {"openai__alpha": f"value-{number}".encode(), "openai__alpha.tags.json": tags}

    mount.set(files(0))
    (entry,) = await store.entries()

    def swap() -> None:
        for number in range(1, 200):
            mount.set(files(number))

    swapping = asyncio.create_task(asyncio.to_thread(swap))
    seen = set()
    while not swapping.done():
        found = await asyncio.to_thread(store._find, entry.id)
        assert isinstance(found.value, Secret)
        assert found.value.reveal().removeprefix("value-") == found.entry.tags["billing_owner"].removeprefix("owner-")
        seen.add(found.value)
    await swapping
    assert len(seen) > 1


async def test_plain_files_without_a_link_serve_as_well(tmp_path: Path) -> None:
    (tmp_path / "anthropic__ops").write_text("sk-plain\n")
    (tmp_path / ".hidden__x").write_text("no")
    store = MountedStore("disk", tmp_path, FLAT)
    (entry,) = await store.entries()
    assert await store.get(entry.id) == Secret("sk-plain")


async def test_a_link_that_leads_out_of_the_folder_is_no_entry(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("not for us")
    folder = tmp_path / "mount"
    folder.mkdir()
    (folder / "openai__alpha").symlink_to(outside)
    assert await MountedStore("disk", folder, FLAT).entries() == []


async def test_a_folder_that_is_not_mounted_is_an_outage_not_an_empty_store(tmp_path: Path) -> None:
    store = MountedStore("disk", tmp_path / "missing", FLAT)
    assert await word_of(store.entries()) == "secrets_unavailable"
    assert await word_of(store.get("sec_x")) == "secrets_unavailable"


@pytest.mark.parametrize(
    ("kind", "files", "fault"),
    [
        ("text", {"openai__a": b""}, "secret_malformed"),
        ("text", {"openai__a": b"\xff\xfe\x00"}, "secret_malformed"),
        ("text", {"openai__a": b"two\nlines"}, "secret_malformed"),
        ("text", {"openai__a": b"fine", "openai__a.tags.json": b"{"}, "invalid_tags"),
        ("text", {"openai__a": b"fine", "openai__a.tags.json": b'{"purpose": ","}'}, "invalid_tags"),
        ("text", {"not a provider__a": b"fine"}, "invalid_address"),
        ("json", {"openai__a": b"plain text"}, "secret_malformed"),
        ("json", {"openai__a": b'{"key": "x"}'}, "secret_malformed"),
        ("json", {"openai__a": b'{"value": 7}'}, "secret_malformed"),
    ],
)
async def test_what_is_malformed_is_shown_and_closed(
    mount: Mount, kind: str, files: dict[str, bytes], fault: str
) -> None:
    mount.set(files)
    store = MountedStore("disk", mount.folder, FLAT, kind=kind)  # type: ignore[arg-type]
    (entry,) = await store.entries()
    assert entry.fault == fault
    if fault == "secret_malformed":
        assert await word_of(store.get(entry.id)) == "secret_malformed"


async def test_variables_that_are_not_set_or_hold_nothing(canary: Secret) -> None:
    variables = {
        "A": Variable(address="openai/*/api_key/*/*"),
        "B": Variable(address="openai/*/api_key/*/b"),
        "C": Variable(address="openai"),
        "D": Variable(address="openai/*/api_key/*/d", tags={"purpose": ","}),
    }
    env = {"A": canary.reveal(), "C": "x", "D": "y", "B": " "}
    store = EnvironmentStore("env", variables, env, LaterClock())
    faults = {entry.address: entry.fault for entry in await store.entries()}
    assert faults == {
        "openai": "invalid_address",
        "openai/*/api_key/*/*": "",
        "openai/*/api_key/*/b": "secret_malformed",
        "openai/*/api_key/*/d": "invalid_tags",
    }
    assert await EnvironmentStore("env", variables, {}, LaterClock()).entries() == []
