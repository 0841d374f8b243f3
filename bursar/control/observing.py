"""Observed keys: applications that came with their own provider key, until it is sealed and swapped for a virtual key.

An observed key is a virtual key whose only text is the provider key, known by its digest as any other; so policies,
budgets, reports and explanations are the same. Sealing it gives it a text of its own under the same id: what was
spent stays with it. The provider key then still lets its application in, until that is closed.
"""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.keys import MintedKey
from bursar.control.naming import check_name
from bursar.control.policies import check_narrows
from bursar.control.provider_keys import ProviderKeys
from bursar.core.controls import CONTROLS
from bursar.core.directory import Entity, KeySecret, LimitDef, Observed, Owner, Policy, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.observing import is_passed_on
from bursar.core.routing import address_parts
from bursar.core.secret import Secret
from bursar.core.tokens import digest, mint
from bursar.ports import Entropy

TAG = "observed"  # of the sealed provider key: the id of the key that it was swapped for
_PURPOSES = "inference,embedding,fine-tuning,batch"  # as before: narrowing it is for a person
_MAX_PURPOSE = 200
_TRIED = Policy(
    modes=dict.fromkeys(CONTROLS, "shadow"),
    limits=(
        LimitDef(id="observed-rpm", unit="requests", amount=60, per_seconds=60),
        LimitDef(id="observed-tpm", unit="tokens", amount=100_000, per_seconds=60),
    ),
)
"""What a new team has in shadow, so that its report says at once what the usual limits would do."""


class Naming(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of an observed key. `owner` and `purpose` may be empty."""

    name: str
    owner: str = ""
    purpose: str = ""


class Observing:
    """`team` "" = observe mode is off: nothing new is observed, and what was can still be sealed."""

    def __init__(
        self,
        directory: Directory,
        provider_keys: ProviderKeys,
        entropy: Entropy,
        pepper: bytes,
        *,
        team: str = "",
        most: int = 0,
    ) -> None:
        self._directory, self._provider_keys = directory, provider_keys
        self._entropy, self._pepper = entropy, pepper
        self.team = team
        self._most = most

    def all(self) -> list[VirtualKey]:
        return [key for key in self._directory.book.all(VirtualKey) if key.observed is not None]

    def get(self, key_id: str) -> VirtualKey:
        return _observed(self._directory.book, key_id)[0]

    # ---- coming into being

    async def make_team(self) -> None:
        """Where observe mode is on and its team is not there: with a billing owner of the same id."""
        if not self.team or self._directory.book.find(Team, self.team) is not None:
            return

        def decide(book: Book) -> Change:
            made: list[Entity] = []
            if book.find(Team, self.team) is None:
                made.append(Team(id=self.team, name="Observed applications", owner_id=self.team, policy=_TRIED))
                if book.find(Owner, self.team) is None:
                    made.insert(0, Owner(id=self.team, name="Owners of observed applications, not known yet"))
            return Change(action="team.create", target=f"team/{self.team}", put=made, facts={"owner": self.team})

        await self._directory.change("observe", decide)

    async def see(self, actor: str, key_id: str, key_digest: bytes, provider: str) -> None:
        """A provider has taken a key that is not known. Told twice, it changes nothing. Raises Refusal(in_use)."""

        def decide(book: Book) -> Change:
            change = Change(action="observe.see", target=f"key/{key_id}", facts={"provider": provider})
            if book.find(VirtualKey, key_id) is not None or not self.team:
                return change
            known = [key for key in book.all(VirtualKey) if key.observed is not None]
            if sum(is_passed_on(key.observed) for key in known) >= self._most:
                message = f"{self._most} provider keys are observed already"
                raise Refusal("in_use", message, "Seal some: bursar observe list; or raise observe.most")
            taken = {key.name for key in known}
            number = 1 + sum(key.observed is not None and key.observed.provider == provider for key in known)
            while (name := f"observed {provider} {number}") in taken:
                number += 1
            made = VirtualKey(
                id=key_id,
                name=name,
                team_id=book.get(Team, self.team).id,
                secrets=(KeySecret(digest=key_digest, provider=True),),
                observed=Observed(provider=provider, since=self._directory.now()),
            )
            return replace(change, put=[made])

        await self._directory.change(actor, decide)

    # ---- what people say and do

    async def name(self, actor: str, key_id: str, edit: Callable[[VirtualKey], Naming]) -> VirtualKey:
        """`edit` sees the key as it is when its turn has come. Raises Refusal(unknown_id | invalid_input)."""

        def decide(book: Book) -> Change:
            key, observed = _observed(book, key_id)
            given = edit(key)
            if given.owner:
                book.get(Owner, given.owner)
            purpose = given.purpose.strip()
            if len(purpose) > _MAX_PURPOSE or not (purpose.isprintable() or not purpose):
                raise Refusal("invalid_input", f"A purpose has at most {_MAX_PURPOSE} printable characters")
            observed = replace(observed, owner=given.owner, purpose=purpose)
            changed = replace(key, name=check_name(given.name), observed=observed)
            facts = {"name": changed.name, "owner": given.owner or "unknown"}
            return Change(action="observe.name", target=f"key/{key_id}", put=[changed], facts=facts)

        await self._directory.change(actor, decide)
        return self.get(key_id)

    async def seal(self, actor: str, key_id: str, value: Secret, team_id: str = "") -> MintedKey:
        """Put the provider key into the vault, and give the key a text of its own. `team_id`: where it goes.

        What breaks off after the first step leaves a sealed entry; the same again goes on from there. Raises
        Refusal(unknown_id | invalid_secret | already_exists | policy_widens), and the store's.
        """
        key, observed = _observed(self._directory.book, key_id)
        if observed.secret_id:
            hint = f"A new text of its virtual key: bursar keys rotate {key_id}"
            raise Refusal("already_exists", f"{key.name} is sealed already, as {observed.secret_id}", hint)
        if digest(value.reveal(), self._pepper) not in {one.digest for one in key.secrets if one.provider}:
            message = f"This is not the provider key that {key.name} was observed with"
            raise Refusal("invalid_secret", message, "See that it is whole; which key is whose: bursar observe list")
        team = self._directory.book.get(Team, team_id or key.team_id)
        secret_id = await self._sealed(actor, key, observed, value, team)
        _, text = mint(self._entropy, public_id=key_id)
        own = KeySecret(digest=digest(text.reveal(), self._pepper))
        made: list[VirtualKey] = []

        def decide(book: Book) -> Change:
            key, observed = _observed(book, key_id)
            if observed.secret_id:
                raise Refusal("changed_since", f"{key.name} was sealed by somebody else meanwhile")
            check_narrows(team.id, book.get(Team, team.id).policy, key.policy)
            now = replace(observed, secret_id=secret_id, sealed_at=self._directory.now())
            made[:] = [replace(key, team_id=team.id, secrets=(own, *key.secrets), observed=now)]
            facts = {"secret": secret_id, "team": team.id}
            return Change(action="observe.seal", target=f"key/{key_id}", put=made, facts=facts)

        await self._directory.change(actor, decide)
        return MintedKey(made[0], text)

    async def _sealed(self, actor: str, key: VirtualKey, observed: Observed, value: Secret, team: Team) -> str:
        """The id of the provider key in the vault."""
        address = f"{observed.provider}/*/api_key/observed-{key.id}/{team.id}"
        tags = {"billing_owner": observed.owner or team.owner_id, "purpose": _PURPOSES, TAG: key.id}
        for entry in await self._provider_keys.all():
            if entry.address == address and entry.tags.get(TAG) == key.id:
                return entry.id
        try:
            return (await self._provider_keys.put(actor, address, value, tags)).id
        except Refusal as refusal:
            held = str(refusal.facts.get("address", ""))
            if refusal.word != "duplicate_secret" or address_parts(held)[4] not in ("*", team.id):
                raise
            return str(refusal.facts["secret"])  # it lies there already, for this team as well: that one is used

    async def unseal(self, actor: str, key_id: str) -> VirtualKey:
        """Back to how it was: the provider key is passed on again, the virtual key's text is worth nothing, and what
        was sealed for it is shredded. Raises Refusal(unknown_id | no_undo).
        """
        was: list[str] = []
        sealed = [entry for entry in await self._provider_keys.all() if entry.tags.get(TAG) == key_id]
        if any(entry.version > 1 for entry in sealed):
            message = f"The provider key that was sealed for {key_id} has been replaced since"
            raise Refusal("no_undo", message, f"Applications go on with the virtual key: bursar observe show {key_id}")

        def decide(book: Book) -> Change:
            key, observed = _observed(book, key_id)
            presented = [replace(one, expires_at=None) for one in key.secrets if one.provider]
            if not observed.secret_id or not presented:
                why = "is not sealed" if not observed.secret_id else "has forgotten the provider key's digest"
                raise Refusal("no_undo", f"{key.name} {why}", "See: bursar observe list")
            was[:] = [observed.secret_id]
            back = replace(observed, secret_id="", sealed_at=0)
            put = [replace(key, secrets=tuple(presented), observed=back)]
            return Change(action="observe.unseal", target=f"key/{key_id}", put=put, facts={"secret": was[0]})

        await self._directory.change(actor, decide)
        for entry in sealed:
            if entry.id == was[0]:
                await self._provider_keys.destroy(actor, entry.id)
        return self.get(key_id)

    async def close(self, actor: str, key_id: str) -> VirtualKey:
        """The provider key lets nobody in any more. Raises Refusal(unknown_id | invalid_input)."""

        def decide(book: Book) -> Change:
            key, observed = _observed(book, key_id)
            if not observed.secret_id:
                hint = f"Seal it first (bursar observe seal {key_id}), or switch it off: bursar keys disable {key_id}"
                raise Refusal("invalid_input", f"{key.name} has no other key yet", hint)
            now = self._directory.now()
            secrets = [
                replace(one, expires_at=min(one.expires_at or now, now)) if one.provider else one for one in key.secrets
            ]
            put = [replace(key, secrets=tuple(secrets))]
            return Change(action="observe.close", target=f"key/{key_id}", put=put, facts={"secret": observed.secret_id})

        await self._directory.change(actor, decide)
        return self.get(key_id)


def is_closed(key: VirtualKey, now: int) -> bool:
    """Whether its provider key lets nobody in any more."""
    return not any(one.provider and (one.expires_at is None or one.expires_at > now) for one in key.secrets)


def _observed(book: Book, key_id: str) -> tuple[VirtualKey, Observed]:
    """Raises Refusal(unknown_id)."""
    key = book.get(VirtualKey, key_id)
    if key.observed is None:
        raise Refusal("unknown_id", f"{key_id} was never observed", "See: bursar observe list")
    return key, key.observed
