"""Several secret stores at once: each entry lies in one of them, new ones in the default one, and it can be moved.

It is itself a `bursar.ports.SecretStore`, so that nobody behind it needs to know how many there are.
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from bursar.core.errors import Refusal
from bursar.core.provider_keys import Put, SecretEntry, StoreState, check_apart
from bursar.core.secret import Secret
from bursar.core.strict import suggest
from bursar.ports import SecretStore
from bursar.secrets.cache import CachedStore, Tended

_IDLE_S = 30.0


@runtime_checkable
class Twinned(Protocol):
    """A store that notices equal values by their fingerprints."""

    async def twins(self) -> list[tuple[str, ...]]: ...


class Stores:
    """`stores` in the order in which they are looked through; `default` is the name of the one for new entries.

    `lies_in` tells what the directory knows of an entry: it is asked while the entry's store is away.
    """

    name = "*"
    writable = True

    def __init__(
        self,
        stores: Sequence[SecretStore],
        default: str = "",
        lies_in: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._stores = {store.name: store for store in stores}
        self._default = default or stores[0].name
        self.lies_in = lies_in
        self._seen: dict[str, str] = {}  # id -> store
        self.away: dict[str, Refusal] = {}  # stores that did not answer when they were last asked for all entries

    def states(self) -> list[StoreState]:
        """How each of them is, as last seen."""
        found = []
        for name, store in self._stores.items():
            fault = store.fault if isinstance(store, CachedStore) else None
            fault = fault or self.away.get(name)
            found.append(
                StoreState(
                    name=name,
                    writable=store.writable,
                    default=name == self._default,
                    fault=fault.word if fault else "",
                    message=fault.message if fault else "",
                    stale_answers=store.stale_answers if isinstance(store, CachedStore) else 0,
                )
            )
        return found

    async def tend(self) -> float:
        """Let each renew what it has -> seconds until the next time."""
        due = [await store.tend() for store in self._stores.values() if isinstance(store, Tended)]
        return max(0.2, min(due, default=_IDLE_S))

    async def close(self) -> None:
        """Give back leases and logins."""
        for store in self._stores.values():
            if isinstance(store, Tended):
                await store.close()

    # ---- reading

    async def entries(self) -> list[SecretEntry]:
        """Entries of all stores that answer, by address; `away` tells who did not. An id counts where first seen."""
        found: dict[str, SecretEntry] = {}
        away = {}
        for name, store in self._stores.items():
            try:
                for entry in await store.entries():
                    found.setdefault(entry.id, entry)
            except Refusal as refusal:
                away[name] = refusal
        self.away = away
        self._seen = {secret_id: entry.store for secret_id, entry in found.items()}
        return sorted(found.values(), key=lambda entry: (entry.address, entry.id))

    async def entry(self, secret_id: str) -> SecretEntry:
        return await (await self._of(secret_id)).entry(secret_id)

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        return await (await self._of(secret_id)).get(secret_id, version)

    async def find(self, value: Secret) -> SecretEntry | None:
        for store in self._stores.values():
            found = await store.find(value)
            if found is not None:
                return found
        return None

    async def twins(self) -> list[tuple[str, ...]]:
        """Addresses under which the same value is stored, as far as a store can tell without opening it."""
        return [twin for store in self._stores.values() if isinstance(store, Twinned) for twin in await store.twins()]

    # ---- writing

    async def put(
        self,
        address: str,
        value: Secret,
        tags: Mapping[str, str],
        allow_duplicate: bool = False,
        secret_id: str | None = None,
        *,
        store: str = "",
    ) -> tuple[str, int]:
        """A new version of the entry at this address, wherever it lies; a new entry in `store`, "" = the default one.

        Raises Refusal, besides the store's own words: store_unknown, already_exists (it lies in another store).
        """
        goal = self._named(store or self._default)
        present = next((entry for entry in await self.entries() if entry.address == address), None)
        if present is not None and store and present.store != store:
            hint = f"Move it there: bursar secrets move {present.id} {store}"
            raise Refusal("already_exists", f"The entry of this address lies in {present.store}", hint)
        if present is not None:
            goal = self._stores[present.store]
        elif goal.name in self.away:
            raise self.away[goal.name]
        await self._check_duplicate(value, allow_duplicate, goal)
        found, version = await goal.put(address, value, tags, allow_duplicate, secret_id)
        self._seen[found] = goal.name
        return found, version

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]:
        """All or none, in one store: the default one, or the one in which the entries of these addresses lie.

        Raises Refusal(store_unsupported) where they would go to several: nothing makes those one act.
        """
        check_apart(puts)
        lies_in = {entry.address: entry.store for entry in await self.entries()}
        goals = {lies_in.get(put.address, self._default) for put in puts}
        if len(goals) > 1:
            message = f"They would go to several stores at once: {', '.join(sorted(goals))}"
            raise Refusal("store_unsupported", message, "Take those apart, or put them one by one: bursar secrets put")
        for name in goals:
            goal = self._named(name)
            if name in self.away:
                raise self.away[name]
            for put in puts:
                await self._check_duplicate(put.value, False, goal)
            done = await goal.put_many(puts)
            self._seen |= {secret_id: name for secret_id, _ in done}
            return done
        return []

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int:
        store = await self._of(secret_id)
        await self._check_duplicate(value, allow_duplicate, store)
        return await store.put_version(secret_id, value, allow_duplicate)

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        return await (await self._of(secret_id)).tag(secret_id, changes)

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
        """Store by store: all or none within one that can promise that."""
        groups: dict[str, dict[str, Mapping[str, str | None]]] = {}
        for secret_id, changed in changes.items():
            groups.setdefault((await self._of(secret_id)).name, {})[secret_id] = changed
        tagged = {
            entry.id: entry for name, group in groups.items() for entry in await self._stores[name].tag_many(group)
        }
        return [tagged[secret_id] for secret_id in changes]

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry:
        return await (await self._of(secret_id)).set_disabled(secret_id, disabled)

    async def destroy(self, secret_id: str, version: int | None = None) -> None:
        await (await self._of(secret_id)).destroy(secret_id, version)

    async def move(self, secret_id: str, store: str) -> SecretEntry:
        """Into another store, under the same id: written there, read back, compared, and only then destroyed here.

        Every version that opens goes along, oldest first. Whatever fails before the last step leaves the entry where
        it was. Raises Refusal: store_unknown, store_read_only, already_exists, move_unverified, the stores' own.
        """
        goal = self._named(store)
        entry = await self._elsewhere(secret_id, goal)
        if entry is None:
            return await goal.entry(secret_id)  # it is there already, or nowhere
        source = self._stores[entry.store]
        _check_movable(entry, source, goal)
        await source.set_disabled(secret_id, entry.disabled)  # changes nothing: may it be changed there at all?
        taken = next((one for one in await goal.entries() if one.address == entry.address), None)
        if taken is not None and taken.id != secret_id:
            raise Refusal("already_exists", f"{store} has another entry of this address", "Destroy or move that first")
        live = [v.version for v in entry.versions if v.state in ("previous", "current")]
        for number in sorted(live, key=lambda number: (number == entry.version, number)):
            await _copy(source, goal, entry, number)
        if entry.disabled:
            await goal.set_disabled(secret_id, True)
        moved = await goal.entry(secret_id)
        if (moved.address, moved.tags, moved.disabled) != (entry.address, entry.tags, entry.disabled):
            raise _unverified(entry, goal)
        await source.destroy(secret_id)
        self._seen[secret_id] = store
        return moved

    # ---- inside

    def _named(self, name: str) -> SecretStore:
        if name not in self._stores:
            raise Refusal("store_unknown", f"No secret store is called {name[:64]!r}", suggest(name, self._stores))
        return self._stores[name]

    async def _elsewhere(self, secret_id: str, goal: SecretStore) -> SecretEntry | None:
        """The entry as it lies in any other store; also when a move that broke off has left a copy in the goal."""
        for store in self._stores.values():
            if store is not goal:
                found = next((entry for entry in await store.entries() if entry.id == secret_id), None)
                if found is not None:
                    return found
        return None

    async def _of(self, secret_id: str) -> SecretStore:
        """The store of an entry. One that nobody has seen is looked for. Raises Refusal(secret_not_found)."""
        name = self._seen.get(secret_id)
        if name is None:
            await self.entries()
            name = self._seen.get(secret_id) or self.lies_in(secret_id)
        if name is not None and name in self._stores:
            return self._stores[name]
        for refusal in self.away.values():
            raise refusal  # it may lie there: that there is none cannot be said
        hint = "See: bursar secrets list"
        raise Refusal("secret_not_found", f"There is no provider key {secret_id[:64]!r}", hint)

    async def _check_duplicate(self, value: Secret, allowed: bool, goal: SecretStore) -> None:
        """The same value in another store; the goal looks in itself. A store that is away cannot tell."""
        for store in self._stores.values():
            if allowed or store is goal or store.name in self.away:
                continue
            holder = await store.find(value)
            if holder is not None:
                raise Refusal(
                    "duplicate_secret",
                    f"The same provider key is already stored as {holder.address} in {holder.store}",
                    "Use that entry, or allow the duplicate",
                    facts={"secret": holder.id, "address": holder.address, "store": holder.store},
                )


async def _copy(source: SecretStore, goal: SecretStore, entry: SecretEntry, number: int) -> None:
    """One version, read back from where it was written. Raises Refusal(move_unverified)."""
    value = await source.get(entry.id, number)
    _, written = await goal.put(entry.address, value, entry.tags, True, entry.id)
    back = await goal.get(entry.id, written)
    if not hmac.compare_digest(_raw(back), _raw(value)):
        raise _unverified(entry, goal)


def _raw(value: Secret) -> bytes:
    return value.reveal().encode("utf-8", "surrogatepass")


def _unverified(entry: SecretEntry, goal: SecretStore) -> Refusal:
    message = f"What was written to {goal.name} did not read back the same; the entry stays in {entry.store}"
    return Refusal("move_unverified", message, f"Look at the copy in {goal.name}, then move again")


def _check_movable(entry: SecretEntry, source: SecretStore, goal: SecretStore) -> None:
    for store, hint in ((source, "Store it anew with `bursar secrets put`"), (goal, "Choose another store")):
        if not store.writable:
            raise Refusal("store_read_only", f"The secret store {store.name} can only be read", hint)
    if entry.fault or not entry.version:
        word = entry.fault or "secret_not_found"
        raise Refusal(word, "The entry cannot be used as it lies there", f"Mend it in {entry.store} first")
