"""Observed keys in control: seen once, named, sealed into the vault under the same id, closed, and taken back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bursar.control.checklist import Facts, _ending, _swapped
from bursar.control.history import History
from bursar.control.keys import KeyInput
from bursar.control.observing import Naming, Observing, is_closed
from bursar.control.wrapping_keys import RingState
from bursar.core.audit import Record
from bursar.core.controls import CONTROLS
from bursar.core.directory import Observed, Owner, Policy, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.observing import key_id_of
from bursar.core.restore import effects_of
from bursar.core.secret import Secret
from bursar.core.tokens import digest, parse
from tests.control.tenants import ACTOR, PEPPER, SeededEntropy
from tests.control.test_provider_keys import Vault

KEY = Secret("sk-" + "canary0123456789" * 3)
DIGEST = digest(KEY.reveal(), PEPPER)
ID = key_id_of(DIGEST)


class Stand(Vault):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.observing = Observing(self.directory, self.provider_keys, SeededEntropy(), PEPPER, team="observed", most=2)

    async def seen(self) -> VirtualKey:
        await self.observing.make_team()
        await self.observing.see("node:main", ID, DIGEST, "openai")
        return self.observing.get(ID)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.secrets.close()
    made.store.close()


async def test_its_team_is_made_once_and_enforces_nothing(stand: Stand) -> None:
    await stand.observing.make_team()
    version = stand.directory.book.version
    await stand.observing.make_team()
    assert stand.directory.book.version == version
    team = stand.directory.book.get(Team, "observed")
    assert set(team.policy.modes) == set(CONTROLS)
    assert set(team.policy.modes.values()) == {"shadow"}
    assert {limit.unit for limit in team.policy.limits} == {"requests", "tokens"}
    assert stand.directory.book.find(Owner, team.owner_id) is not None


async def test_off_no_team_is_made_and_nothing_is_seen(stand: Stand) -> None:
    off = Observing(stand.directory, stand.provider_keys, SeededEntropy(), PEPPER)
    await off.make_team()
    await off.see("node:main", ID, DIGEST, "openai")
    assert off.all() == []
    assert stand.directory.book.all(Team) == []


async def test_told_twice_it_is_one(stand: Stand) -> None:
    key = await stand.seen()
    version = stand.directory.book.version
    stand.clock.pass_s(60)
    await stand.observing.see("node:other", ID, DIGEST, "openai")
    assert stand.directory.book.version == version
    assert stand.observing.all() == [key]
    (secret,) = key.secrets
    assert (secret.digest, secret.provider) == (DIGEST, True)
    assert (key.name, key.team_id) == ("observed openai 1", "observed")
    assert stand.audit.actions.count("observe.see") == 1


async def test_names_count_on_and_the_bound_holds(stand: Stand) -> None:
    await stand.seen()
    await stand.observing.name(ACTOR, ID, lambda key: Naming(name="observed openai 2"))
    second, third = (digest(f"sk-{number}", PEPPER) for number in range(2))
    await stand.observing.see("node:main", key_id_of(second), second, "openai")
    assert stand.observing.get(key_id_of(second)).name == "observed openai 3"
    with pytest.raises(Refusal) as refused:
        await stand.observing.see("node:main", key_id_of(third), third, "openai")
    assert refused.value.word == "in_use"
    await stand.observing.seal(ACTOR, ID, KEY)  # what is sealed does not count
    await stand.observing.see("node:main", key_id_of(third), third, "anthropic")


async def test_what_people_say_of_it(stand: Stand) -> None:
    await stand.seen()
    await stand.owners.create(ACTOR, "Ann", owner_id="ann")
    named = await stand.observing.name(ACTOR, ID, lambda key: Naming(name=" robot ", owner="ann", purpose="reads mail"))
    assert named.observed is not None
    assert (named.name, named.observed.owner, named.observed.purpose) == ("robot", "ann", "reads mail")
    for wrong in (Naming(name=""), Naming(name="x", owner="nobody"), Naming(name="x", purpose="a\nb")):
        with pytest.raises(Refusal):
            await stand.observing.name(ACTOR, ID, lambda key, wrong=wrong: wrong)  # type: ignore[misc]
    assert stand.observing.get(ID) == named
    minted = await stand.keys.create(ACTOR, await stand.team(), KeyInput(name="ci"))
    with pytest.raises(Refusal) as refused:
        await stand.observing.name(ACTOR, minted.key.id, lambda key: Naming(name="x"))
    assert refused.value.word == "unknown_id"


async def test_only_the_very_key_is_sealed(stand: Stand) -> None:
    before = await stand.seen()
    for wrong in ("", "sk-another", KEY.reveal() + "x", KEY.reveal()[:-1]):
        with pytest.raises(Refusal) as refused:
            await stand.observing.seal(ACTOR, ID, Secret(wrong))
        assert refused.value.word == "invalid_secret"
    assert stand.observing.get(ID) == before
    assert await stand.provider_keys.all() == []


async def test_sealed_it_has_a_text_of_its_own_under_the_same_id(stand: Stand) -> None:
    await stand.seen()
    await stand.owners.create(ACTOR, "Ann", owner_id="ann")
    await stand.observing.name(ACTOR, ID, lambda key: Naming(name="robot", owner="ann"))
    minted = await stand.observing.seal(ACTOR, ID, KEY)
    parsed = parse(minted.text.reveal())
    assert parsed is not None
    assert (parsed.kind, parsed.public_id, minted.key.id) == ("key", ID, ID)
    (entry,) = await stand.provider_keys.all()
    assert entry.tags == {
        "billing_owner": "ann",
        "observed": ID,
        "purpose": "inference,embedding,fine-tuning,batch",
    }
    assert await stand.provider_keys._store.get(entry.id) == KEY
    key = stand.observing.get(ID)
    assert key.observed is not None
    assert key.observed.secret_id == entry.id
    own, presented = key.secrets
    assert own.digest == digest(minted.text.reveal(), PEPPER)
    assert (presented.digest, presented.provider, presented.expires_at) == (DIGEST, True, None)
    with pytest.raises(Refusal) as refused:
        await stand.observing.seal(ACTOR, ID, KEY)
    assert refused.value.word == "already_exists"


async def test_a_sealing_that_broke_off_goes_on(stand: Stand) -> None:
    """The vault has it, and the directory could not be changed: the same again ends well, with one entry."""
    await stand.seen()
    append = stand.audit.append

    async def failing(actor: str, action: str, *more: object, **about: object) -> int:
        if action == "observe.seal":
            raise Refusal("audit_unavailable", "the audit cannot be written")
        return await append(actor, action, *more, **about)  # type: ignore[arg-type]

    stand.audit.append = failing  # type: ignore[method-assign]
    with pytest.raises(Refusal):
        await stand.observing.seal(ACTOR, ID, KEY)
    stand.audit.append = append  # type: ignore[method-assign]
    assert (await stand.seen()).observed == replace(stand.observing.get(ID).observed or _none(), secret_id="")
    await stand.observing.seal(ACTOR, ID, KEY)
    assert len(await stand.provider_keys.all()) == 1


def _none() -> Observed:
    raise AssertionError("it is observed")


async def test_a_key_that_the_vault_has_is_not_sealed_twice(stand: Stand) -> None:
    """For this team, or for all, the entry is used as it is, and stays when the sealing is taken back."""
    await stand.seen()
    team = await stand.team()
    entry = await stand.provider_keys.put(ACTOR, f"openai/*/api_key/prod/{team}", KEY, {})
    with pytest.raises(Refusal) as refused:
        await stand.observing.seal(ACTOR, ID, KEY)
    assert refused.value.word == "duplicate_secret"
    minted = await stand.observing.seal(ACTOR, ID, KEY, team)
    assert minted.key.observed is not None
    assert minted.key.observed.secret_id == entry.id
    await stand.observing.unseal(ACTOR, ID)
    assert [one.id for one in await stand.provider_keys.all()] == [entry.id]


async def test_what_was_replaced_in_the_vault_is_not_taken_back(stand: Stand) -> None:
    await stand.seen()
    await stand.observing.seal(ACTOR, ID, KEY)
    (entry,) = await stand.provider_keys.all()
    await stand.provider_keys.put(ACTOR, entry.address, Secret("sk-the-next-one"), entry.tags)
    with pytest.raises(Refusal) as refused:
        await stand.observing.unseal(ACTOR, ID)
    assert refused.value.word == "no_undo"
    assert len(await stand.provider_keys.all()) == 1


async def test_sealed_into_another_team_its_rules_hold(stand: Stand) -> None:
    await stand.seen()
    team = await stand.team(Policy(models=("gpt-4o",)))
    minted = await stand.observing.seal(ACTOR, ID, KEY, team)
    assert minted.key.team_id == team
    (entry,) = await stand.provider_keys.all()
    assert entry.address.endswith(f"/{team}")
    with pytest.raises(Refusal):
        await stand.observing.seal(ACTOR, ID, KEY, "nowhere")


async def test_closed_and_taken_back(stand: Stand) -> None:
    before = await stand.seen()
    with pytest.raises(Refusal) as refused:
        await stand.observing.close(ACTOR, ID)
    assert refused.value.word == "invalid_input"
    with pytest.raises(Refusal) as refused:
        await stand.observing.unseal(ACTOR, ID)
    assert refused.value.word == "no_undo"
    await stand.observing.seal(ACTOR, ID, KEY)
    assert not is_closed(stand.observing.get(ID), stand.clock.now())
    closed = await stand.observing.close(ACTOR, ID)
    assert is_closed(closed, stand.clock.now())
    stand.clock.pass_s(5)
    assert await stand.observing.close(ACTOR, ID) == closed  # a second time changes nothing
    version = stand.directory.book.version
    await History(stand.directory).undo(ACTOR, version)
    assert not is_closed(stand.observing.get(ID), stand.clock.now())
    await stand.observing.close(ACTOR, ID)
    assert await stand.observing.unseal(ACTOR, ID) == before
    assert await stand.provider_keys.all() == []


async def test_a_rotated_key_cannot_be_taken_back_and_an_observed_one_not_be_rotated(stand: Stand) -> None:
    await stand.seen()
    with pytest.raises(Refusal) as refused:
        await stand.keys.rotate(ACTOR, ID, 0)
    assert refused.value.word == "invalid_input"
    await stand.observing.seal(ACTOR, ID, KEY)
    rotated = await stand.keys.rotate(ACTOR, ID, 0)
    assert len(rotated.key.secrets) == 1
    assert is_closed(rotated.key, stand.clock.now())
    with pytest.raises(Refusal) as refused:
        await stand.observing.unseal(ACTOR, ID)
    assert refused.value.word == "no_undo"


async def test_a_file_that_names_it_leaves_what_was_observed(stand: Stand) -> None:
    """`bursar apply` says name, tags and policy; where the key came from stays."""
    key = await stand.seen()
    await stand.keys.update(ACTOR, ID, lambda present: KeyInput(name="by hand", tags=("robots",)))
    assert stand.observing.get(ID) == replace(key, name="by hand", tags=("robots",))


async def test_after_a_restore_a_closed_key_is_paused(stand: Stand) -> None:
    def record(seq: int, action: str) -> Record:
        facts: dict[str, str | int] = {"directory_version": seq}
        return Record(
            seq=seq, at_ns=seq, actor=ACTOR, action=action, target=f"key/{ID}", outcome="allowed", facts=facts
        )

    effects = effects_of([record(1, "observe.see"), record(2, "observe.seal"), record(3, "observe.close")])
    assert effects.keys == {ID: "observe.close"}
    assert effects.unknown == []
    assert len(effects.repeat) == 3


async def test_the_checklist_says_who_calls_with_a_provider_key(stand: Stand) -> None:
    key = await stand.seen()
    facts = Facts(
        now=stand.clock.now(),
        provider_keys=(),
        owners=(),
        teams={},
        keys=(),
        presented=(key,),
        budgets=(),
        admins=(),
        by_credential=(),
        ring=RingState(keys=(), values=0, left=0),
        copies=(),
        open_stores=frozenset(),
    )
    line = _swapped(facts)
    assert (line.verdict, line.mend) == ("fail", (f"bursar observe seal {ID} < FILE",))
    assert _ending(facts).verdict == "pass"
    await stand.observing.seal(ACTOR, ID, KEY)
    line = _swapped(replace(facts, presented=(stand.observing.get(ID),)))
    assert (line.verdict, line.mend) == ("fail", (f"bursar observe close {ID}",))
    assert _swapped(replace(facts, presented=())).verdict == "pass"
