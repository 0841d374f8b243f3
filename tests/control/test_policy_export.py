"""Exported policies allow exactly what the grants allow: nothing is widened to fit a store's language."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.control.policy_export import Place, export_aws, export_vault
from bursar.core.access import covers
from bursar.core.directory import AccessGrant, Act
from bursar.core.errors import Refusal
from bursar.core.layout import Layout

PLACE = Place("corp", "secret", "", Layout())
ADOPTED = Place("corp", "secret", "eu-west-1", Layout(path="llm/{team}/api-key", address={"provider": "openai"}))
PARTS = st.sampled_from(["*", "a", "b", "openai", "x.y", "x+y", "prod-*"])
NAMES = st.sampled_from(["*", "a", "b", "openai", "x.y", "x+y", "prod-eu"])
PATHS = st.tuples(*[PARTS] * 5).map("/".join)
PROVIDERS = st.sampled_from(["a", "b", "openai"])  # never "*": a key is of some provider
ADDRESSES = st.tuples(PROVIDERS, *[NAMES] * 4).map("/".join)
VAULT_PATH = re.compile(r'path "([^"]+)" \{\n  capabilities = \[([^\]]*)\]')


def grant(path: str, acts: tuple[Act, ...] = ("read",), **more: object) -> AccessGrant:
    return AccessGrant(id="g", subject="role/operator", acts=acts, path=path, **more)  # type: ignore[arg-type]


def vault_allows(policy: str, path: str, capability: str) -> bool:
    """Vault's own rule: `+` stands for one whole segment, everything else for itself."""
    for pattern, listed in VAULT_PATH.findall(policy):
        assert "*" not in pattern
        wanted, given = pattern.split("/"), path.split("/")
        if len(wanted) == len(given) and all(w in ("+", g) for w, g in zip(wanted, given, strict=True)):
            return f'"{capability}"' in listed
    return False


@settings(max_examples=300)
@given(PATHS, ADDRESSES)
def test_vault_allows_what_the_grant_covers_and_nothing_else(path: str, address: str) -> None:
    one = grant(path)
    found = export_vault([PLACE], [one])
    own = next((p.text for p in found.policies if p.name == "bursar-role-operator"), "")
    allowed = vault_allows(own, f"secret/data/{PLACE.layout.place_of(address)}", "read")
    if found.left_out:
        assert not allowed
    else:
        assert allowed == covers(one, "read", address, {}, 0)


@settings(max_examples=300)
@given(PATHS, ADDRESSES)
def test_aws_allows_what_the_grant_covers_and_nothing_else(path: str, address: str) -> None:
    one = grant(path)
    found = export_aws([PLACE], [one])
    own = next((p.text for p in found.policies if p.name == "bursar-role-operator"), "")
    name = f"arn:aws:secretsmanager:eu-west-1:123456789012:secret:{PLACE.layout.place_of(address)}-AbCdEf"
    allowed = any(
        _arn_matches(statement["Resource"], name) for statement in json.loads(own or '{"Statement":[]}')["Statement"]
    )
    assert allowed == (not found.left_out and covers(one, "read", address, {}, 0))


def _arn_matches(pattern: str, name: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), name) is not None


def test_the_acts_become_the_capabilities_of_the_store() -> None:
    text = export_vault([PLACE], [grant("openai/*/*/prod/*", ("rotate",))]).policies[1].text
    path = "secret/data/bursar/openai/_/_/prod/_"
    assert vault_allows(text, path, "update")
    assert not vault_allows(text, path, "read")
    assert "grant g: rotate openai/*/*/prod/*" in text
    statement = json.loads(
        export_aws([PLACE], [grant("*/*/*/*/*", ("write",), tags={"purpose": "x"})]).policies[1].text
    )
    (only,) = statement["Statement"]
    assert "secretsmanager:GetSecretValue" not in only["Action"]
    assert only["Condition"] == {"StringEquals": {"secretsmanager:ResourceTag/purpose": "x"}}


def test_the_broker_reaches_its_entries_and_nobody_else_is_named_for_using() -> None:
    use = AccessGrant(id="u", subject="team/search", acts=("use",), path="*/*/*/*/*")
    for found in (export_vault([PLACE], [use]), export_aws([PLACE], [use])):
        assert [policy.name for policy in found.policies] == ["bursar-broker"]
    assert vault_allows(export_vault([PLACE], []).policies[0].text, "secret/data/bursar/a/b/c/d/e", "read")


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (grant("*/*/*/*/*", tags={"a": "b"}), "cannot see tags"),
        (grant("*/*/*/*/*", expires_at=10**18), "it has an end"),
        (grant("*/*/*/prod/*"), "do not tell the environment"),
        (grant("*/*/*/*/sea*"), "cannot be told"),
    ],
)
def test_what_cannot_be_said_is_left_out_and_told(one: AccessGrant, why: str) -> None:
    found = export_vault([ADOPTED], [one])
    assert [policy.name for policy in found.policies] == ["bursar-broker"]
    (told,) = found.left_out
    assert why in told
    assert told.startswith("g in corp: ")


def test_a_fixed_part_may_be_named() -> None:
    found = export_vault([ADOPTED], [grant("openai/*/*/*/search")])
    assert vault_allows(found.policies[1].text, "secret/data/llm/search/api-key", "read")
    assert not vault_allows(found.policies[1].text, "secret/data/llm/ads/api-key", "read")


def test_a_segment_that_is_open_in_part_is_left_out() -> None:
    place = Place("corp", "secret", "", Layout(path="llm/{team}-keys/{provider}"))
    assert "part of a segment" in export_vault([place], [grant("openai/*/*/*/*")]).left_out[0]
    found = export_vault([place], [grant("openai/*/*/*/search")])
    assert vault_allows(found.policies[1].text, "secret/data/llm/search-keys/openai", "read")


def test_a_name_that_would_widen_is_refused() -> None:
    wild = Place("corp", 'secret/*" { capabilities = ["sudo"] } #', "", Layout())
    with pytest.raises(Refusal) as refused:
        export_vault([wild], [])
    assert refused.value.word == "template_unsafe"
