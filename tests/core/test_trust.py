"""Claims against patterns: what fits, and that nothing a stranger writes makes it slow."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.directory import TrustRule
from bursar.core.trust import find_claim, fits, is_issuer, mismatches, trust_domain

letters = st.text(alphabet="ab*/", max_size=12)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(letters, st.text(alphabet="ab/", max_size=12))
def test_patterns_mean_what_regular_expressions_of_them_mean(pattern: str, text: str) -> None:
    meant = ".*".join(map(re.escape, pattern.split("*")))
    assert fits(pattern, text) == (re.fullmatch(meant, text, re.DOTALL) is not None)


@given(st.text(max_size=20))
def test_a_pattern_without_a_star_fits_itself_only(text: str) -> None:
    assert fits(text.replace("*", "x"), text.replace("*", "x"))
    assert not fits(text.replace("*", "x") + "y", text)


def test_a_pattern_of_many_stars_is_not_slow() -> None:
    assert not fits("*a" * 200 + "*b", "a" * 16_000)


@pytest.mark.parametrize("text", ["octo/app2", "octo/app\n", "Octo/app", "octo/app ", "xocto/app", "octo//app", "octo"])
def test_near_is_not_the_same(text: str) -> None:
    assert not fits("octo/app", text)


@given(st.dictionaries(st.text(max_size=4), values, max_size=4), st.text(max_size=8))
def test_any_claims_can_be_looked_through(claims: dict[str, Any], path: str) -> None:
    find_claim(claims, path)
    rule = TrustRule(id="r", team_id="t", issuer="https://i", audience="a", match={path: ("x", "y*")})
    assert isinstance(mismatches(rule, claims), list)
    is_issuer(rule, claims)
    trust_domain(claims)


@given(st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_a_claim_that_is_not_there_never_fits(claims: dict[str, Any]) -> None:
    rule = TrustRule(id="r", team_id="t", issuer="https://i", audience="a", match={"absent": ("*",)})
    assert mismatches(rule, {name: value for name, value in claims.items() if name != "absent"})


@given(st.lists(st.text(max_size=5), max_size=4), st.text(max_size=5))
def test_of_a_list_one_member_is_enough(members: list[str], wanted: str) -> None:
    rule = TrustRule(
        id="r", team_id="t", issuer="https://i", audience="a", match={"groups": (wanted.replace("*", ""),)}
    )
    assert (not mismatches(rule, {"groups": members})) == (wanted.replace("*", "") in members)


@pytest.mark.parametrize(
    ("path", "found"),
    [("a", {"b/c": {"~": 1}, "d": [1]}), ("a/b~1c/~0", 1), ("a/d", [1]), ("a/d/0", None), ("a/x", None), ("", None)],
)
def test_a_claim_inside_another_is_named_by_a_pointer(path: str, found: Any) -> None:
    assert find_claim({"a": {"b/c": {"~": 1}, "d": [1]}}, path) == found


@pytest.mark.parametrize(
    ("claims", "domain"),
    [
        ({"sub": "spiffe://example.org/a"}, "spiffe://example.org"),
        ({"sub": "spiffe://"}, ""),
        ({"sub": "spiffe:///a"}, ""),
        ({"sub": "https://example.org/a"}, ""),
        ({"sub": 1}, ""),
        ({}, ""),
    ],
)
def test_the_trust_domain_of_a_svid(claims: dict[str, Any], domain: str) -> None:
    assert trust_domain(claims) == domain
