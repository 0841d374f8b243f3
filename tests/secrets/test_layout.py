"""The path template: what goes in comes out, and what was there before is understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.core.layout import DEFAULT_PATH, Layout, check_template, derived_id
from bursar.core.provider_keys import check_address

PART = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:@+%-]{0,20}\Z")
ADDRESS = st.tuples(PART, *[PART | st.just("*")] * 4).map("/".join)


@given(address=ADDRESS)
def test_an_address_makes_the_round_trip(address: str) -> None:
    layout = Layout()
    place = layout.place_of(check_address(address))
    assert not set(place) & set("*+%:"), "characters with a meaning in policies"
    assert layout.read(place, {}) == (address, {"billing_owner": "unassigned"}, "")


@given(address=ADDRESS, team=PART, key_type=PART)
def test_an_adopted_layout_says_what_it_has_no_place_for(address: str, team: str, key_type: str) -> None:
    layout = Layout(path="llm/{team}/{key_type}", address={"provider": "openai"})
    provider, model, _, environment, _ = address.split("/")
    own = f"openai/*/{key_type}/*/{team}"
    assert layout.read(layout.place_of(own), {})[0] == own
    if (provider, model, environment) != ("openai", "*", "*"):
        with pytest.raises(Refusal) as refused:
            layout.place_of(address)
        assert refused.value.word == "invalid_address"


@given(place=st.text(max_size=60), fields=st.dictionaries(st.text(max_size=10), st.text(max_size=10) | st.integers()))
def test_whatever_lies_there_is_read_without_an_exception(place: str, fields: dict[str, object]) -> None:
    address, tags, fault = Layout(path="llm/{team}/{key_type}", address={"provider": "openai"}).read(place, fields)
    assert address
    assert "billing_owner" in tags
    assert fault in ("", "invalid_address", "invalid_tags")


def test_fields_beside_the_value_tell_what_the_path_does_not() -> None:
    layout = Layout(path="llm/{team}/{key_type}", tags={"purpose": "inference"})
    fields = {"provider": "anthropic", "model": "claude-4", "team": "ignored", "allowed_models": ["a", "b"], "n": 7}
    address, tags, fault = layout.read("llm/alpha/api-key", fields)
    assert (address, fault) == ("anthropic/claude-4/api-key/*/alpha", "")
    assert tags == {
        "allowed_models": "a,b",
        "billing_owner": "unassigned",
        "n": "7",
        "purpose": "inference",
        "team": "ignored",
    }
    assert layout.read("llm/alpha/api-key", {})[2] == "invalid_address"  # no provider anywhere: shown, not usable


@pytest.mark.parametrize(
    ("path", "fine"),
    [
        (DEFAULT_PATH, True),
        ("llm/{team}/api-key", True),
        ("x", True),
        ("{provider}-{team}/k", False),
        ("{provider}.prod/{team}", True),
        ("", False),
        ("/a", False),
        ("a//b", False),
        ("a/../b", False),
        ("a/{who}", False),
        ("a/{team}/{team}", False),
        ("a/{team", False),
        ("{team}{model}", False),
    ],
)
def test_a_template_that_cannot_be_read_back_is_refused(path: str, fine: bool) -> None:
    assert (check_template(path) == "") is fine


def test_ids_are_the_same_at_every_start_and_differ_by_store() -> None:
    assert derived_id("corp", "a") == derived_id("corp", "a") != derived_id("other", "a")
    assert derived_id("corp", "a").startswith("sec_")
