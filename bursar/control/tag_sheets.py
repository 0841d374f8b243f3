"""Tags for many provider keys at once: all faults first, then all changes or none."""

from collections.abc import Sequence

import msgspec

from bursar.control.directory import Directory
from bursar.control.provider_keys import ProviderKeys
from bursar.control.tag_sheet import TagRow
from bursar.core.directory import Owner
from bursar.core.errors import Refusal
from bursar.core.provider_keys import UNASSIGNED, SecretEntry, check_tags
from bursar.core.strict import Fault, Faults, suggest


class Retagged(msgspec.Struct, frozen=True, kw_only=True):
    """What a row does to an entry. Tags that stay are not told."""

    line: int
    id: str
    address: str
    before: dict[str, str]
    after: dict[str, str]


class TagSheets:
    def __init__(self, directory: Directory, provider_keys: ProviderKeys) -> None:
        self._directory = directory
        self._provider_keys = provider_keys

    async def preview(self, rows: Sequence[TagRow]) -> list[Retagged]:
        """What would change. Raises Faults with every fault, its path being the line of the sheet."""
        entries = await self._provider_keys.all()
        known = {entry.id: entry for entry in entries} | {entry.address: entry for entry in entries}
        faults: list[Fault] = []
        found: dict[str, int] = {}
        changes = []
        for row in rows:
            entry = known.get(row.key)
            try:
                if entry is None:
                    raise Refusal(
                        "secret_not_found", f"There is no provider key {row.key[:200]}", "bursar secrets list"
                    )
                if entry.id in found:
                    message = f"{row.key} stands in line {found[entry.id]} already, by its other name"
                    raise Refusal("invalid_input", message, "Keep one of them")
                found[entry.id] = row.line
                self._check_owner(row)
                changes.append(_change(row, entry))
            except Refusal as refusal:
                faults.append(Fault(f"line {row.line}", refusal.word, refusal.message, refusal.hint))
        if faults:
            raise Faults(faults)
        return [change for change in changes if change.before != change.after]

    async def apply(self, actor: str, rows: Sequence[TagRow]) -> list[Retagged]:
        """Make it so: in one piece, as far as one store goes. Raises Faults, and the store's refusals."""
        changes = await self.preview(rows)
        await self._provider_keys.tag_many(
            actor,
            {
                change.id: {name: change.after.get(name) for name in {**change.before, **change.after}}
                for change in changes
            },
        )
        return changes

    def _check_owner(self, row: TagRow) -> None:
        owner = row.tags.get("billing_owner") or UNASSIGNED
        if owner != UNASSIGNED and self._directory.book.find(Owner, owner) is None:
            hint = suggest(owner, [one.id for one in self._directory.book.all(Owner)]) or "bursar owners list"
            raise Refusal("unknown_id", f"There is no owner {owner[:64]!r}", hint)


def _change(row: TagRow, entry: SecretEntry) -> Retagged:
    merged = {**entry.tags, **row.tags}
    after = check_tags({name: value for name, value in merged.items() if value is not None})
    differs = {name for name in {**entry.tags, **after} if entry.tags.get(name) != after.get(name)}
    return Retagged(
        line=row.line,
        id=entry.id,
        address=entry.address,
        before={name: entry.tags[name] for name in sorted(differs) if name in entry.tags},
        after={name: after[name] for name in sorted(differs) if name in after},
    )
