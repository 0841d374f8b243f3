"""Virtual keys: shown once, stored as keyed digests, narrowing only, rotated under a stable id."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.control.keys import KeyInput
from bursar.control.teams import TeamInput
from bursar.core.directory import LimitDef, Policy
from bursar.core.errors import RULES, Refusal
from bursar.core.tokens import digest, parse
from bursar.core.units import NS_PER_S
from tests.control.tenants import ACTOR, PEPPER, Tenants


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    made = Tenants(tmp_path)
    yield made
    made.store.close()


async def test_a_new_key_is_found_by_its_keyed_digest_only(tenants: Tenants) -> None:
    minted = await tenants.keys.create(ACTOR, await tenants.team(), KeyInput(name="ci"))
    text = minted.text.reveal()
    parsed = parse(text)
    assert parsed is not None
    assert (parsed.kind, parsed.public_id) == ("key", minted.key.id)
    (secret,) = tenants.keys.get(minted.key.id).secrets
    assert secret.digest == digest(text, PEPPER)
    assert secret.digest != digest(text, b"q" * 32)


async def test_the_text_of_a_key_is_nowhere_but_in_the_answer(tenants: Tenants, capfd: pytest.CaptureFixture) -> None:
    team = await tenants.team()
    minted = await tenants.keys.create(ACTOR, team, KeyInput(name="ci"))
    rotated = await tenants.keys.rotate(ACTOR, minted.key.id, 60)
    shown = [repr(minted), str(minted), repr(rotated), repr(tenants.keys), repr(tenants.audit.lines)]
    shown += [repr(tenants.directory.snapshot()), repr(tenants.deltas), "".join(capfd.readouterr())]
    files = [path.read_bytes() for path in tenants.path.parent.iterdir()]
    for text in (minted.text.reveal(), rotated.text.reveal()):
        secret = text.rpartition("_")[2]
        assert not [where for where in shown if secret in where]
        assert not [where for where in files if secret.encode() in where]


async def test_rotation_keeps_the_id_and_ends_the_earlier_text_after_the_overlap(tenants: Tenants) -> None:
    minted = await tenants.keys.create(ACTOR, await tenants.team(), KeyInput(name="ci"))
    now = tenants.clock.now()
    second = await tenants.keys.rotate(ACTOR, minted.key.id, 3600)
    assert second.key.id == minted.key.id
    newest, earlier = second.key.secrets
    assert (newest.digest, newest.expires_at) == (digest(second.text.reveal(), PEPPER), None)
    assert (earlier.digest, earlier.expires_at) == (digest(minted.text.reveal(), PEPPER), now + 3600 * NS_PER_S)


async def test_a_second_rotation_never_lengthens_the_first_overlap(tenants: Tenants) -> None:
    minted = await tenants.keys.create(ACTOR, await tenants.team(), KeyInput(name="ci"))
    await tenants.keys.rotate(ACTOR, minted.key.id, 60)
    first_end = tenants.clock.now() + 60 * NS_PER_S
    tenants.clock.pass_s(30)
    key = (await tenants.keys.rotate(ACTOR, minted.key.id, 86_400)).key
    assert [secret.expires_at for secret in key.secrets] == [None, tenants.clock.now() + 86_400 * NS_PER_S, first_end]
    tenants.clock.pass_s(31)
    key = (await tenants.keys.rotate(ACTOR, minted.key.id, 10)).key
    assert len(key.secrets) == 3, "a text whose time is over is dropped"


async def test_rotation_without_overlap_ends_the_earlier_text_at_once(tenants: Tenants) -> None:
    minted = await tenants.keys.create(ACTOR, await tenants.team(), KeyInput(name="ci"))
    assert len((await tenants.keys.rotate(ACTOR, minted.key.id, 0)).key.secrets) == 1


NARROWER = [
    (Policy(models=("gpt-*",)), Policy(models=("gpt-4o*", "gpt-5"))),
    (Policy(models=("*",)), Policy(models=("anything-*",))),
    (Policy(models=("gpt-4?",)), Policy(models=("gpt-4o",))),
    (Policy(max_tokens_cap=512), Policy(max_tokens_cap=512)),
    (Policy(max_tokens_cap=512), Policy()),
    (Policy(max_tokens_profile="standard"), Policy(max_tokens_profile="conservative")),
    (Policy(over_max_tokens="clamp"), Policy(over_max_tokens="refuse")),
    (Policy(modes={"limits": "shadow"}), Policy(modes={"limits": "enforce", "guard": "off"})),
    (Policy(external=False), Policy(external=True)),
    (Policy(user_header="X-User"), Policy(user_header="x-user")),
    (Policy(), Policy(models=("gpt-*",), max_tokens_cap=10**6, unpriced="assume_dearest")),
    (Policy(limits=(LimitDef(unit="requests", amount=1),)), Policy(limits=(LimitDef(unit="requests", amount=99),))),
]
WIDER = [
    ("models", Policy(models=("gpt-4o*",)), Policy(models=("gpt-*",))),
    ("models", Policy(models=("gpt-4o*",)), Policy(models=("gpt-4o", "o3"))),
    ("models", Policy(models=("gpt-4?",)), Policy(models=("gpt-4*",))),
    ("models", Policy(models=()), Policy(models=("gpt-4o",))),
    ("purposes", Policy(purposes=("inference",)), Policy(purposes=("inference", "embedding"))),
    ("max_tokens_profile", Policy(max_tokens_profile="conservative"), Policy(max_tokens_profile="standard")),
    ("max_tokens_cap", Policy(max_tokens_cap=512), Policy(max_tokens_cap=513)),
    ("over_max_tokens", Policy(over_max_tokens="refuse"), Policy(over_max_tokens="clamp")),
    ("max_input_tokens", Policy(max_input_tokens=10), Policy(max_input_tokens=11)),
    ("max_prompt_chars", Policy(max_prompt_chars=10), Policy(max_prompt_chars=11)),
    ("external", Policy(external=True), Policy(external=False)),
    ("user_header", Policy(user_header="x-user"), Policy(user_header="x-other")),
    ("user_missing", Policy(user_missing="deny"), Policy(user_missing="shared")),
    ("unpriced", Policy(unpriced="refuse"), Policy(unpriced="assume_dearest")),
    ("unknown_fields", Policy(unknown_fields="refuse"), Policy(unknown_fields="allow")),
    ("tool_uses_cap", Policy(tool_uses_cap=1), Policy(tool_uses_cap=2)),
    ("modes.limits", Policy(modes={"limits": "enforce"}), Policy(modes={"limits": "shadow"})),
    ("modes.limits", Policy(modes={"limits": "shadow"}), Policy(modes={"limits": "off"})),
]


@pytest.mark.parametrize(("team", "key"), NARROWER)
async def test_a_key_may_narrow_its_team(tenants: Tenants, team: Policy, key: Policy) -> None:
    minted = await tenants.keys.create(ACTOR, await tenants.team(team), KeyInput(name="k", policy=key))
    assert minted.key.policy.models == key.models


@pytest.mark.parametrize(("field", "team", "key"), WIDER)
async def test_a_key_that_widens_its_team_is_refused_and_the_field_named(
    tenants: Tenants, field: str, team: Policy, key: Policy
) -> None:
    team_id = await tenants.team(team)
    with pytest.raises(Refusal) as refused:
        await tenants.keys.create(ACTOR, team_id, KeyInput(name="k", policy=key))
    assert refused.value.word == "policy_widens"
    assert refused.value.facts["field"] == field
    assert field in refused.value.message
    assert team_id in refused.value.hint
    assert tenants.keys.all() == []
    minted = await tenants.keys.create(ACTOR, team_id, KeyInput(name="k"))
    with pytest.raises(Refusal, match=field.replace(".", r"\.")):
        await tenants.keys.update(ACTOR, minted.key.id, lambda _: KeyInput(name="k", policy=key))


async def test_a_team_that_is_narrowed_later_names_the_keys_it_now_binds(tenants: Tenants) -> None:
    team = await tenants.team()
    wide = await tenants.keys.create(ACTOR, team, KeyInput(name="wide", policy=Policy(max_tokens_cap=4096)))
    await tenants.keys.create(ACTOR, team, KeyInput(name="small", policy=Policy(max_tokens_cap=16)))

    narrowed = TeamInput(name="Search", owner_id="acme", policy=Policy(max_tokens_cap=256))
    await tenants.teams.update(ACTOR, team, lambda _: narrowed)
    assert tenants.teams.keys_beyond(team) == [wide.key.id]


async def test_switching_off_and_on_and_removing(tenants: Tenants) -> None:
    team = await tenants.team()
    key = (await tenants.keys.create(ACTOR, team, KeyInput(name="ci"))).key
    assert (await tenants.keys.set_disabled(ACTOR, key.id, True)).disabled
    assert not (await tenants.keys.set_disabled(ACTOR, key.id, False)).disabled
    await tenants.keys.remove(ACTOR, key.id)
    assert tenants.deltas[-1].gone == [("key", key.id)]
    assert tenants.audit.actions[-4:] == ["key.create", "key.disable", "key.enable", "key.remove"]


BAD = [
    KeyInput(name=""),
    KeyInput(name="x" * 200),
    KeyInput(name="two\nlines"),
    KeyInput(name="k", tags=("Not A Tag",)),
    KeyInput(name="k", expires_at=1),
    KeyInput(name="k", policy=Policy(max_tokens_cap=0)),
    KeyInput(name="k", policy=Policy(models=("",))),
    KeyInput(name="k", policy=Policy(user_header="x user")),
    KeyInput(name="k", policy=Policy(stop=("a", "b", "c", "d", "e"))),
    KeyInput(name="k", policy=Policy(modes={"limits": "sometimes"})),  # type: ignore[dict-item]
    KeyInput(name="k", policy=Policy(limits=(LimitDef(unit="requests", amount=0),))),
    KeyInput(name="k", policy=Policy(limits=(LimitDef(unit="requests", amount=1, burst=0),))),
    KeyInput(name="k", policy=Policy(limits=(LimitDef(unit="requests", amount=1),) * 2)),
]


@pytest.mark.parametrize("given", BAD)
async def test_nonsense_is_refused_with_what_to_do(tenants: Tenants, given: KeyInput) -> None:
    team = await tenants.team()
    with pytest.raises(Refusal) as refused:
        await tenants.keys.create(ACTOR, team, given)
    assert refused.value.word == "invalid_input"
    assert refused.value.hint
    assert refused.value.word in RULES


async def test_limits_without_an_id_are_named(tenants: Tenants) -> None:
    limits = (LimitDef(unit="requests", amount=60), LimitDef(unit="tokens", amount=9, per_seconds=3600, scope="user"))
    team = await tenants.team()
    key = (await tenants.keys.create(ACTOR, team, KeyInput(name="k", policy=Policy(limits=limits)))).key
    assert [limit.id for limit in key.policy.limits] == ["key-requests-60s", "user-tokens-3600s"]


@pytest.mark.parametrize("overlap", [-1, 31 * 86_400])
async def test_an_absurd_overlap_is_refused(tenants: Tenants, overlap: int) -> None:
    key = (await tenants.keys.create(ACTOR, await tenants.team(), KeyInput(name="ci"))).key
    with pytest.raises(Refusal, match="overlap"):
        await tenants.keys.rotate(ACTOR, key.id, overlap)


async def test_unknown_ids_say_how_to_find_the_right_one(tenants: Tenants) -> None:
    for act in (
        tenants.keys.create(ACTOR, "nobody", KeyInput(name="k")),
        tenants.keys.rotate(ACTOR, "aaaaaaaaaaaa", 0),
        tenants.keys.remove(ACTOR, "aaaaaaaaaaaa"),
    ):
        with pytest.raises(Refusal) as refused:
            await act
        assert refused.value.word == "unknown_id"
        assert refused.value.hint.startswith("See: bursar ")
