"""A token is never wider than what stands behind it, whatever its scopes say; and scopes read back as written."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.access_tokens import decode_part, encode_part
from bursar.core.calls import Call
from bursar.core.directory import BudgetDef, LimitDef, Owner, Policy, Team, VirtualKey
from bursar.core.errors import Refusal
from bursar.core.grants import Grant, Scopes, narrow, parse_scopes, render_scopes
from bursar.core.networks import caller_address, is_inside, is_within, read_networks
from bursar.core.policy import KeyPlan, compile_policy, decide
from bursar.core.tokens import mask, mask_bytes

MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4", "o3")
PATTERNS = ("*", "gpt-*", "gpt-4o", "gpt-4o-mini", "claude-*", "o?", "none")
NETWORKS = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32")
ADDRESSES = ("10.1.2.3", "10.200.0.1", "192.0.2.7", "2001:db8::1", "")
NOW = 10**18

some = st.one_of(st.none(), st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3, unique=True).map(tuple))
places = st.one_of(st.none(), st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2, unique=True).map(tuple))
purposes = st.one_of(st.none(), st.sampled_from([("inference",), ("embeddings",), ("inference", "embeddings")]))
caps = st.one_of(st.none(), st.integers(1, 5_000))
policies = st.builds(
    Policy,
    models=some,
    purposes=purposes,
    max_tokens_cap=caps,
    networks=places,
    over_max_tokens=st.sampled_from([None, "clamp", "refuse"]),
    modes=st.sampled_from([{}, {"models": "shadow"}, {"max_tokens": "off"}]),
    limits=st.sampled_from([(), (LimitDef(id="r", unit="requests", amount=5),)]),
)
scopes = st.builds(
    Scopes,
    models=some,
    purposes=purposes,
    max_tokens=caps,
    networks=places,
    budget_pico=st.one_of(st.none(), st.integers(1, 10**18)),
    caller=st.sampled_from(["", "ci", "a@b.c/d:1"]),
)
calls = st.builds(
    lambda model, purpose, asked: Call(
        route="chat",
        dialect="openai",
        purpose=purpose,
        model=model,
        stream=False,
        body=b"{}",
        input_bytes=4,
        prompt_chars=4,
        messages=1,
        max_tokens=asked,
    ),
    st.sampled_from(MODELS),
    st.sampled_from(["inference", "embeddings"]),
    st.one_of(st.none(), st.integers(1, 10_000)),
)


def plan(team: Policy, key: Policy, **more: Any) -> KeyPlan:
    holder = VirtualKey(id="k", name="k", team_id="t", secrets=(), policy=key, **more)
    budgets = [BudgetDef(id="b", version=1, subject_kind="key", subject="k", limit_pico=5)]
    return compile_policy(holder, Team(id="t", name="t", owner_id="o", policy=team), Owner(id="o", name="o"), budgets)


def grant(asked: Scopes, ends: int = NOW + 10) -> Grant:
    return Grant(jti="j", kind="token", parent="k", expires_at=ends, scopes=asked)


def outcome(of: KeyPlan, call: Call, address: str) -> int | None:
    """The output cap of a call that may run; None = it is refused."""
    try:
        of.check_alive(NOW)
        of.check_network(address)
        return decide(of, call, None).output_cap
    except Refusal:
        return None


@given(policies, policies, scopes, calls, st.sampled_from(ADDRESSES))
def test_a_token_never_allows_what_its_key_does_not(
    team: Policy, key: Policy, asked: Scopes, call: Call, address: str
) -> None:
    parent = plan(team, key)
    token = narrow(parent, grant(asked))
    of_token, of_key = outcome(token, call, address), outcome(parent, call, address)
    if of_token is not None:
        assert of_key is not None
        assert of_token <= of_key
    assert set(parent.fixed_budgets) <= set(token.fixed_budgets)
    assert set(parent.limits) <= set(token.limits)
    assert (asked.budget_pico is not None) == (len(token.fixed_budgets) > len(parent.fixed_budgets))
    if asked.budget_pico is not None:
        assert token.budget_set(call.model, call.model, "").hard
    assert token.parent is parent


@given(policies, scopes, calls, st.sampled_from(ADDRESSES))
def test_and_never_what_its_scopes_do_not(key: Policy, asked: Scopes, call: Call, address: str) -> None:
    alone = plan(Policy(), Policy(models=asked.models, purposes=asked.purposes, networks=asked.networks))
    token = narrow(plan(Policy(), key), grant(asked))
    if outcome(token, call, address) is not None:
        assert outcome(alone, call, address) is not None


@given(policies, scopes, calls)
def test_what_the_key_remembers_is_not_the_tokens(key: Policy, asked: Scopes, call: Call) -> None:
    parent = plan(Policy(), key)
    outcome(parent, call, "10.1.2.3")
    parent.budget_set(call.model, call.model, "")
    remembering = outcome(narrow(parent, grant(asked)), call, "10.1.2.3")
    assert remembering == outcome(narrow(plan(Policy(), key), grant(asked)), call, "10.1.2.3")


def test_it_ends_with_the_sooner_of_the_two() -> None:
    parent = plan(Policy(), Policy(), expires_at=NOW + 5)
    assert narrow(parent, grant(Scopes(), NOW + 9)).expires_at == NOW + 5
    assert narrow(parent, grant(Scopes(), NOW + 3)).expires_at == NOW + 3


@given(scopes)
def test_scopes_read_back_as_written(asked: Scopes) -> None:
    assert parse_scopes(render_scopes(asked)) == asked


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Refusal):  # anything else that is raised fails
        read = parse_scopes(text)
        assert parse_scopes(render_scopes(read)) == read


@given(st.binary(max_size=70))
def test_base64url_has_one_spelling(raw: bytes) -> None:
    text = encode_part(raw)
    if raw:
        assert decode_part(text) == raw
        last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        same = []
        for letter in last:
            try:
                same += [letter] * (decode_part(text[:-1] + letter) == raw)
            except ValueError:
                continue
        assert same == [text[-1]]


@pytest.mark.parametrize("text", ["", "a", "ab=", "a b", "ab\n", "a+b/", "ab==", "é"])
def test_what_is_not_base64url_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_part(text)


def test_a_token_in_a_text_is_blotted_out() -> None:
    token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    assert mask(f"got {token}!") == "got eyJhbGciOiJFZERTQSJ9.ey***!"
    assert mask_bytes(f"got {token}!".encode()) == b"got eyJhbGciOiJFZERTQSJ9.ey***!"
    assert mask("no token.ey") == "no token.ey"


@given(st.sampled_from(NETWORKS), st.lists(st.sampled_from(NETWORKS), min_size=1), st.sampled_from(ADDRESSES))
def test_what_lies_inside_holds_no_address_that_the_others_do_not(inner: str, outer: list[str], address: str) -> None:
    if is_inside(inner, outer) and is_within(address, read_networks([inner])):
        assert is_within(address, read_networks(outer))


@given(st.lists(st.sampled_from(["10.0.0.1", "6.6.6.6", "7.7.7.7", "x"]), max_size=4))
def test_a_stranger_cannot_speak_for_another(hops: list[str]) -> None:
    proxies = read_networks(["10.0.0.0/8"])
    said = ", ".join(hops)
    assert caller_address("9.9.9.9", said, proxies) == "9.9.9.9"
    assert caller_address("10.0.0.2", f"{said}, 8.8.8.8", proxies) == "8.8.8.8"
    assert caller_address("10.0.0.2", said, ()) == "10.0.0.2"


def test_a_grant_is_plain_data() -> None:
    asked = grant(Scopes(models=("a",)))
    assert msgspec.json.decode(msgspec.json.encode(asked), type=Grant) == asked
