"""Billing owners: who pays and who is told. Every team has one."""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.naming import check_id, check_name, id_from
from bursar.core.directory import Owner, Team
from bursar.core.errors import Refusal

_MAX_CONTACTS = 20


class OwnerInput(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of an owner."""

    name: str
    contacts: tuple[str, ...] = ()


class Owners:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def all(self) -> list[Owner]:
        return self._directory.book.all(Owner)

    def get(self, owner_id: str) -> Owner:
        return self._directory.book.get(Owner, owner_id)

    async def create(self, actor: str, name: str, contacts: tuple[str, ...] = (), owner_id: str = "") -> Owner:
        """Refuses with invalid_input or already_exists."""
        made: list[Owner] = []

        def decide(book: Book) -> Change:
            taken = {owner.id for owner in book.all(Owner)}
            chosen = check_id(owner_id) if owner_id else id_from(name, taken)
            if chosen in taken:
                raise Refusal("already_exists", f"There is an owner {chosen!r} already", "Choose another --id")
            made[:] = [_apply(Owner(id=chosen, name=""), OwnerInput(name=name, contacts=contacts))]
            return Change(action="owner.create", target=f"owner/{chosen}", put=made)

        await self._directory.change(actor, decide)
        return made[0]

    async def update(self, actor: str, owner_id: str, edit: Callable[[Owner], OwnerInput]) -> Owner:
        """`edit` sees the owner as it is when its turn has come."""

        def decide(book: Book) -> Change:
            present = book.get(Owner, owner_id)
            owner = _apply(present, edit(present))
            return Change(action="owner.update", target=f"owner/{owner_id}", put=[owner])

        await self._directory.change(actor, decide)
        return self.get(owner_id)

    async def remove(self, actor: str, owner_id: str) -> None:
        """Only an owner without teams can go."""

        def decide(book: Book) -> Change:
            book.get(Owner, owner_id)
            teams = [team.id for team in book.all(Team) if team.owner_id == owner_id]
            if teams:
                message = f"The owner {owner_id!r} pays for {_some(teams)}"
                raise Refusal("in_use", message, f"bursar teams update {teams[0]} --owner ANOTHER")
            return Change(action="owner.remove", target=f"owner/{owner_id}", gone=[("owner", owner_id)])

        await self._directory.change(actor, decide)


def _apply(owner: Owner, given: OwnerInput) -> Owner:
    return replace(owner, name=check_name(given.name), contacts=check_contacts(given.contacts))


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def check_contacts(contacts: tuple[str, ...]) -> tuple[str, ...]:
    if len(contacts) > _MAX_CONTACTS:
        raise Refusal("invalid_input", f"An owner has at most {_MAX_CONTACTS} contacts", "Use a mailing list")
    return tuple(dict.fromkeys(check_name(contact) for contact in contacts))
