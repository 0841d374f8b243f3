"""Governed JSON: a duplicate is found however it is written, and nothing but a Refusal comes out of a hostile body."""

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.providers import anthropic as dialect_anthropic
from bursar.providers import openai_chat as dialect_openai
from bursar.providers.anthropic import Anthropic
from bursar.providers.openai import OpenAI
from bursar.providers.strict_json import fields_of, objects_of, read_body, unknown_keys

T = TypeVar("T")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
KEYS = st.sampled_from(["a", "b", "model", "é", 'q"uote', "back\\slash", "new\nline", ""]) | st.text(max_size=4)
SPACES = st.sampled_from(["", "", " ", "\n  ", "\t\r\n"])


def escaped(key: str) -> str:
    """The key with every character written as an escape."""
    units = key.encode("utf-16-be", "surrogatepass")
    return '"' + "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2)) + '"'


def outcome(act: Callable[[], T]) -> tuple[T | None, str]:
    """-> (value, "") or (None, the word of the refusal)."""
    try:
        return act(), ""
    except Refusal as refusal:
        return None, refusal.word


def top_keys(text: str) -> list[str]:
    """By another parser: the keys of the outermost object, duplicates and all."""
    last: list[list[str]] = []
    json.loads(text, object_pairs_hook=lambda pairs: last.append([key for key, _ in pairs]))
    return last[-1]


@st.composite
def objects(draw: st.DrawFn) -> tuple[str, list[str]]:
    """An object as text, written in any legal style, and its keys in order."""
    pairs = draw(st.lists(st.tuples(KEYS, VALUES), max_size=5))
    ascii_only = draw(st.booleans())
    style = draw(st.sampled_from(["compact", "spaced", "wild"]))
    spaces = {"compact": ("", ""), "spaced": ("", " ")}
    text = "{"
    for at, (key, value) in enumerate(pairs):
        before, after = spaces.get(style) or (draw(SPACES), draw(SPACES))
        name = escaped(key) if draw(st.booleans()) else json.dumps(key, ensure_ascii=ascii_only)
        text += ("," + after if at else "") + before + name + before + ":" + after
        text += json.dumps(value, ensure_ascii=ascii_only)
    return text + (draw(SPACES) if style == "wild" else "") + "}", [key for key, _ in pairs]


@given(objects())
@settings(max_examples=400, deadline=None)
def test_a_duplicate_is_found_in_every_style_and_only_a_duplicate(given_object: tuple[str, list[str]]) -> None:
    text, keys = given_object
    assert top_keys(text) == keys
    fields, word = outcome(lambda: fields_of(text.encode("utf-8", "surrogatepass"), "here"))
    if word == "malformed_request":
        assert "\\ud" in text.lower() or any(0xD800 <= ord(char) < 0xE000 for char in text), "only lone surrogates"
        return
    assert (word == "duplicate_field") == (len(set(keys)) < len(keys))
    if fields is not None:
        assert list(fields) == keys
        assert {key: json.loads(bytes(raw)) for key, raw in fields.items()} == json.loads(text)


@given(st.lists(objects(), max_size=4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_an_array_of_objects_is_as_strict_as_each_of_them(many: list[tuple[str, list[str]]], spaced: bool) -> None:
    text = "[" + (", " if spaced else ",").join(one for one, _ in many) + "]"
    duplicated = any(len(set(keys)) < len(keys) for _, keys in many)
    found, word = outcome(lambda: objects_of(text.encode("utf-8", "surrogatepass"), "here[]"))
    if word == "malformed_request":
        return  # lone surrogates
    assert (word == "duplicate_field") == duplicated
    if found is not None:
        assert [list(fields) for fields in found] == [keys for _, keys in many]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"a":1}x',
        b'{"a":1,}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":01}',
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'{"a":"\xed\xa0\x80"}',  # a surrogate in UTF-8
        b'{"a":"\\ud800"}',
        b'{"a":"tab\tinside"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_body(body)
    assert refused.value.word == "malformed_request"


def test_a_key_that_differs_only_in_case_is_refused_by_unicode_folding() -> None:
    known = frozenset({"messages", "tools"})
    for key in ("Messages", "MESSAGES", "me\u017f\u017fages"):  # the long s folds to s
        with pytest.raises(Refusal) as refused:
            unknown_keys([key], known, "")
        assert refused.value.word == "duplicate_field"
    assert unknown_keys(["messages", "message"], known, "") == ("message",)


FIELDS = sorted(dialect_openai._KNOWN | dialect_anthropic._KNOWN | {"new_field", "Model", "N"})
PART_FIELDS = ["type", "text", "image_url", "source", "file_id", "cache_control", "content", "file", "Type", "url"]
BODIES = st.dictionaries(
    st.sampled_from(FIELDS) | st.text(max_size=5),
    VALUES,
    max_size=8,
)
BLOCKS = st.recursive(
    st.dictionaries(
        st.sampled_from(PART_FIELDS),
        SCALARS | st.sampled_from(["text", "image", "document", "image_url", "tool_result"]),
        max_size=4,
    ),
    lambda inner: st.dictionaries(st.sampled_from(["content", "source", "image_url", "file"]), inner | st.lists(inner)),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": SCALARS | st.lists(BLOCKS, max_size=3)}), max_size=3
)


@given(BODIES, st.none() | MESSAGES, st.sampled_from([None, (",", ":"), (" ,", " : ")]))
@settings(max_examples=400, deadline=None)
def test_any_body_is_understood_or_refused(body: dict[str, Any], messages: Any, separators: Any) -> None:
    if messages is not None:
        body = {**body, "model": "m", "messages": messages}
    data = json.dumps(body, separators=separators).encode()
    for dialect, route in ((OpenAI(), "chat"), (Anthropic(), "messages"), (Anthropic(), "count_tokens")):
        call, word = outcome(functools.partial(dialect.understand, route, data))
        if call is None:
            assert word in ("malformed_request", "duplicate_field", "invalid_field")
            continue
        assert call.body == data
        assert call.model == body["model"]
        assert call.messages == len(body["messages"])
        assert call.prompt_chars <= len(data)


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_or_understood(data: bytes) -> None:
    for dialect, route in ((OpenAI(), "chat"), (Anthropic(), "messages")):
        with pytest.raises(Refusal):
            dialect.understand(route, data)


@pytest.mark.parametrize(("dialect", "route"), [(OpenAI(), "chat"), (Anthropic(), "messages")])
def test_a_hundred_thousand_messages_and_deep_blocks(dialect: Any, route: str) -> None:
    many = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "x"}] * 100_000})
    assert dialect.understand(route, many).messages == 100_000
    block: Any = {"type": "tool_result", "content": "x"}
    for _ in range(400):
        block = {"type": "tool_result", "content": [block]}
    deep = json.dumps({"model": "m", "messages": [{"role": "user", "content": [block]}]}).encode()
    assert outcome(lambda: dialect.understand(route, deep))[1] in ("", "malformed_request")
