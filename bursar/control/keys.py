"""Virtual keys: made, shown once, narrowed, switched off, rotated with an overlap under the same id.

What is stored is a keyed digest (`bursar.core.tokens.digest`); the text exists only in the answer that
made it.
"""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.naming import check_name, check_tags
from bursar.control.policies import check_narrows, check_policy
from bursar.core.directory import BudgetDef, KeySecret, Policy, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.observing import is_passed_on
from bursar.core.secret import Secret
from bursar.core.tokens import digest, mint
from bursar.core.units import NS_PER_S
from bursar.ports import Entropy

MAX_OVERLAP_S = 30 * 86_400


class KeyInput(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of a key. `expires_at` is ns since the epoch; None = never."""

    name: str
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    expires_at: int | None = None


class MintedKey(msgspec.Struct, frozen=True):
    """A key and its text, to be shown once. The text is a `Secret`: nothing prints it by accident."""

    key: VirtualKey
    text: Secret


class Keys:
    """`pepper` keys the digests; the gateway holds the same one."""

    def __init__(self, directory: Directory, entropy: Entropy, pepper: bytes) -> None:
        self._directory = directory
        self._entropy = entropy
        self._pepper = pepper

    def all(self, team_id: str = "") -> list[VirtualKey]:
        book = self._directory.book
        return book.keys_of(team_id) if team_id else book.all(VirtualKey)

    def get(self, key_id: str) -> VirtualKey:
        return self._directory.book.get(VirtualKey, key_id)

    async def create(self, actor: str, team_id: str, given: KeyInput) -> MintedKey:
        """Refuses with unknown_id (team), policy_widens or invalid_input."""
        key_id, text = mint(self._entropy)
        made: list[VirtualKey] = []

        def decide(book: Book) -> Change:
            if book.find(VirtualKey, key_id):
                raise Refusal("already_exists", "A key with this public id exists", "Repeat: another id will be drawn")
            team = book.get(Team, team_id)
            blank = VirtualKey(id=key_id, name="", team_id=team.id, secrets=(KeySecret(digest=self._digest(text)),))
            made[:] = [_apply(team, blank, given, self._directory.now())]
            return Change(action="key.create", target=f"key/{key_id}", put=made, facts={"team": team.id})

        await self._directory.change(actor, decide)
        return MintedKey(made[0], text)

    async def update(self, actor: str, key_id: str, edit: Callable[[VirtualKey], KeyInput]) -> VirtualKey:
        """`edit` sees the key as it is when its turn has come.

        Refuses with unknown_id, policy_widens or invalid_input.
        """

        def decide(book: Book) -> Change:
            key = book.get(VirtualKey, key_id)
            changed = _apply(book.get(Team, key.team_id), key, edit(key), self._directory.now())
            return Change(action="key.update", target=f"key/{key_id}", put=[changed], facts={"team": key.team_id})

        await self._directory.change(actor, decide)
        return self.get(key_id)

    async def set_disabled(self, actor: str, key_id: str, disabled: bool) -> VirtualKey:
        """Takes effect at the key's next hold."""

        def decide(book: Book) -> Change:
            key = replace(book.get(VirtualKey, key_id), disabled=disabled)
            action = "key.disable" if disabled else "key.enable"
            return Change(action=action, target=f"key/{key_id}", put=[key], facts={"team": key.team_id})

        await self._directory.change(actor, decide)
        return self.get(key_id)

    async def rotate(self, actor: str, key_id: str, overlap_s: int) -> MintedKey:
        """A new text under the same id. The present one works for `overlap_s` seconds more (0 = no longer).

        A text replaced earlier keeps its own end, if that is sooner.
        """
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise Refusal("invalid_input", "An overlap lasts at most 30 days", "Give --overlap 1h, for example")
        _, text = mint(self._entropy, public_id=self.get(key_id).id)
        made: list[VirtualKey] = []

        def decide(book: Book) -> Change:
            key, now = book.get(VirtualKey, key_id), self._directory.now()
            if is_passed_on(key.observed):
                message = "The key is observed: its text is its application's own provider key"
                raise Refusal("invalid_input", message, f"bursar observe seal {key_id} < FILE")
            replaced = _until(key.secrets, now, now + overlap_s * NS_PER_S)
            made[:] = [replace(key, secrets=(KeySecret(digest=self._digest(text)), *replaced))]
            facts: dict[str, str | int] = {"team": key.team_id, "overlap_s": overlap_s}
            return Change(action="key.rotate", target=f"key/{key_id}", put=made, facts=facts)

        await self._directory.change(actor, decide)
        return MintedKey(made[0], text)

    async def remove(self, actor: str, key_id: str) -> None:
        """For ever; its ledger rows stay. Only a key without budgets can go."""

        def decide(book: Book) -> Change:
            key = book.get(VirtualKey, key_id)
            for budget in book.all(BudgetDef):
                if (budget.subject_kind, budget.subject) == ("key", key_id) and not budget.deleted:
                    raise Refusal("in_use", f"The key {key_id} has budgets", f"bursar budgets remove {budget.id}")
            return Change(
                action="key.remove", target=f"key/{key_id}", gone=[("key", key_id)], facts={"team": key.team_id}
            )

        await self._directory.change(actor, decide)

    def _digest(self, text: Secret) -> bytes:
        return digest(text.reveal(), self._pepper)


def _until(secrets: tuple[KeySecret, ...], now: int, end: int) -> list[KeySecret]:
    """The secrets that stay valid beside a new one, each to the sooner of its own end and `end`."""
    if end <= now:
        return []
    ends = [(secret, min(end, secret.expires_at or end)) for secret in secrets]
    return [replace(secret, expires_at=its_end) for secret, its_end in ends if its_end > now]


def _apply(team: Team, key: VirtualKey, given: KeyInput, now: int) -> VirtualKey:
    policy = check_policy(given.policy)
    check_narrows(team.id, team.policy, policy)
    if given.expires_at is not None and given.expires_at <= now and given.expires_at != key.expires_at:
        raise Refusal("invalid_input", "The key would have expired already", "Give --expires 90d, for example")
    return replace(
        key, name=check_name(given.name), policy=policy, tags=check_tags(given.tags), expires_at=given.expires_at
    )
