"""Grants: who may do what with which provider keys, kept in the directory, checked in one place."""

from collections.abc import Mapping, Sequence

import msgspec

from bursar.control.directory import Book, Change, Directory, Lookup
from bursar.control.naming import id_from
from bursar.control.policy_export import Export, Place, export_aws, export_vault
from bursar.core.access import ACTS, check_access, check_path, check_subject
from bursar.core.directory import AccessGrant, Act, Admin, Team
from bursar.core.errors import Refusal
from bursar.core.roles import RIGHTS, Caller

_MOST = 1000


class GrantTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of a grant. `expires_at` is ns since the epoch; None = never."""

    subject: str
    acts: tuple[Act, ...]
    path: str
    tags: dict[str, str] = {}
    expires_at: int | None = None


class Access:
    """`places`: where the stores of a kind ("vault", "aws") keep our entries."""

    def __init__(self, directory: Directory, places: Mapping[str, Sequence[Place]] | None = None) -> None:
        self._directory = directory
        self._places = places or {}

    def all(self) -> list[AccessGrant]:
        return self._directory.book.all(AccessGrant)

    def require(self, caller: Caller, act: Act, address: str, tags: Mapping[str, str]) -> None:
        """Raises Refusal(access_denied)."""
        check_access(self.all(), caller, act, address, tags, self._directory.now())

    def export(self, target: str, store: str = "") -> Export:
        """The rules as the policy of the stores of a kind. Raises Refusal(store_unknown | template_unsafe)."""
        places = [place for place in self._places.get(target, ()) if store in ("", place.name)]
        if not places:
            named = f"no store {store!r} of the kind {target}" if store else f"no store of the kind {target}"
            raise Refusal("store_unknown", f"This node has {named}", f"Name one in bursar.yaml: secrets.{target}")
        return (export_vault if target == "vault" else export_aws)(places, self.all())

    async def grant(self, actor: str, terms: GrantTerms) -> AccessGrant:
        """Refuses with invalid_input or unknown_id (subject)."""
        made: list[AccessGrant] = []

        def decide(book: Book) -> Change:
            check_terms(book, terms, self._directory.now())
            taken = {grant.id for grant in book.all(AccessGrant)}
            if len(taken) >= _MOST:
                raise Refusal("invalid_input", f"There may be {_MOST} grants", "Revoke some: bursar secrets grants")
            chosen = id_from(f"{terms.subject}-{'-'.join(terms.acts)}", taken)
            made[:] = [
                AccessGrant(
                    id=chosen,
                    subject=terms.subject,
                    acts=tuple(act for act in ACTS if act in terms.acts),
                    path=terms.path,
                    tags=terms.tags,
                    expires_at=terms.expires_at,
                )
            ]
            facts: dict[str, str | int] = {"subject": terms.subject, "acts": ",".join(terms.acts), "path": terms.path}
            return Change(action="grant.create", target=f"grant/{chosen}", put=made, facts=facts)

        await self._directory.change(actor, decide)
        return made[0]

    async def revoke(self, actor: str, grant_id: str) -> None:
        def decide(book: Book) -> Change:
            grant = book.get(AccessGrant, grant_id)
            facts: dict[str, str | int] = {"subject": grant.subject, "path": grant.path}
            return Change(action="grant.revoke", target=f"grant/{grant_id}", gone=[("grant", grant_id)], facts=facts)

        await self._directory.change(actor, decide)


def check_terms(book: Lookup, terms: GrantTerms, now: int) -> None:
    """Raises Refusal(invalid_input | unknown_id)."""
    check_path(terms.path)
    kind, _, name = check_subject(terms.subject).partition("/")
    if kind == "team":
        book.get(Team, name)
    elif kind == "admin":
        book.get(Admin, name)
    elif name not in RIGHTS:
        raise Refusal("invalid_input", f"{name!r} is no role", f"One of: {', '.join(RIGHTS)}")
    if not terms.acts:
        raise Refusal("invalid_input", "A grant allows at least one act", f"Give --act: {', '.join(ACTS)}")
    if (kind == "team") != (set(terms.acts) == {"use"}):
        message = "A team uses keys and nothing else; people read, write and rotate them and do not use them"
        raise Refusal("invalid_input", message, "Give team/ID --act use, or role/ROLE --act read|write|rotate")
    if kind == "team" and terms.expires_at is not None:
        raise Refusal("invalid_input", "A team's grant has no end of its own", "Revoke it when it is over")
    if terms.expires_at is not None and terms.expires_at <= now:
        raise Refusal("invalid_input", "The grant would have expired already", "Give --expires 30d, for example")
