"""Deployments: names that callers of the Azure paths know, mapped to models; kept in the directory."""

from bursar.control.directory import Book, Change, Directory, Lookup
from bursar.core.deployments import NAME, deployment_id, parts_of
from bursar.core.directory import Deployment, Team
from bursar.core.errors import Refusal

MOST = 10_000
_LONGEST_MODEL = 256


class Deployments:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def all(self) -> list[Deployment]:
        return self._directory.book.all(Deployment)

    async def map(self, actor: str, name: str, model: str, team_id: str = "") -> Deployment:
        """Map a name, or change what it stands for. Refuses with invalid_input or unknown_id (team)."""
        _check_name(name)
        made = Deployment(id=deployment_id(name, team_id), model=model.strip())

        def decide(book: Book) -> Change:
            check_deployment(book, made)
            if book.find(Deployment, made.id) is None and book.count(Deployment) >= MOST:
                raise too_many()
            facts: dict[str, str | int] = {"model": made.model}
            return Change(action="deployment.map", target=f"deployment/{made.id}", put=[made], facts=facts)

        await self._directory.change(actor, decide)
        return made

    async def unmap(self, actor: str, entity_id: str) -> None:
        """Refuses with unknown_id."""

        def decide(book: Book) -> Change:
            gone = book.get(Deployment, entity_id)
            facts: dict[str, str | int] = {"model": gone.model}
            target = f"deployment/{entity_id}"
            return Change(action="deployment.unmap", target=target, gone=[("deployment", entity_id)], facts=facts)

        await self._directory.change(actor, decide)


def too_many() -> Refusal:
    return Refusal("invalid_input", f"There may be {MOST} deployments", "Unmap some: bursar models list")


def check_deployment(book: Lookup, deployment: Deployment) -> None:
    """Raises Refusal(invalid_input | unknown_id)."""
    name, team_id = parts_of(deployment)
    _check_name(name if deployment.id == deployment_id(name, team_id) else deployment.id)
    if not 0 < len(deployment.model) <= _LONGEST_MODEL or not deployment.model.isprintable():
        raise Refusal("invalid_input", "The model needs a name", "For example: bursar models map chat-prod gpt-4o-mini")
    if team_id:
        book.get(Team, team_id)


def _check_name(name: str) -> None:
    """Raises Refusal(invalid_input)."""
    if not NAME.fullmatch(name):
        hint = "Use letters, digits, `.`, `_` and `-`, at most 64 characters, beginning with a letter or digit"
        raise Refusal("invalid_input", f"{name[:64]!r} cannot be the name of a deployment", hint)
