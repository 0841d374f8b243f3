"""Teams: each has an owner who pays, and a policy that its keys can only narrow."""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.naming import check_id, check_name, check_tags, id_from
from bursar.control.policies import check_policy, widened_by
from bursar.core.deployments import parts_of
from bursar.core.directory import BudgetDef, Deployment, Owner, Policy, Team, TrustRule
from bursar.core.errors import Refusal


class TeamInput(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of a team."""

    name: str
    owner_id: str
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()


class Teams:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def all(self) -> list[Team]:
        return self._directory.book.all(Team)

    def get(self, team_id: str) -> Team:
        return self._directory.book.get(Team, team_id)

    async def create(self, actor: str, given: TeamInput, team_id: str = "") -> Team:
        """Refuses with unknown_id (owner), invalid_input or already_exists."""
        made: list[Team] = []

        def decide(book: Book) -> Change:
            taken = {team.id for team in book.all(Team)}
            chosen = check_id(team_id) if team_id else id_from(given.name, taken)
            if chosen in taken:
                raise Refusal("already_exists", f"There is a team {chosen!r} already", "Choose another --id")
            made[:] = [_apply(book, Team(id=chosen, name="", owner_id=""), given)]
            return Change(action="team.create", target=f"team/{chosen}", put=made, facts={"owner": given.owner_id})

        await self._directory.change(actor, decide)
        return made[0]

    async def update(self, actor: str, team_id: str, edit: Callable[[Team], TeamInput]) -> Team:
        """`edit` sees the team as it is when its turn has come.

        Keys that allow more than the new policy are held to it from now on; see `keys_beyond`.
        """

        def decide(book: Book) -> Change:
            present = book.get(Team, team_id)
            team = _apply(book, present, edit(present))
            return Change(action="team.update", target=f"team/{team_id}", put=[team], facts={"owner": team.owner_id})

        await self._directory.change(actor, decide)
        return self.get(team_id)

    def keys_beyond(self, team_id: str) -> list[str]:
        """Ids of keys whose own policy says more than the team now allows; the team's word binds."""
        team = self.get(team_id)
        return [key.id for key in self._directory.book.keys_of(team_id) if widened_by(team.policy, key.policy)]

    async def set_disabled(self, actor: str, team_id: str, disabled: bool) -> Team:
        """Takes effect at the next hold of every key of the team."""

        def decide(book: Book) -> Change:
            team = replace(book.get(Team, team_id), disabled=disabled)
            action = "team.disable" if disabled else "team.enable"
            return Change(action=action, target=f"team/{team_id}", put=[team])

        await self._directory.change(actor, decide)
        return self.get(team_id)

    async def remove(self, actor: str, team_id: str) -> None:
        """Only a team without keys, trust rules and budgets can go."""

        def decide(book: Book) -> Change:
            book.get(Team, team_id)
            for key in book.keys_of(team_id):
                raise Refusal("in_use", f"The team {team_id!r} has keys", f"bursar keys remove {key.id}")
            for rule in book.all(TrustRule):
                if rule.team_id == team_id:
                    raise Refusal("in_use", f"The team {team_id!r} has trust rules", f"bursar trust remove {rule.id}")
            for budget in book.all(BudgetDef):
                if (budget.subject_kind, budget.subject) == ("team", team_id) and not budget.deleted:
                    raise Refusal("in_use", f"The team {team_id!r} has budgets", f"bursar budgets remove {budget.id}")
            for deployment in book.all(Deployment):
                if parts_of(deployment)[1] == team_id:
                    hint = f"bursar models unmap {deployment.id}"
                    raise Refusal("in_use", f"The team {team_id!r} has deployments", hint)
            return Change(action="team.remove", target=f"team/{team_id}", gone=[("team", team_id)])

        await self._directory.change(actor, decide)


def _apply(book: Book, team: Team, given: TeamInput) -> Team:
    return replace(
        team,
        name=check_name(given.name),
        owner_id=book.get(Owner, given.owner_id).id,
        policy=check_policy(given.policy),
        tags=check_tags(given.tags),
    )
