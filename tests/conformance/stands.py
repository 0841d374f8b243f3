"""Secret stores to be tried, each behind the same few handles: the store, and how somebody else would fill it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from bursar.core.secret import Secret
from bursar.ports import SecretStore

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
