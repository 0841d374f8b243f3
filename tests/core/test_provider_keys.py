"""Addresses and tags: no two different bindings share a digest, and what is canonical stays as it is."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.errors import RULES, Refusal
from bursar.core.provider_keys import (
    SecretEntry,
    SecretVersion,
    check_address,
    check_tags,
    provider_key_of,
    tag_digest,
)

texts = st.text(max_size=12)
bindings = st.tuples(texts, st.dictionaries(texts, texts, max_size=4))


def word_of(check: Callable[[], object]) -> str | None:
    try:
        check()
    except Refusal as refusal:
        return refusal.word
    return None


@given(bindings, bindings)
def test_different_bindings_have_different_digests(
    one: tuple[str, dict[str, str]], two: tuple[str, dict[str, str]]
) -> None:
    assert (tag_digest(*one) == tag_digest(*two)) == (one == two)


@given(texts, st.lists(st.tuples(texts, texts), max_size=5, unique_by=lambda pair: pair[0]))
def test_the_order_of_tags_does_not_matter(address: str, pairs: list[tuple[str, str]]) -> None:
    assert tag_digest(address, dict(pairs)) == tag_digest(address, dict(reversed(pairs)))


def test_text_cannot_run_from_one_tag_into_the_next() -> None:
    assert tag_digest("a", {"b": "cd", "e": "f"}) != tag_digest("a", {"b": "c", "de": "f"})
    assert tag_digest("ab", {}) != tag_digest("a", {"b": ""})


def test_the_digest_is_what_it_was_when_the_format_was_fixed() -> None:
    """Every sealed secret in the world depends on these bytes."""
    digest = tag_digest("openai/*/api/prod/alpha", {"purpose": "inference", "billing_owner": "ann"})
    assert digest.hex() == "7fd0282fd42122633e828daf9e0790e990a6537cc0a67782e328c2dae9a5c887"


@given(st.text(max_size=60))
def test_any_address_is_taken_as_it_is_or_refused(text: str) -> None:
    word = word_of(lambda: check_address(text))
    assert word in (None, "invalid_address")
    if word is None:
        assert check_address(text) == text
        provider, *rest = text.split("/")
        assert provider != "*"
        assert len(rest) == 4
        assert text.isascii()
        assert text.isprintable()


@given(st.dictionaries(st.sampled_from(["purpose", "allowed_models", "max_tokens_default", "note", "Bad"]), texts))
def test_any_tags_are_made_canonical_once_or_refused(tags: dict[str, str]) -> None:
    word = word_of(lambda: check_tags(tags))
    assert word in (None, "invalid_tags")
    if word:
        return
    clean = check_tags(tags)
    assert check_tags(clean) == clean
    assert list(clean) == sorted(clean)
    entry = SecretEntry(id="sec_a", address="openai/*/api/prod/alpha", tags=clean, version=1)
    key = provider_key_of(entry)
    assert all(key.purposes)
    assert all(key.allowed_models)
    assert key.max_tokens_default is None or key.max_tokens_default > 0


def test_an_entry_without_a_current_version_is_off() -> None:
    gone = SecretVersion(version=1, state="destroyed", created_at=0)
    entry = SecretEntry(id="sec_a", address="openai/*/api/prod/alpha", tags={}, version=0, versions=(gone,))
    assert provider_key_of(entry).disabled


@pytest.mark.parametrize(
    "word", ["invalid_address", "invalid_tags", "wrapper_lost", "tags_changed", "duplicate_secret"]
)
def test_each_word_has_its_row(word: str) -> None:
    assert word in RULES
