"""What changed in the directory, field by field, and how a change is taken back.

An undo is a change like any other: it is decided on the present book, audited, versioned, and can be undone itself. It
is refused where something was changed again since, and for what has no way back: what was created is removed by its
own command, a removed key or admin is gone for ever, tags of provider keys are sealed into their ciphertext.

What files did (`bursar apply`, `rollback`) is taken back as a whole: what they created goes, what they removed returns.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.manifest_ahead import Ahead, leaning_on
from bursar.control.provider_keys import IMPORT
from bursar.core.directory import BudgetDef, Edit, Entity, Kind, Owner, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.units import pico_to_usd

_RESTORABLE: frozenset[Kind] = frozenset({"owner", "team", "grant", "deployment", "managed"})  # return after a removal
_WITHOUT_UNDO: dict[Kind, str] = {
    "provider_key": "See `bursar secrets tag`, `enable`, `disable`",
    "price": "A price is never taken back: append another with `bursar prices set`",
    "token_key": "Rotate again: `bursar tokens rotate-signing-key`",
    "token_mark": "A token that was revoked or used up stays so: exchange for another",
}
_REMOVED_BY: dict[Kind, str] = {
    "trust": "trust remove",
    "grant": "secrets revoke",
    "deployment": "models unmap",
    "breaker": "breakers close",
    "managed": "managed release",
}  # where it is not the plural
_HIDDEN = frozenset({"digest", "secrets"})
_NEWEST = 2**62


class Difference(msgspec.Struct, frozen=True):
    """One field that changed, as text; "" = it said nothing."""

    field: str
    before: str
    after: str


def differences(edit: Edit) -> list[Difference]:
    """What a person would want to see of an edit; never a digest."""
    before, after = dict(_fields(edit.before)), dict(_fields(edit.after))
    names = list(dict.fromkeys([*before, *after]))
    return [
        Difference(name, before.get(name, ""), after.get(name, ""))
        for name in names
        if before.get(name, "") != after.get(name, "")
    ]


def why_no_undo(edit: Edit) -> Refusal | None:
    """None where the change has a way back, as far as the edit itself tells."""
    subject = f"{edit.kind}/{edit.id}"
    if is_whole(edit.action):
        return None
    if edit.action == IMPORT:
        return Refusal("no_undo", f"{edit.action} has an undo of its own", f"bursar import undo {edit.version}")
    if edit.kind in _WITHOUT_UNDO:
        return Refusal("no_undo", f"{edit.action} of {subject} has no undo", _WITHOUT_UNDO[edit.kind])
    if edit.before is None:
        return Refusal(
            "no_undo",
            f"{subject} was created by it",
            f"Remove it: bursar {_REMOVED_BY.get(edit.kind, edit.kind + 's remove')} {edit.id}",
        )
    if edit.after is None and edit.kind not in _RESTORABLE:
        return Refusal("no_undo", f"{subject} was removed for ever", "Create another")
    return None


class History:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def page(
        self, limit: int, before: int | None = None, subject: tuple[Kind, str] | None = None
    ) -> Sequence[Edit]:
        """The newest `limit` versions below `before`, newest first; several edits may be of one version."""
        return await self._directory.history(before or _NEWEST, limit, subject)

    async def of_version(self, version: int) -> list[Edit]:
        """Raises Refusal(unknown_id)."""
        found = [edit for edit in await self._directory.history(version + 1, 1) if edit.version == version]
        if not found:
            raise Refusal("unknown_id", f"The directory has no change {version}", "See: bursar history")
        return found

    async def undo(self, actor: str, version: int) -> None:
        """Raises Refusal(unknown_id | no_undo | changed_since)."""
        edits = await self.of_version(version)

        def decide(book: Book) -> Change:
            facts: dict[str, str | int] = {"undoes": version}
            change = Change(action=f"{edits[0].action}.undo", target=f"{edits[0].kind}/{edits[0].id}", facts=facts)
            if is_whole(edits[0].action):
                put, gone = _whole_taken_back(book, edits)
                return replace(change, target=f"directory/{version}", put=put, gone=gone, by_git=True)
            return replace(change, put=[_taken_back(book, edit) for edit in edits])

        await self._directory.change(actor, decide)


def is_whole(action: str) -> bool:
    """Whether a change was one of files, of many objects at once; or one whose mark goes as it came."""
    return action.partition(".")[0] in ("apply", "rollback", "breaker")


def _whole_taken_back(book: Book, edits: Sequence[Edit]) -> tuple[list[Entity], list[tuple[Kind, str]]]:
    """What to put and what to remove. Raises Refusal(changed_since | in_use | unknown_id)."""
    put: list[Entity] = []
    gone: list[tuple[Kind, str]] = []
    for edit in edits:
        if edit.before is not None:
            put.append(_taken_back(book, edit))
        elif isinstance(edit.after, BudgetDef):  # its id stays taken
            _check_unchanged(book, edit)
            put.append(replace(edit.after, deleted=True, version=edit.after.version + 1))
        else:
            _check_unchanged(book, edit)
            gone.append((edit.kind, edit.id))
    check_stands(book, put, gone)
    return put, gone


def check_stands(book: Book, put: Sequence[Entity], gone: Sequence[tuple[Kind, str]]) -> None:
    """That nothing is left without what it leans on. Raises Refusal(in_use | unknown_id)."""
    ahead = Ahead(book)
    for kind, name in gone:
        ahead.remove(kind, name)
    for entity in put:
        ahead.put(entity)
    for kind, name in gone:
        if needed := leaning_on(ahead, kind, name):
            hint = "Remove that first, or take it back as well"
            raise Refusal("in_use", f"{kind}/{name} would go, and {needed} still needs it", hint)
    for entity in put:
        if isinstance(entity, Team):
            ahead.get(Owner, entity.owner_id)
        elif isinstance(entity, VirtualKey):
            ahead.get(Team, entity.team_id)


def _taken_back(book: Book, edit: Edit) -> Entity:
    """The entity as it was. Raises Refusal(no_undo | changed_since | unknown_id)."""
    refusal = why_no_undo(edit)
    if refusal is not None:
        raise refusal
    present, entity = book.at(edit.kind, edit.id), edit.before
    assert entity is not None
    _check_unchanged(book, edit)
    if isinstance(entity, BudgetDef) and isinstance(present, BudgetDef):
        return replace(entity, version=present.version + 1)  # a definition is never taken back, only followed
    if isinstance(entity, Team) and not is_whole(edit.action):
        book.get(Owner, entity.owner_id)
    return entity


def _check_unchanged(book: Book, edit: Edit) -> None:
    """Raises Refusal(changed_since)."""
    if book.at(edit.kind, edit.id) != edit.after:
        hint = f"See: bursar history --of {edit.kind}/{edit.id}"
        raise Refusal("changed_since", f"{edit.kind}/{edit.id} was changed again after {edit.version}", hint)


def _fields(entity: Entity | None) -> Iterator[tuple[str, str]]:
    if entity is None:
        return
    # With what is left at its default, which is not written: a person wants to see that a field was false.
    own = {field: getattr(entity, field) for field in entity.__struct_fields__}
    plain: dict[str, Any] = {name: msgspec.to_builtins(value) for name, value in own.items()}
    yield from _flat("", {name: value for name, value in plain.items() if name not in _HIDDEN})
    for name in sorted(_HIDDEN & plain.keys()):
        yield name, f"(digest {hashlib.sha256(msgspec.json.encode(plain[name])).hexdigest()[:8]})"


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Nested fields by their paths, without those that say nothing."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}" if path else name, inner)
    elif value not in (None, [], ()):
        if path.endswith("_pico"):
            yield f"{path.removesuffix('_pico')}_usd", pico_to_usd(value)
        else:
            yield path, value if isinstance(value, str) else msgspec.json.encode(value).decode()
