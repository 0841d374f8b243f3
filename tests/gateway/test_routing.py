"""Which provider key serves a call: addresses narrow, tags bind, made-up answers never beside real keys."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.directory import Delta, ProviderKey
from bursar.core.routing import address_parts, key_fits, rank_keys, usable_keys
from bursar.gateway import node
from tests.gateway.answers import MODEL, chat, completion, error, usage
from tests.gateway.ground import Stand, provider, provider_key

MakeStand = Callable[..., Stand]


def ranked(*keys: ProviderKey, model: str = MODEL, team: str = "team-1", purpose: str = "inference") -> list[str]:
    return [key.id for key in rank_keys(keys, "openai", model, team, purpose)]


def test_the_most_specific_address_comes_first() -> None:
    general = provider_key("d", "openai/*/api/prod/*")
    of_model = provider_key("c", f"openai/{MODEL}/api/prod/*")
    of_glob = provider_key("e", "openai/plain-*/api/prod/*")
    of_team = provider_key("b", "openai/*/api/prod/team-1")
    of_both = provider_key("a", f"openai/{MODEL}/api/prod/team-1")
    assert ranked(general, of_glob, of_model, of_team, of_both) == ["a", "b", "c", "e", "d"]


def test_of_two_that_are_alike_the_choice_is_stable() -> None:
    keys = [provider_key(name, "openai/*/api/prod/*") for name in "cab"]
    assert ranked(*keys) == ranked(*reversed(keys)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "key",
    [
        provider_key("a", "anthropic/*/api/prod/*"),
        provider_key("a", "openai/other/api/prod/*"),
        provider_key("a", "openai/*/api/prod/team-2"),
        provider_key("a", "openai/*/api/prod/*", disabled=True),
        provider_key("a", "openai/*/api/prod/*", purposes=("batch",)),
        provider_key("a", "openai/*/api/prod/*", purposes=()),
        provider_key("a", "openai/*/api/prod/*", allowed_models=("other-*",)),
        provider_key("a", "openai/*/api/prod/*", allowed_models=()),
    ],
)
def test_what_does_not_fit_is_not_used(key: ProviderKey) -> None:
    assert ranked(key) == []


def test_tags_allow_by_name_or_glob() -> None:
    assert ranked(provider_key("a", "openai/*/api/prod/*", allowed_models=("x", "plain-*"))) == ["a"]
    assert ranked(provider_key("a", "openai/*/api/prod/*", purposes=("batch", "inference"))) == ["a"]


EMULATED = provider_key("emu", "openai/*/api/emulator/*")
REAL = provider_key("real", "anthropic/*/api/prod/*")


def test_the_emulators_keys_count_only_while_nothing_real_is_stored() -> None:
    assert usable_keys([EMULATED]) == [EMULATED]
    assert usable_keys([EMULATED, REAL]) == [REAL]
    off = provider_key("off", "openai/*/api/prod/*", disabled=True)
    assert usable_keys([EMULATED, off]) == [off]  # switched off, it is still no reason to make answers up


@pytest.mark.parametrize("address", ["openai", "openai/*/api/prod", "openai/*/api/prod/*/x", ""])
def test_an_address_has_five_parts(address: str) -> None:
    with pytest.raises(ValueError):
        address_parts(address)


_parts = st.sampled_from(["*", "openai", "plain-1", "plain-*", "team-1", "team-2", "emulator"])


@given(
    st.lists(
        st.builds(
            lambda name, parts, **more: provider_key(name, "/".join(parts), **more),
            st.text("abc", min_size=1, max_size=2),
            st.tuples(_parts, _parts, st.just("api"), _parts, _parts),
            disabled=st.booleans(),
            allowed_models=st.sampled_from([("*",), ("plain-1",), ("x",)]),
        ),
        max_size=6,
    )
)
def test_ranking_keeps_all_that_fit_and_nothing_else(keys: list[ProviderKey]) -> None:
    chosen = rank_keys(keys, "openai", MODEL, "team-1", "inference")
    assert sorted(map(id, chosen)) == sorted(
        id(key) for key in keys if key_fits(key, "openai", MODEL, "team-1", "inference")
    )
    assert [key.id for key in rank_keys(reversed(keys), "openai", MODEL, "team-1", "inference")] == [
        key.id for key in chosen
    ] or len({key.id for key in keys}) < len(keys)


# ---- through the pipeline --------------------------------------------------------------------------------------------


def twin(**changes: Any) -> Any:
    return provider("openai", twin=provider("openai", door="emulator", **changes), door="real")


async def test_an_emulators_key_reaches_the_twin_only(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=[EMULATED], providers=[twin()])
    (option,) = await options_of(stand)
    assert option.provider.door == "emulator"


async def test_without_a_twin_an_emulators_key_reaches_nothing(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=[EMULATED], providers=[provider("openai", door="real")])
    exchange = await stand.ask()
    assert exchange.word == "no_provider_key"


async def test_a_real_key_reaches_the_real_provider(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=[EMULATED, provider_key("k", "openai/*/api/prod/*")], providers=[twin()])
    (option,) = await options_of(stand)
    assert option.provider.door == "real"


async def options_of(stand: Stand) -> list[Any]:
    await stand.ask(completion("Hi", usage(1, 1)))
    (found,) = stand.node.options._options.values()
    return found


async def test_ways_are_found_anew_when_the_directory_changes(make_stand: MakeStand) -> None:
    stand = make_stand()
    assert (await stand.ask(completion("Hi", usage(1, 1)))).status == 200
    off = provider_key("pk-openai", "openai/*/api/prod/*", disabled=True)
    stand.node.tenants.change(Delta(version=2, provider_keys=[off]))
    assert (await stand.ask()).word == "no_provider_key"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [("openai/plain-1", "plain-1"), ("plain-1", "plain-1"), ("deploy", "deploy"), ("openai/deploy", "deploy")],
)
async def test_a_name_may_carry_its_provider_or_be_a_deployments(make_stand: MakeStand, asked: str, sent: str) -> None:
    stand = make_stand(providers=[provider("openai", models=("plain-*",), deployments={"deploy": MODEL})])
    exchange = await stand.ask(completion("Hi", usage(10, 2)), body=chat(model=asked))
    assert exchange.status == 200
    assert stand.upstream.sent[0].json["model"] == sent
    assert stand.post.cost_pico == 18_000  # by the model's price, whatever it is called


async def test_a_key_of_another_team_is_not_borrowed(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=[provider_key("k", "openai/*/api/prod/team-2")])
    assert (await stand.ask()).word == "no_provider_key"


async def test_names_that_callers_make_up_are_not_remembered_without_end(make_stand: MakeStand) -> None:
    stand = make_stand()
    for number in range(node._MOST_REMEMBERED + 10):
        stand.node.options.keep(("team-1", "openai", f"m-{number}", "inference"), [])
    assert len(stand.node.options._options) <= node._MOST_REMEMBERED


async def test_a_key_that_the_provider_refuses_is_forgotten_and_told(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = await stand.ask(error(401))
    assert exchange.word == "upstream_key_refused"
    assert "pk-openai" in exchange.json["error"]["message"]
    assert stand.happened == [("upstream_key_refused", "pk-openai", {"provider": "openai", "status": 401})]
    await stand.ask(completion("Hi", usage(1, 1)))
    assert len(stand.releases.asked) == 2  # asked anew: it may have been replaced
