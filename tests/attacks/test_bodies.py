"""Bodies made to cost more than they hold: in money at the provider, or in time and memory of this process."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from bursar.core.calls import Call
from bursar.core.ceiling import input_ceiling
from bursar.core.errors import Refusal
from bursar.core.tariff import Price
from bursar.providers.anthropic import Anthropic
from bursar.providers.openai import OpenAI
from bursar.stores.catalogue import load
from tests.gateway.answers import error
from tests.gateway.ground import Stand

CHAT, MESSAGES = OpenAI(), Anthropic()
TOOLS_TOKENS = 2_600  # what Anthropic documents for its tool system prompt and its built-in client tools


def chat(raw: bytes) -> Call:
    return CHAT.understand("chat", raw)


def messages(raw: bytes) -> Call:
    return MESSAGES.understand("messages", raw)


def claude() -> Price:
    price = load().find("anthropic", "claude-sonnet-4-5", time.time_ns())
    assert price is not None
    return price


def tokens_held(raw: bytes) -> int:
    """Input tokens held beyond the body's own bytes."""
    return input_ceiling(messages(raw), claude()) - len(raw)


BARE = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}]}'


@pytest.mark.parametrize(
    "tools",
    [
        b'"tools":[{"type":"bash_20250124","name":"bash"}]',
        b'"\\u0074ools":[{"type":"bash_20250124","name":"bash"}]',  # a key that no search of the raw bytes finds
        b'"to\\u006fls" : [{"type":"bash_20250124","name":"bash"}]',
    ],
)
def test_tools_are_counted_however_their_key_is_written(tools: bytes) -> None:
    assert tokens_held(BARE[:-1] + b"," + tools + b"}") >= tokens_held(BARE) + TOOLS_TOKENS


def test_a_tool_added_within_a_conversation_brings_the_tool_prompt_too() -> None:
    block = b'{"type":"tool_addition","tool":{"type":"bash_20250124","name":"bash"}}'
    call = messages(b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[' + block + b"]}]}")
    assert call.overhead_tokens >= TOOLS_TOKENS


def test_a_toolset_is_many_tools_in_few_bytes() -> None:
    one = b'{"model":"m","max_tokens":9,"messages":[],"tools":[{"type":"browser_toolset_20260801"}]}'
    assert tokens_held(one) >= TOOLS_TOKENS + 30 * 500


def test_cited_documents_are_marked_sentence_by_sentence() -> None:
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A. " * 1000}}
    body: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [document]}]}
    plain = tokens_held(json.dumps(body).encode())
    document["citations"] = {"enabled": True}
    assert tokens_held(json.dumps(body).encode()) >= plain + 1000 * 12


def test_a_pdf_does_not_pass_for_text_because_a_text_stands_beside_it() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x", "content": "harmless"}
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}
    assert messages(json.dumps(body).encode()).external_input == "document"


MIB = 1 << 20
HEAVY = {
    "empty messages": (chat, b'{"model":"m","messages":[' + b",".join([b"{}"] * (MIB // 3)) + b"]}"),
    "spaced messages": (chat, b'{"model":"m","messages":[' + b",".join([b'{"a" :1}'] * (MIB // 9)) + b"]}"),
    "escaped keys": (chat, b'{"model":"m","messages":[' + b",".join([b'{"\\u0061":1}'] * (MIB // 13)) + b"]}"),
    "parts": (chat, b'{"model":"m","messages":[{"content":[' + b",".join([b'{"\\u0061":1}'] * (MIB // 13)) + b"]}]}"),
    "tools": (chat, b'{"model":"m","messages":[],"tools":[' + b",".join([b'{"\\u0061":1}'] * (MIB // 13)) + b"]}"),
    "keys": (chat, b'{"model":"m" ,"messages":[],' + b",".join(b'"k%d":1' % i for i in range(MIB // 10)) + b"}"),
    "stops": (chat, b'{"model":"m","messages":[],"stop":[' + b",".join([b'"a"'] * (MIB // 4)) + b"]}"),
    "servers": (messages, b'{"model":"m","messages":[],"mcp_servers":[' + b",".join([b"1"] * (MIB // 2)) + b"]}"),
    "deep blocks": (
        messages,
        b'{"model":"m","messages":[{"content":['
        + b'{"content":[' * 400
        + b'{"text":"' + b"a" * MIB + b'"}'
        + b"]}" * 400
        + b"]}]}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEAVY)
def test_no_body_holds_up_everybody_else(name: str) -> None:
    """Reading ran at 1.5 s per MiB for some of these: one caller's 32 MiB stopped every stream for most of a minute."""
    read, body = HEAVY[name]
    began = time.process_time()
    with contextlib.suppress(Refusal):  # or read, as long as it is quick
        read(body)
    assert time.process_time() - began < 0.75


async def test_a_body_that_takes_long_to_read_is_read_off_the_loop(tmp_path: Path) -> None:
    """Within all bounds one can still be made of what is read slowest. Nobody else's stream waits for that."""
    block = b'{"type":"image","content":[' + b",".join([b'{"\\u0061" :1}'] * 60) + b"]}"
    body = b'{"model":"m","messages":[{"content":[' + b",".join([block] * 1_000) + b"]}]}"
    stand, waits = Stand(tmp_path / "journal"), []

    async def wait_for_ever() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            waits.append(time.perf_counter() - began)

    others = asyncio.create_task(wait_for_ever())
    await asyncio.sleep(0)
    began = time.perf_counter()
    await stand.ask(error(400), path="/v1/messages", body=body)
    took = time.perf_counter() - began
    await asyncio.sleep(0.002)
    others.cancel()
    stand.close()
    assert max(waits) < took / 2


def test_as_many_messages_as_anthropic_documents_are_read() -> None:
    body = b'{"model":"m","messages":[' + b",".join([b'{"role":"user", "content":"x"}'] * 100_000) + b"]}"
    assert messages(body).messages == 100_000


@pytest.mark.parametrize("read", [chat, messages])
def test_a_name_of_a_model_is_no_place_to_store_megabytes(read: Any) -> None:
    """Names of models are remembered by policy, routing and prices: each long one would stay in memory."""
    with pytest.raises(Refusal) as refused:
        read(b'{"model":"gpt-' + b"x" * 300 + b'","messages":[]}')
    assert refused.value.word == "invalid_field"


AWKWARD = [
    b"1e3", b"1.0", b'"5"', b"true", b"[1]", b"-1", b"0.5", b"1e400", b"1" * 5000, b"NaN", b"0x10", b"+5", b"05",
]  # fmt: skip


@pytest.mark.parametrize("number", AWKWARD)
@pytest.mark.parametrize("field", [b"max_tokens", b"n", b"max_completion_tokens"])
def test_numbers_that_parsers_read_differently_are_refused(field: bytes, number: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        chat(b'{"model":"m","messages":[],"' + field + b'":' + number + b"}")
    assert refused.value.word in {"invalid_field", "malformed_request"}


TEXT = '{"model":"m","messages":[]}'


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-32"),
        TEXT.encode() + b" x",
        TEXT.encode() + b"\0",
        TEXT.encode() + TEXT.encode(),
        b"[" + TEXT.encode() + b"]",
        TEXT[:-1].encode() + b',"\xff":1}',
        TEXT[:-1].encode() + b',"n":1,"\\u006e":9}',
        TEXT[:-1].encode() + b',"Max_Tokens":9}',
        TEXT[:-1].encode() + ',"\u017ftream":true}'.encode(),
        b'{"model":"m","messages":[{"role":"user","content":"a","\\u0063ontent":"b"}]}',
    ],
)
def test_a_body_that_two_parsers_could_read_differently_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal):
        chat(raw)
