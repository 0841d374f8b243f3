"""Provider keys: put, tag, switch off, destroy. The secret store holds value and tags, the directory what gateways see.

The store's entries are the truth; the directory follows them (`sync`), also at start, so that a crash between the two
heals by itself. Every act is audited before it touches the store.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from bursar.control.directory import CARRIED_OUT, Audit, Book, Change, Directory, Facts
from bursar.control.unbroken import Unbroken
from bursar.core.directory import Edit, Owner, ProviderKey
from bursar.core.errors import Refusal
from bursar.core.key_shapes import unknown_shape
from bursar.core.provider_keys import (
    UNASSIGNED,
    Put,
    SecretEntry,
    StoreState,
    check_address,
    check_tags,
    provider_key_of,
)
from bursar.core.secret import Secret
from bursar.core.strict import suggest

T = TypeVar("T")
IMPORT = "provider_key.import"
"""The change of the directory that follows `put_many`; by its number it is taken back."""


class ProviderKeyStore(Protocol):
    """What is needed of the stores (`bursar.secrets.stores`). Each call raises Refusal with the stores' words."""

    @property
    def away(self) -> Mapping[str, Refusal]:
        """By name, those that did not answer to the last `entries`."""
        ...

    async def put(
        self,
        address: str,
        value: Secret,
        tags: Mapping[str, str],
        allow_duplicate: bool = False,
        secret_id: str | None = None,
        *,
        store: str = "",
    ) -> tuple[str, int]: ...

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]: ...

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int: ...

    async def find(self, value: Secret) -> SecretEntry | None: ...

    async def get(self, secret_id: str, version: int | None = None) -> Secret: ...

    async def entry(self, secret_id: str) -> SecretEntry: ...

    async def entries(self) -> list[SecretEntry]: ...

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry: ...

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]: ...

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry: ...

    async def destroy(self, secret_id: str, version: int | None = None) -> None: ...

    async def move(self, secret_id: str, store: str) -> SecretEntry: ...

    def states(self) -> list[StoreState]: ...


class ProviderKeys:
    """`providers` are the names that this node's configuration knows; an address for another is a slip.

    `may_reveal`: whether this node lets a value out in clear at all; who may ask for it is the door's matter.
    """

    def __init__(
        self,
        directory: Directory,
        store: ProviderKeyStore,
        audit: Audit,
        providers: Collection[str] = (),
        *,
        may_reveal: bool = False,
    ) -> None:
        self._directory = directory
        self._store = store
        self._audit = audit
        self._providers = providers
        self._may_reveal = may_reveal
        self._odd: set[tuple[str, int]] = set()  # versions whose value looks like no key that is known
        self._turn = asyncio.Lock()
        self._unbroken = Unbroken()

    async def all(self) -> list[SecretEntry]:
        return await self._store.entries()

    async def get(self, secret_id: str) -> SecretEntry:
        return await self._store.entry(secret_id)

    async def unowned(self) -> list[SecretEntry]:
        """Entries that nobody pays for yet: flagged until tagged."""
        return [entry for entry in await self._store.entries() if entry.unowned]

    def stores(self) -> list[StoreState]:
        """The secret stores of this node, as last seen."""
        return self._store.states()

    def flags(self, entry: SecretEntry) -> tuple[str, ...]:
        """What somebody should look at: unowned, unknown_owner, unknown_shape, or the word why the entry is closed."""
        owner = entry.tags.get("billing_owner", UNASSIGNED)
        flags = {
            "unowned": entry.unowned,
            "unknown_owner": not entry.unowned and self._directory.book.find(Owner, owner) is None,
            "unknown_shape": (entry.id, entry.version) in self._odd,
            entry.fault: bool(entry.fault),
        }
        return tuple(flag for flag, holds in flags.items() if holds)

    def look_at(self, entry: SecretEntry, version: int, value: Secret) -> bool:
        """Remember whether a value looks like no key that is known: accepted (providers change theirs), but flagged."""
        odd = unknown_shape(entry.address, value)
        (self._odd.add if odd else self._odd.discard)((entry.id, version))
        return odd

    async def put(
        self,
        actor: str,
        address: str,
        value: Secret,
        tags: Mapping[str, str],
        *,
        allow_duplicate: bool = False,
        store: str = "",
    ) -> SecretEntry:
        """A new entry, or a new version of the one at this address. Without a billing owner it is `unassigned`.

        `store`: where a new entry goes; "" = the default one.
        """
        clean = self.checked(Put(address, value, tags)).tags

        async def put() -> SecretEntry:
            secret_id, version = await self._store.put(address, value, clean, allow_duplicate, store=store)
            entry = await self._store.entry(secret_id)
            self.look_at(entry, version, value)
            return entry

        facts = _put_facts(Put(address, value, clean))
        if store:
            facts["store"] = store
        return await self._act(actor, "secret.put", f"secret/{address}", put, facts)

    def checked(self, put: Put) -> Put:
        """With clean tags. Raises Refusal(invalid_address | invalid_tags | unknown_id | invalid_secret)."""
        self._check_provider(check_address(put.address))
        clean = check_tags(put.tags)
        self._check_owner(clean)
        _check_not_shown(put.value, (put.address, *clean, *clean.values()))
        return put._replace(tags=clean)

    async def find(self, value: Secret) -> SecretEntry | None:
        """The entry that holds this value already."""
        return await self._store.find(value)

    async def put_many(self, actor: str, puts: Sequence[Put]) -> int:
        """`put` for several: all of them or none, and one change of the directory -> its version."""
        checked = [self.checked(put) for put in puts]

        async def whole() -> int:
            async with self._turn:
                await self.sync(actor)  # what was different already is no part of this change
                for put in checked:
                    await self._audit.append(actor, "secret.put", f"secret/{put.address}", _put_facts(put))
                try:
                    done = await self._store.put_many(checked)
                except Refusal as refusal:
                    for put in checked:
                        facts: Facts = {"word": refusal.word}
                        await self._audit.append(actor, "secret.put", f"secret/{put.address}", facts, "failed")
                    raise
                for put, (secret_id, version) in zip(checked, done, strict=True):
                    self.look_at(await self._store.entry(secret_id), version, put.value)
                await self.sync(actor, action=IMPORT)
                return _version_of(CARRIED_OUT.get())

        return await self._unbroken.run(whole())

    async def take_back(self, actor: str, edits: Sequence[Edit]) -> list[str]:
        """What `put_many` did: new entries are shredded, others have the value from before again -> their addresses.

        Again after it broke off, it goes on. Raises Refusal(changed_since).
        """

        async def whole() -> list[str]:
            async with self._turn:
                await self.sync(actor)
                open_ends = [edit for edit in edits if not await self._is_taken_back(edit)]
                before = {
                    edit.id: await self._store.get(edit.id, edit.before.version)
                    for edit in open_ends
                    if isinstance(edit.before, ProviderKey)
                }
                for edit in open_ends:
                    action = "secret.put" if edit.id in before else "secret.destroy"
                    await self._audit.append(actor, action, f"secret/{edit.id}", {"undoes": edit.version})
                    if edit.id in before:
                        await self._store.put_version(edit.id, before[edit.id], allow_duplicate=True)
                    else:
                        await self._store.destroy(edit.id)
                await self.sync(actor)
                return [edit.after.address for edit in edits if isinstance(edit.after, ProviderKey)]

        return await self._unbroken.run(whole())

    async def _is_taken_back(self, edit: Edit) -> bool:
        """Whether nothing is left to do. Raises Refusal(changed_since)."""
        present = self._directory.book.at("provider_key", edit.id)
        if present == edit.after:
            return False
        if present is None and edit.before is None:
            return True
        if isinstance(present, ProviderKey) and isinstance(edit.before, ProviderKey):
            now, then = [await self._store.get(edit.id, version) for version in (None, edit.before.version)]
            if now == then:
                return True
        hint = f"See: bursar history --of provider_key/{edit.id}"
        raise Refusal("changed_since", f"The provider key {edit.id} was changed again after {edit.version}", hint)

    async def tag(self, actor: str, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry:
        """Set tags; None removes one. Every version is sealed anew under them."""
        self._check_owner({name: value for name, value in changes.items() if value is not None})
        act = lambda: self._store.tag(secret_id, changes)  # noqa: E731
        return await self._act(actor, "secret.tag", f"secret/{secret_id}", act, _changed_facts(changes))

    async def tag_many(self, actor: str, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
        """`tag` for several entries, all or none; one record for each in the audit."""
        if not changes:
            return []
        for tags in changes.values():
            self._check_owner({name: value for name, value in tags.items() if value is not None})
        *others, (last, tags) = changes.items()
        for secret_id, given in others:
            await self._audit.append(actor, "secret.tag", f"secret/{secret_id}", _changed_facts(given))
        act = lambda: self._store.tag_many(changes)  # noqa: E731
        return await self._act(actor, "secret.tag", f"secret/{last}", act, _changed_facts(tags))

    async def set_disabled(self, actor: str, secret_id: str, disabled: bool) -> SecretEntry:
        action = "secret.disable" if disabled else "secret.enable"
        return await self._act(
            actor, action, f"secret/{secret_id}", lambda: self._store.set_disabled(secret_id, disabled), {}
        )

    async def destroy(self, actor: str, secret_id: str, version: int | None = None) -> None:
        """Shred one version that is not current, or the entry with all of them. There is no undo."""
        facts: Facts = {} if version is None else {"version": version}
        await self._act(
            actor, "secret.destroy", f"secret/{secret_id}", lambda: self._store.destroy(secret_id, version), facts
        )

    async def move(self, actor: str, secret_id: str, store: str) -> SecretEntry:
        """Into another store, under the same id; the copy is read back before the original is destroyed."""
        return await self._act(
            actor, "secret.move", f"secret/{secret_id}", lambda: self._store.move(secret_id, store), {"store": store}
        )

    async def reveal(self, actor: str, secret_id: str, version: int | None, reason: str) -> tuple[SecretEntry, Secret]:
        """The value in clear, for a person: on record first. Raises Refusal(reveal_not_allowed) unless that is on."""
        target, facts = f"secret/{secret_id}", {"version": version or "current", "reason": reason}
        if not self._may_reveal:
            await self._audit.append(actor, "secret.reveal", target, {**facts, "word": "reveal_not_allowed"}, "refused")
            hint = "It is off by default: secrets.reveal in bursar.yaml"
            raise Refusal("reveal_not_allowed", "This node lets no value out in clear", hint)
        entry = await self._store.entry(secret_id)
        await self._audit.append(actor, "secret.reveal", target, {**facts, "address": entry.address})
        return entry, await self._store.get(secret_id, version)

    async def sync(self, actor: str = "control", target: str = "secret/*", action: str = "provider_key.sync") -> int:
        """Bring the directory in line with the store -> how many entries differed."""
        # One whose address cannot be read is listed, but no gateway learns of it: they take addresses apart.
        found = [entry for entry in await self._store.entries() if entry.fault != "invalid_address"]
        entries = {entry.id: provider_key_of(entry) for entry in found}
        differed = 0

        def decide(book: Book) -> Change:
            nonlocal differed
            put = [key for key in entries.values() if book.differs(key)]
            away = self._store.away  # what lies there is not gone because nobody answers
            gone = [key.id for key in book.all(ProviderKey) if key.id not in entries and key.store not in away]
            differed = len(put) + len(gone)
            return Change(
                action=action,
                target=target,
                put=put,
                gone=[("provider_key", key_id) for key_id in gone],
                facts={"changed": len(put), "gone": len(gone)},
            )

        await self._directory.change(actor, decide)
        return differed

    async def _act(self, actor: str, action: str, target: str, act: Callable[[], Awaitable[T]], facts: Facts) -> T:
        """Audit, act on the store, let the directory follow; to its end, even if the caller leaves meanwhile."""

        async def whole() -> T:
            async with self._turn:
                await self._audit.append(actor, action, target, facts)
                try:
                    result = await act()
                except Refusal as refusal:
                    await self._audit.append(actor, action, target, {"word": refusal.word}, "failed")
                    raise
                await self.sync(actor, target)
                return result

        return await self._unbroken.run(whole())

    def _check_provider(self, address: str) -> None:
        provider = address.partition("/")[0]
        if self._providers and provider not in self._providers:
            message = f"No provider is called {provider!r} in this node's configuration"
            raise Refusal("invalid_address", message, suggest(provider, self._providers))

    def _check_owner(self, tags: Mapping[str, str]) -> None:
        owner_id = tags.get("billing_owner", UNASSIGNED)
        if owner_id != UNASSIGNED:
            self._directory.book.get(Owner, owner_id)


def _put_facts(put: Put) -> dict[str, str | int]:
    return _tag_facts(put.tags) | {"shape": "unknown" if unknown_shape(put.address, put.value) else "known"}


def _version_of(edits: Sequence[Edit]) -> int:
    return edits[0].version if edits else 0


def _changed_facts(changes: Mapping[str, str | None]) -> dict[str, str | int]:
    return _tag_facts({name: value or "(removed)" for name, value in changes.items()})


def _tag_facts(tags: Mapping[str, str]) -> dict[str, str | int]:
    return {f"tag.{name}": value for name, value in tags.items()}


def _check_not_shown(value: Secret, shown: tuple[str, ...]) -> None:
    """Address and tags go to the audit before the store looks at them: the value must not ride along."""
    if any(value.reveal() and value.reveal() in text for text in shown):
        message = "The value also stands in the address or a tag, which are not sealed"
        raise Refusal("invalid_secret", message, "Give the value on standard input only")
