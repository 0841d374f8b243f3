"""Who may enter the admin API besides the node's own token: people and programs, each with a role and an end.

Like a virtual key, an admin token is shown once and kept as a keyed digest. The node's own token (`admin.token` in the
data folder) is no entry here: whoever owns the folder stays able to enter, whatever is done to the entries.
"""

import msgspec
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.naming import check_name
from bursar.core.directory import Admin
from bursar.core.errors import Refusal
from bursar.core.roles import Caller, Role
from bursar.core.secret import Secret
from bursar.core.tokens import digest, mint, parse
from bursar.ports import Entropy


class MintedAdmin(msgspec.Struct, frozen=True):
    """An entry and the text of its token, to be shown once."""

    admin: Admin
    text: Secret


class Admins:
    """`pepper` keys the digests."""

    def __init__(self, directory: Directory, entropy: Entropy, pepper: bytes) -> None:
        self._directory = directory
        self._entropy = entropy
        self._pepper = pepper

    def all(self) -> list[Admin]:
        return self._directory.book.all(Admin)

    def get(self, admin_id: str) -> Admin:
        return self._directory.book.get(Admin, admin_id)

    def recognise(self, text: str) -> Caller | None:
        """Whose token this is; None when it is nobody's. Raises Refusal(admin_token_expired) for one that is over."""
        parsed = parse(text)
        admin = self._directory.book.find(Admin, parsed.public_id) if parsed and parsed.kind == "admin" else None
        if admin is None or admin.digest != digest(text, self._pepper):  # both keyed: timing tells nothing of the text
            return None
        if admin.disabled or (admin.expires_at is not None and admin.expires_at <= self._directory.now()):
            how = "was switched off" if admin.disabled else "has expired"
            raise Refusal("admin_token_expired", f"The admin token {admin.id} {how}", "Ask an admin for another")
        return Caller(f"admin:{admin.id}", admin.role)

    async def create(self, actor: str, name: str, role: Role, expires_at: int | None) -> MintedAdmin:
        """Refuses with invalid_input. `expires_at` is ns since the epoch, None = never."""
        admin_id, text = mint(self._entropy, "admin")
        made: list[Admin] = []

        def decide(book: Book) -> Change:
            if book.find(Admin, admin_id):
                raise Refusal("already_exists", "An admin with this id exists", "Repeat: another id will be drawn")
            if expires_at is not None and expires_at <= self._directory.now():
                raise Refusal(
                    "invalid_input", "The token would have expired already", "Give --expires 90d, for example"
                )
            keyed = digest(text.reveal(), self._pepper)
            made[:] = [Admin(id=admin_id, name=check_name(name), role=role, digest=keyed, expires_at=expires_at)]
            return Change(action="admin.create", target=f"admin/{admin_id}", put=made, facts={"role": role})

        await self._directory.change(actor, decide)
        return MintedAdmin(made[0], text)

    async def set_role(self, actor: str, admin_id: str, role: Role) -> Admin:
        def decide(book: Book) -> Change:
            before = book.get(Admin, admin_id)
            facts: dict[str, str | int] = {"role": role, "before": before.role}
            return Change(
                action="admin.role", target=f"admin/{admin_id}", put=[replace(before, role=role)], facts=facts
            )

        await self._directory.change(actor, decide)
        return self.get(admin_id)

    async def set_disabled(self, actor: str, admin_id: str, disabled: bool) -> Admin:
        """Takes effect at his next call."""

        def decide(book: Book) -> Change:
            admin = replace(book.get(Admin, admin_id), disabled=disabled)
            action = "admin.disable" if disabled else "admin.enable"
            return Change(action=action, target=f"admin/{admin_id}", put=[admin])

        await self._directory.change(actor, decide)
        return self.get(admin_id)

    async def remove(self, actor: str, admin_id: str) -> None:
        def decide(book: Book) -> Change:
            admin = book.get(Admin, admin_id)
            facts: dict[str, str | int] = {"role": admin.role}
            return Change(action="admin.remove", target=f"admin/{admin_id}", gone=[("admin", admin_id)], facts=facts)

        await self._directory.change(actor, decide)
