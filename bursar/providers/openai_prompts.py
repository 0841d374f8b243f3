"""Prompts that are no messages: a text, an array of texts, of token ids, or of arrays of token ids.

Shapes: https://platform.openai.com/docs/api-reference/embeddings/create (input),
https://platform.openai.com/docs/api-reference/completions/create (prompt).
"""

from typing import NamedTuple, TypeVar

import msgspec

from bursar.core.errors import Refusal
from bursar.providers.strict_json import malformed, wrong_kind
from bursar.providers.usage_counts import BYTES_PER_TOKEN, utf8_bytes

_MOST = 100_000  # prompts of one call
_CHARS_PER_TOKEN = 8  # the longest that tokens of a whole text are on average: a cap on characters is no wider for ids
_KINDS = "a text, or an array of texts, of token ids, or of arrays of token ids"
T = TypeVar("T")

_TEXT = msgspec.json.Decoder(str)
_TEXTS = msgspec.json.Decoder(list[str])
_TOKENS = msgspec.json.Decoder(list[int])
_TOKEN_LISTS = msgspec.json.Decoder(list[list[int]])


class Prompts(NamedTuple):
    """Each is read by itself, in a context window of its own."""

    number: int
    most_bytes: int  # UTF-8 bytes that all of them can be as text
    tokens: int = 0  # that came as their ids
    chars: int = 0  # that those count as


def read_prompts(raw: bytes, where: str) -> Prompts:
    """Raises Refusal(invalid_field | malformed_request)."""
    head = bytes(memoryview(raw)[:256]).translate(None, b" \t\r\n")  # which kind it is shows in its first two marks
    if head.startswith(b"[["):
        lists = _read(_TOKEN_LISTS, raw, where)
        return _counted(len(lists), *_of_tokens(sum(map(len, lists))), where=where)
    if head.startswith(b'["'):
        texts = _read(_TEXTS, raw, where)
        return _counted(len(texts), sum(map(utf8_bytes, texts)), where=where)
    if head.startswith(b"["):
        tokens = _read(_TOKENS, raw, where)
        return _counted(1 if tokens else 0, *_of_tokens(len(tokens)), where=where)
    return Prompts(1, utf8_bytes(_read(_TEXT, raw, where)))


def _of_tokens(tokens: int) -> tuple[int, int, int]:
    return tokens * BYTES_PER_TOKEN, tokens, tokens * _CHARS_PER_TOKEN


def _counted(count: int, most_bytes: int, tokens: int = 0, chars: int = 0, *, where: str) -> Prompts:
    if not count:
        raise Refusal("invalid_field", f"`{where}` is empty")
    if count > _MOST:
        raise Refusal("malformed_request", f"`{where}` holds more than {_MOST} prompts")
    return Prompts(count, most_bytes, tokens, chars)


def _read(kind: msgspec.json.Decoder[T], raw: bytes, where: str) -> T:
    try:
        return kind.decode(raw)
    except msgspec.ValidationError:
        raise wrong_kind(where, _KINDS) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from None
