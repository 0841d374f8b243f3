"""Every shape is found in every surrounding, and what is no key is not."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.key_shapes import LONGEST, SHAPES, look, provider_of, shown
from tests.core.key_samples import samples

NAMES = [shape.id for shape in SHAPES]


def rules_in(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [found.shape.id for found in look(data)]


def test_every_shape_has_a_sample() -> None:
    assert sorted(samples(random.Random(1))) == sorted(NAMES)
    assert all(len(text) < LONGEST for text in samples(random.Random(1)).values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "around", ["{}", "key = '{}';", 'x: "{}"\n', "https://h/?key={}&b=1", "\t{}\r\n", "[{}]", "é{}é"]
)
def test_a_key_is_found_as_what_it_is(name: str, around: str) -> None:
    for seed in range(20):
        text = samples(random.Random(f"{name} {seed}"))[name]
        assert rules_in(around.format(text)) == [name], around


@pytest.mark.parametrize("name", NAMES)
def test_the_place_is_that_of_the_key_alone(name: str) -> None:
    text = samples(random.Random(7))[name]
    (found,) = look(f"before {text} after".encode())
    key = f"before {text} after".encode()[found.start : found.end].decode()
    assert key in text
    assert not re.search(r"[\s\"'=:]", key)
    assert key[8:] not in shown(key.encode())
    assert len(shown(key.encode())) < 20


@pytest.mark.parametrize(
    "text",
    [
        "sk-" + "x" * 48,  # a filler
        "sk-proj-your-key-here",
        "task-0123456789abcdef0123456789abcdef",  # the begin of no word
        "sk-" + "0123456789abcdef" * 2 + "0",  # longer than the shape
        "AIza" + "A" * 35,
        "bsr_abcdefgh2345_" + "0123456789" * 4 + "012345678",  # a checksum that does not hold
        "d41d8cd98f00b204e9800998ecf8427e",  # a digest with nobody's name
        "mistral is a wind of 0123456789abcdef0123456789abcdef",
    ],
)
def test_what_is_no_key(text: str) -> None:
    assert rules_in(text) == []


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from(NAMES), st.integers(0, 99))
def test_any_bytes_around_are_survived_and_separated_ones_hide_nothing(
    before: bytes, after: bytes, name: str, seed: int
) -> None:
    text = samples(random.Random(seed))[name].encode()
    assert name in rules_in(before + b"\n" + text + b"\n" + after)


@given(st.integers(1, 400), st.sampled_from(NAMES))
def test_a_literal_is_looked_at_once_wherever_the_data_is_parted(at: int, name: str) -> None:
    data = b"." * 150 + samples(random.Random(3))[name].encode() + b"." * 150
    cut = min(at, len(data))
    assert len(look(data, 0, cut)) + len(look(data, cut)) == 1


PROVIDERS = {"openai-key": "openai", "anthropic-key": "anthropic", "groq-key": "groq", "azure-openai-key": "azure"}
PROVIDERS |= {"xai-key": "xai", "bedrock-key": "bedrock", "huggingface-token": "hugging" + "face"}


@pytest.mark.parametrize(("name", "provider"), PROVIDERS.items())
@pytest.mark.parametrize("seed", range(5))
def test_the_provider_of_a_whole_key_is_known(name: str, provider: str, seed: int) -> None:
    text = samples(random.Random(seed))[name]
    assert provider_of(text) == provider
    for other in (text[:-1] + "!", f" {text}", f"{text}\n", f"x{text}", f"{text} {text}", text * 4):
        assert provider_of(other) == ""


@pytest.mark.parametrize("name", ["bursar-key", "bursar-admin-token", "anthropic-admin-key", "anthropic-oauth-token"])
def test_what_is_no_key_for_calls_has_no_provider(name: str) -> None:
    assert provider_of(samples(random.Random(1))[name]) == ""


@pytest.mark.parametrize("name", ["deepseek-key", "moonshot-key"])
def test_a_shape_that_several_vendors_share_names_none(name: str) -> None:
    """Keys of Alibaba's DashScope are `sk-` and 32 hex digits as well: they are not sent to DeepSeek."""
    assert provider_of(samples(random.Random(1))[name]) == ""


@given(st.text(max_size=600))
def test_any_text_may_be_asked_for_its_provider(text: str) -> None:
    assert provider_of(text) == "" or text.isascii()
