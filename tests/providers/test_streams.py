"""Meters over recorded-like streams: every framing, every break, and closings that the official SDKs parse."""

import itertools
import json
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.calls import Call, Edits, Usage
from bursar.ports import StreamMeter
from bursar.providers.anthropic import Anthropic
from bursar.providers.openai import OpenAI
from bursar.wire.sse import EventSplitter

GOLDEN = Path(__file__).parent / "golden"
OPENAI, ANTHROPIC = OpenAI(), Anthropic()
HI = [{"role": "user", "content": "hi"}]
FINAL: dict[str, tuple[Usage, int]] = {
    "openai_text": (
        Usage(input_tokens=1210, output_tokens=74, cache_read=1024, reasoning=64, service_tier="default"),
        len("Héllo 😀\n".encode()),
    ),
    "openai_tools": (Usage(input_tokens=61, output_tokens=17), len('get_weather{"city":"Köln"}'.encode())),
    "openai_cumulative": (Usage(input_tokens=9, output_tokens=6), len("Let me seeYes.")),
    "anthropic_text": (
        Usage(input_tokens=165, output_tokens=15, cache_read=40, cache_write_5m=100, service_tier="standard"),
        len("Héllo 😀!".encode()),
    ),
    "anthropic_search": (
        Usage(
            input_tokens=10682, output_tokens=510, reasoning=9, tool_uses=(("web_search", 1),), service_tier="standard"
        ),
        len('I search.web_search{"query":"x"}note{"a":1}'),
    ),
}


def call(name: str, **fields: Any) -> Call:
    body = json.dumps({"model": "m", "messages": HI, "stream": True, **fields}).encode()
    return OPENAI.understand("chat", body) if name.startswith("openai") else ANTHROPIC.understand("messages", body)


def meter_of(name: str, asked: Call | None = None, **edits: Any) -> StreamMeter:
    dialect = OPENAI if name.startswith("openai") else ANTHROPIC
    return dialect.stream_meter(asked or call(name), Edits(**edits))


def events_of(name: str) -> list[bytes]:
    return EventSplitter().feed((GOLDEN / f"{name}.sse").read_bytes())


def run(meter: StreamMeter, events: list[bytes]) -> bytes:
    return b"".join(meter.feed(event) for event in events)


@pytest.mark.parametrize("name", FINAL)
def test_golden_streams(name: str) -> None:
    meter = meter_of(name)
    events = events_of(name)
    assert run(meter, events) == b"".join(events), "passed on unchanged"
    usage, visible = FINAL[name]
    assert (meter.usage, meter.visible_bytes, meter.invalid, meter.ended) == (usage, visible, "", True)
    assert meter.output_seen


FRAMINGS = {
    "crlf": lambda event: event.replace(b"\n", b"\r\n"),
    "cr": lambda event: event.replace(b"\n", b"\r"),
    "no_space": lambda event: event.replace(b"data: ", b"data:"),
    "comment_first": lambda event: b": keep-alive\n" + event,
    "id_and_retry": lambda event: b"id: 7\nretry: 10\n" + event,
    "two_data_fields": lambda event: event.replace(b',"', b',\ndata: "', 1) if b"{" in event else event,
    "padded": lambda event: event.replace(b"\n\n", b"   \n\n"),
    "byte_order_mark": lambda event: b"\xef\xbb\xbf" + event,
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("name", FINAL)
def test_any_framing_is_read(name: str, framing: str) -> None:
    meter = meter_of(name)
    events = [FRAMINGS[framing](event) for event in events_of(name)]
    assert run(meter, events) == b"".join(events)
    usage, visible = FINAL[name]
    assert (meter.usage, meter.visible_bytes, meter.ended) == (usage, visible, True)


@given(st.sampled_from(sorted(FINAL)), st.booleans(), st.lists(st.integers(0, 5000), max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_chopping_gives_the_same(name: str, crlf: bool, cuts: list[int]) -> None:
    data = b"".join(events_of(name))
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    splitter, meter = EventSplitter(), meter_of(name)
    out = b""
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(edges):
        out += run(meter, splitter.feed(data[start:end]))
    rest = splitter.rest()
    out += meter.feed(rest) if rest else b""
    assert out == data
    assert (meter.usage, meter.visible_bytes) == FINAL[name]


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: {not json\n\n",
        b"data: \0\0\n\n",
        b"data: [1,2]\n\n",
        b"data: null\n\n",
        b'data: "text"\n\n',
        b"data: " + b"[" * 5000 + b"\n\n",
        b"data: \xff\xfe\n\n",
        b"event: content_block_delta\ndata: {\n\n",
        b"event: ping\n\n",
        b"\n",
        b": comment\n\n",
        b"data\n\n",
        b'data: {"error":{"message":"boom","type":"server_error"}}\n\n',
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        b'data: {"choices":[]}\n\n',
        b'data: {"type":"from_the_future","index":"x"}\n\n',
    ],
)
@pytest.mark.parametrize("name", ["openai_text", "anthropic_text"])
def test_garbage_is_passed_on_and_proves_nothing(name: str, garbage: bytes) -> None:
    events = events_of(name)
    mixed = [piece for event in events for piece in (garbage, event)]
    meter = meter_of(name)
    assert run(meter, mixed) == b"".join(mixed)
    assert (meter.usage, meter.visible_bytes) == FINAL[name]
    alone = meter_of(name)
    alone.feed(garbage)
    assert (alone.usage, alone.output_seen, alone.ended) == (None, False, False)


def test_choices_of_an_unknown_shape_count_whole_and_do_not_hide_usage() -> None:
    meter = meter_of("openai")
    meter.feed(b'data: {"choices":[{"delta":{"content":{"parts":["abc"]}}}]}\n\n')
    assert meter.visible_bytes >= 3
    meter.feed(b'data: {"choices":[{"delta":7}],"usage":{"prompt_tokens":5,"completion_tokens":9}}\n\n')
    assert meter.usage == Usage(input_tokens=5, output_tokens=9)


# ---- the chunk with usage --------------------------------------------------------------------------------------------


def test_the_usage_chunk_is_stripped_only_when_bursar_asked_for_it() -> None:
    events = events_of("openai_text")
    usage_event = events[-2]
    for wants, injected, kept in ((False, True, False), (True, True, True), (False, False, True)):
        asked = call("openai", **({"stream_options": {"include_usage": True}} if wants else {}))
        meter = meter_of("openai", asked, include_usage=injected)
        out = run(meter, events)
        assert (usage_event in out) == kept
        assert out.replace(usage_event, b"") == b"".join(events).replace(usage_event, b"")
        assert meter.usage is not None


def test_usage_beside_choices_is_never_stripped() -> None:
    meter = meter_of("openai", include_usage=True)
    events = events_of("openai_cumulative")
    assert run(meter, events) == b"".join(events)


def usage_event(name: str, usage: Any) -> bytes:
    if name == "openai":
        return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    return b"event: message_delta\ndata: " + json.dumps(delta).encode() + b"\n\n"


def text_event(name: str, text: str) -> bytes:
    if name == "openai":
        return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return b"event: content_block_delta\ndata: " + json.dumps(delta).encode() + b"\n\n"


def counts(name: str, inputs: Any, outputs: Any) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens") if name == "openai" else ("input_tokens", "output_tokens")
    return dict(zip(names, (inputs, outputs), strict=True))


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("said", "totals", "invalid"),
    [
        ([(10, 5)], (10, 5), ""),
        ([(10, 5), (10, 1)], (10, 5), ""),
        ([(10, 5), (10, 8)], (10, 8), ""),
        ([(10, 5), (12, 1)], (12, 5), ""),
        ([(10, -5)], None, "negative"),
        ([(10, 10**12)], None, "too_large"),
        ([(10, "5")], None, "unreadable"),
        ([(10, 0)], None, "zero_with_output"),
        ([(0, 0)], None, "zero_with_output"),
        ([(10, -5), (10, 5)], (10, 5), ""),
        ([(10, 5), (10, -5)], (10, 5), ""),
    ],
)
def test_lies_and_repetitions(name: str, said: list[Any], totals: tuple[int, int] | None, invalid: str) -> None:
    meter = meter_of(name)
    meter.feed(text_event(name, "some text"))
    for pair in said:
        meter.feed(usage_event(name, counts(name, *pair)))
    found = None if meter.usage is None else (meter.usage.input_tokens, meter.usage.output_tokens)
    assert (found, meter.invalid) == (totals, invalid)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_output_after_usage_unsettles_it(name: str) -> None:
    meter = meter_of(name)
    meter.feed(text_event(name, "some"))
    meter.feed(usage_event(name, counts(name, 10, 1)))
    assert meter.usage is not None
    meter.feed(text_event(name, " more"))
    assert meter.usage is None
    meter.feed(usage_event(name, counts(name, 10, 2)))
    assert meter.usage is not None
    assert meter.usage.output_tokens == 2


def test_zero_output_without_any_output_counts() -> None:
    meter = meter_of("openai")
    meter.feed(usage_event("openai", counts("openai", 10, 0)))
    assert meter.usage == Usage(input_tokens=10, output_tokens=0)


def test_the_input_side_is_known_from_the_first_event() -> None:
    meter = meter_of("anthropic_text")
    events = events_of("anthropic_text")
    meter.feed(events[0])
    assert meter.input_usage is not None
    assert (meter.input_usage.input_tokens, meter.input_usage.output_tokens) == (165, 0)
    assert meter.usage is None


# ---- cutting --------------------------------------------------------------------------------------------------------


def served(library: Any, body: bytes) -> Any:
    """A client of the HTTP library that the SDK at hand insists on, which answers with this stream."""
    headers = {"content-type": "text/event-stream"}
    answer = library.MockTransport(lambda _: library.Response(200, headers=headers, content=body))
    return library.Client(transport=answer)


@pytest.mark.parametrize("name", ["openai_text", "openai_tools", "openai_cumulative"])
def test_a_cut_openai_stream_parses_at_every_event(name: str) -> None:
    events = events_of(name)
    for at in range(len(events) - 1):
        meter = meter_of(name)
        body = run(meter, events[:at]) + meter.cut("allowance_reached", "The stream passed its allowance")
        assert meter.ended
        with openai.OpenAI(api_key="x", base_url="http://test/v1", http_client=served(httpx, body)) as client:
            chunks = list(client.chat.completions.create(model="m", messages=HI, stream=True))
        last = chunks[-1]
        assert last.model_extra == {
            "bursar": {"code": "allowance_reached", "message": "The stream passed its allowance"}
        }
        finished = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        assert len(finished) == 1
        assert last.id == chunks[0].id


def test_all_open_choices_are_finished_by_a_cut() -> None:
    meter = meter_of("openai", call("openai", n=3))
    meter.feed(b'data: {"id":"c","model":"m","choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}\n\n')
    chunk = json.loads(meter.cut("w", "m").split(b"\n\n")[0][6:])
    assert [(choice["index"], choice["finish_reason"]) for choice in chunk["choices"]] == [(0, "length"), (2, "length")]


@pytest.mark.parametrize("name", ["anthropic_text", "anthropic_search"])
def test_a_cut_anthropic_stream_parses_at_every_event(name: str) -> None:
    events = events_of(name)
    for at in range(1, len(events) - 2):
        meter = meter_of(name)
        body = run(meter, events[:at]) + meter.cut("allowance_reached", "The stream passed its allowance")
        with (
            anthropic.Anthropic(api_key="x", base_url="http://test", http_client=served(httpx2, body)) as client,
            client.messages.stream(model="m", max_tokens=9, messages=HI) as stream,
        ):
            message = stream.get_final_message()
        assert message.stop_reason == "max_tokens"
        assert meter.ended


def test_a_cut_before_any_message_is_an_error_event() -> None:
    meter = meter_of("anthropic")
    body = meter.cut("allowance_reached", "No room at all")
    with (
        anthropic.Anthropic(api_key="x", base_url="http://test", http_client=served(httpx2, body)) as client,
        pytest.raises(anthropic.APIStatusError, match="No room at all"),
    ):
        list(client.messages.create(model="m", max_tokens=9, messages=HI, stream=True))


@given(st.lists(st.binary(max_size=40), max_size=5))
@settings(max_examples=150, deadline=None)
def test_no_bytes_break_a_meter(pieces: list[bytes]) -> None:
    for name in ("openai", "anthropic"):
        meter = meter_of(name)
        for piece in pieces:
            for event in (piece, b"data: " + piece + b"\n\n", b"event: x\ndata: {" + piece + b"}\n\n"):
                assert meter.feed(event) == event
        assert meter.cut("w", "m")


def test_the_end_of_a_message_does_not_take_back_its_beginning() -> None:
    events = events_of("anthropic_text")
    lower = events[-2].replace(
        b'{"output_tokens":15}', b'{"input_tokens":1,"cache_read_input_tokens":0,"output_tokens":15}'
    )
    assert lower != events[-2]
    meter = meter_of("anthropic_text")
    run(meter, [*events[:-2], lower])
    assert meter.usage == FINAL["anthropic_text"][0]
    negative = lower.replace(b'"input_tokens":1', b'"input_tokens":-1')
    meter = meter_of("anthropic_text")
    run(meter, [*events[:-2], negative])
    assert (meter.usage, meter.invalid) == (None, "negative")
