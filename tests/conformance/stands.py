"""Secret stores to be tried, each behind the same few handles: the store, and how somebody else would fill it."""

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bursar.core.layout import Layout, derived_id
from bursar.core.secret import Secret
from bursar.ports import SecretStore
from bursar.secrets.environment import EnvironmentStore, Variable
from bursar.secrets.mounted import Format, MountedStore

Seed = Callable[[str, Secret, Mapping[str, str]], Awaitable[str]]  # address, value, tags -> id


@dataclass
class Stand:
    """`seed` puts a value in, past the store where the store is not writable. `one_version`: it keeps no older one."""

    store: SecretStore
    seed: Seed
    replace: Seed
    one_version: bool = False
    destroys_versions: bool = True


async def put(store: SecretStore, address: str, value: Secret, tags: Mapping[str, str]) -> str:
    return (await store.put(address, value, tags))[0]


def writable(store: SecretStore, *, destroys_versions: bool = True) -> Stand:
    async def seed(address: str, value: Secret, tags: Mapping[str, str]) -> str:
        return await put(store, address, value, tags)

    return Stand(store, seed, seed, destroys_versions=destroys_versions)


class Mount:
    """A folder as the kubelet fills it: a new folder for each change, and one symlink that is swapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, bytes] = {}
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def set(self, files: Mapping[str, bytes | None]) -> None:
        """Change files (None removes), all at once."""
        merged = {**self._files, **files}
        self._files = {name: data for name, data in merged.items() if data is not None}
        self._count += 1
        made = self.folder / f"..2026_11_24_{self._count}"
        for name, data in self._files.items():
            file = made / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        made.mkdir(exist_ok=True)
        link = self.folder / "..data"
        old = link.resolve() if link.is_symlink() else None
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(made.name)
        fresh.replace(link)
        for name in self._files:
            top = self.folder / name.split("/")[0]
            if not top.is_symlink():
                top.symlink_to(f"..data/{top.name}")
        if old is not None:
            shutil.rmtree(old)


def mounted(folder: Path, kind: Format) -> Stand:
    mount, layout = Mount(folder / "mount"), Layout()
    store = MountedStore("disk", mount.folder, layout, kind=kind)

    async def seed(address: str, value: Secret, tags: Mapping[str, str]) -> str:
        await asyncio.sleep(0.01)  # a version is an instant of the file system's own, coarse clock
        place = layout.place_of(address)
        if kind == "json":
            mount.set({place: json.dumps({"value": value.reveal(), **tags}).encode()})
        else:
            mount.set({place: value.reveal().encode() + b"\n", place + ".tags.json": json.dumps(dict(tags)).encode()})
        return derived_id("disk", place)

    return Stand(store, seed, seed, one_version=True)


class LaterClock:
    """Each start of a process is a second later than the one before."""

    def __init__(self) -> None:
        self.ns = time.time_ns()

    def now(self) -> int:
        self.ns += 10**9
        return self.ns

    def monotonic(self) -> float:
        return self.ns / 1e9


def environment() -> Stand:
    variables: dict[str, Variable] = {}
    env: dict[str, str] = {}
    clock = LaterClock()
    stand: Stand

    async def seed(address: str, value: Secret, tags: Mapping[str, str]) -> str:
        name = "KEY_OF_" + address
        variables[name], env[name] = Variable(address=address, tags=dict(tags)), value.reveal()
        stand.store = EnvironmentStore("env", variables, env, clock)
        return derived_id("env", name)

    stand = Stand(EnvironmentStore("env", variables, env, clock), seed, seed, one_version=True)
    return stand
