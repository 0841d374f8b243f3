"""A body's class is told from its bytes, whatever they are, and the same for like bodies."""

import base64
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.content import CONTENTS, classify, content_of
from tests.core.test_ceiling import a_call

_PROSE = "The committee met on Tuesday and agreed that the report should be finished before the end of the month. "
_CODE = "for (int i = 0; i < n; ++i) { total += a[i] * b[i]; if (total > limit) return -1; }\n"
_ROWS = json.dumps([{"id": n, "name": f"row {n}", "ok": True, "tags": ["a", "b"]} for n in range(40)])


def body(text: str, *, ascii_only: bool = False) -> bytes:
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
    return json.dumps(asked, ensure_ascii=ascii_only).encode()


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("Hello", "brief"),
        (_PROSE * 5, "prose"),
        (_PROSE * 5_000, "prose"),
        (_CODE * 20, "code"),
        (_ROWS, "json"),
        (base64.b64encode(random.Random(3).randbytes(3_000)).decode(), "encoded"),
        ("Пожалуйста, составьте краткое описание проекта. " * 20, "script"),
        ("请把数据整理好以后发给我。" * 40, "script"),
    ],
)
def test_the_class_of_plain_cases(text: str, content: str) -> None:
    assert classify(body(text)) == content
    assert classify(body(text, ascii_only=True)) == ("escaped" if content == "script" else content)


def test_a_few_letters_beyond_ascii_are_prose() -> None:
    text = "Er hätte größere Müdigkeit erwartet, und so kam es schließlich auch im Frühjahr. " * 6
    assert classify(body(text)) == "prose"
    assert classify(body(text, ascii_only=True)) == "escaped", "six bytes a letter make other tokens"


@given(st.binary(max_size=5_000))
def test_any_bytes_have_a_class(data: bytes) -> None:
    assert classify(data) in CONTENTS


def test_what_lies_outside_the_body_decides() -> None:
    assert content_of(a_call(body=body(_PROSE * 5))) == "prose"
    assert content_of(a_call(body=body(_PROSE * 5), external_input="image_url")) == "attached"
    assert content_of(a_call(body=body(_PROSE * 5), audio=True)) == "attached"


@given(st.text(alphabet='abcdefgh     .,\\"(;\u00e9', min_size=192, max_size=240).map(str.encode))
def test_what_is_told_early_is_what_the_whole_look_tells(data: bytes) -> None:
    """The short way to `prose` is only taken where no other class could be told."""
    size = len(data)
    if classify(data) == "prose" and size <= 256:
        assert data.count(b"\\u") * 30 <= size
        assert sum(byte > 127 for byte in data) * 5 <= size
        assert sum(byte in b'"{}[]:,\\' for byte in data) * 6 <= size
        assert sum(byte in b"()=<>;_/*+&|#$`%@^~" for byte in data) * 20 <= size
        assert sum(byte in b" \t\r\n" for byte in data) * 16 >= size
