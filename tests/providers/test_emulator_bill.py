"""The emulator's own bill, and the ways in which its answers break. All over real sockets, the broker not involved."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from bursar.core.calls import Edits
from bursar.providers.anthropic import Anthropic
from bursar.providers.emulator import Charge, digest, read_bill
from bursar.providers.openai import OpenAI
from bursar.wire.sse import EventSplitter
from tests.providers.emulated import Emulated, scripted

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


def body_of(path: str, *, stream: bool = False, **script: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream and path == CHAT else {}
    return {"model": "m", "max_tokens": 4000, "stream": stream, "messages": scripted(**script), **options}


def post(url: str, path: str, *, stream: bool = False, timeout: float = 10, **script: Any) -> httpx.Response:
    return httpx.post(url + path, json=body_of(path, stream=stream, **script), timeout=timeout)


def meter_over(path: str, received: bytes, request: bytes) -> Any:
    dialect: Any = OpenAI() if path == CHAT else Anthropic()
    call = dialect.understand("chat" if path == CHAT else "messages", request)
    meter, splitter = dialect.stream_meter(call, Edits()), EventSplitter()
    for event in (*splitter.feed(received), splitter.rest()):
        meter.feed(event)
    return meter


def as_dict(charge: Charge) -> dict[str, Any]:
    kept = ("route", "input", "output", "cached", "cache_write_5m", "cache_write_1h", "reasoning", "end")
    return {name: getattr(charge, name) for name in kept if getattr(charge, name)}


# ---- what is billed --------------------------------------------------------------------------------------------------


def test_each_finished_call_is_one_line(own_emulated: Emulated) -> None:
    url = own_emulated.url
    post(url, CHAT, input=10, output=5, cached=2, reasoning=3)
    post(url, CHAT, stream=True, input=10, output=6)
    post(url, MESSAGES, input=100, output=7, cached=10, cache_write=20, cache_write_1h=30)
    post(url, MESSAGES, stream=True, input=11, output=8)
    assert [as_dict(charge) for charge in own_emulated.bill()] == [
        {"route": "chat", "input": 10, "output": 8, "cached": 2, "reasoning": 3, "end": "done"},
        {"route": "chat", "input": 10, "output": 6, "end": "done"},
        {"route": "messages", "input": 100, "output": 7, "cached": 10, "cache_write_5m": 20, "cache_write_1h": 30,
         "end": "done"},
        {"route": "messages", "input": 11, "output": 8, "end": "done"},
    ]  # fmt: skip


def test_errors_and_counting_are_free_unless_scripted(own_emulated: Emulated) -> None:
    url = own_emulated.url
    for status in (400, 401, 429, 500, 529):
        assert post(url, CHAT, status=status).status_code == status
    httpx.post(url + "/v1/messages/count_tokens", json=body_of(MESSAGES))
    httpx.get(url + "/v1/models")
    httpx.post(url + CHAT, content=b"{broken")
    assert own_emulated.bill() == []
    post(url, CHAT, status=500, bill_error=True, input=9, output=4)
    assert [as_dict(charge) for charge in own_emulated.bill()] == [
        {"route": "chat", "input": 9, "output": 4, "end": "error"}
    ]


def test_input_tokens_are_never_more_than_bytes(own_emulated: Emulated) -> None:
    for size in (1, 10, 1000):
        asked = {"model": "m", "messages": [{"role": "user", "content": "x" * size}]}
        httpx.post(own_emulated.url + CHAT, json=asked)
        text = json.dumps(asked["messages"], separators=(",", ":"))
        assert own_emulated.bill()[-1].input == -(-len(text) // 4)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_caller_who_leaves_a_stream_pays_for_what_was_generated(own_emulated: Emulated, path: str) -> None:
    asked = body_of(path, stream=True, input=10, output=3000, chunk_ms=5)
    with httpx.stream("POST", own_emulated.url + path, json=asked, timeout=10) as response:
        received = b""
        for piece in response.iter_raw():
            received += piece
            if received.count(b"delta") > 20:
                break
    seen = meter_over(path, received, json.dumps(asked).encode()).visible_bytes // 4
    [charge] = own_emulated.wait_bill(1)
    assert charge.end == "abandoned"
    assert charge.input == 10
    assert seen <= charge.output < 3000


@pytest.mark.parametrize(("rule", "output"), [("so_far", 0), ("full", 20), ("none", None)])
def test_a_caller_who_leaves_before_the_head(own_emulated: Emulated, rule: str, output: int | None) -> None:
    with pytest.raises(httpx.ReadTimeout):
        post(own_emulated.url, CHAT, latency_ms=60_000, input=10, output=20, abandoned=rule, timeout=0.2)
    if output is None:
        post(own_emulated.url, CHAT)
        assert [charge.end for charge in own_emulated.wait_bill(1)] == ["done"]
        return
    [charge] = own_emulated.wait_bill(1)
    assert (charge.input, charge.output, charge.end) == (10, output, "abandoned")


@pytest.mark.parametrize("stall", ["head", "first_byte", "mid_stream", "before_usage"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stalled_call_that_times_out_is_billed(own_emulated: Emulated, stall: str, stream: bool) -> None:
    with pytest.raises(httpx.ReadTimeout):
        post(own_emulated.url, CHAT, stream=stream, stall=stall, stall_s=-1, input=10, output=20, timeout=0.2)
    [charge] = own_emulated.wait_bill(1)
    if not stream or stall == "before_usage":
        assert (charge.output, charge.end) == (20, "done"), "it was generated before it stalled"
    elif stall == "mid_stream":
        assert 0 < charge.output < 20
    else:
        assert (charge.output, charge.end) == (0, "abandoned")


def test_a_stall_that_ends(own_emulated: Emulated) -> None:
    for stall in ("head", "first_byte", "mid_stream", "before_usage"):
        begin = time.monotonic()
        assert post(own_emulated.url, CHAT, stall=stall, stall_s=0.05).status_code == 200
        assert time.monotonic() - begin > 0.04
    assert len(own_emulated.bill()) == 4


@pytest.mark.parametrize("where", ["before_head", "mid_head", "mid_stream"])
@pytest.mark.parametrize("stream", [False, True])
def test_disconnects(own_emulated: Emulated, where: str, stream: bool) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        post(own_emulated.url, CHAT, stream=stream, disconnect=where, disconnect_at=5, input=10, output=20)
    [charge] = own_emulated.wait_bill(1)
    if not stream:
        assert (charge.output, charge.end) == (20, "done")
    else:
        assert (charge.output, charge.end) == (5 if where == "mid_stream" else 0, "disconnected")


def test_the_bill_survives_kill_9_and_goes_on(tmp_path: Path) -> None:
    first = Emulated(tmp_path)
    post(first.url, CHAT, output=3)
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    second = Emulated(tmp_path)
    post(second.url, CHAT, output=4)
    assert second.stop() == 0
    charges = read_bill(tmp_path / "bill.jsonl")
    assert [charge.output for charge in charges] == [3, 4]
    assert len({charge.id for charge in charges}) == 2


def test_a_bill_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_bill(tmp_path / "none.jsonl") == []


# ---- whose key -------------------------------------------------------------------------------------------------------


def test_only_the_required_key_is_taken(tmp_path: Path) -> None:
    emulated = Emulated(tmp_path, "--require-key", "sk-provider")
    try:
        asked = {"model": "m", "messages": scripted(), "max_tokens": 5}
        for path, name, value, status in (
            (CHAT, "authorization", "Bearer sk-provider", 200),
            (MESSAGES, "x-api-key", "sk-provider", 200),
            (CHAT, "authorization", "Bearer brs-virtual", 401),
            (MESSAGES, "x-api-key", "brs-virtual", 401),
        ):
            assert httpx.post(emulated.url + path, json=asked, headers={name: value}).status_code == status
        report = emulated.report()
        assert report["credentials"] == {digest("sk-provider"): 2, digest("brs-virtual"): 2}
        assert report["last"]["headers"]["x-api-key"] == digest("brs-virtual")
        assert json.loads(report["last"]["body"]) == asked
        assert {charge.key for charge in emulated.bill()} == {digest("sk-provider")}
        assert b"sk-provider" not in emulated.bill_path.read_bytes()
    finally:
        emulated.stop()


# ---- malformed streams and lies, read by the meters ------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    "kind", ["crlf", "cr_mix", "split_utf8", "giant_line", "garbage_event", "nul", "multi_data", "no_done"]
)
def test_a_malformed_stream_is_metered_exactly(emulated: Emulated, path: str, kind: str) -> None:
    script = {"sse": kind, "output": 12, "input": 30, "accents": True, "giant_bytes": 300_000}
    answer = post(emulated.url, path, stream=True, **script)
    meter = meter_over(path, answer.content, json.dumps(body_of(path, stream=True, **script)).encode())
    assert meter.visible_bytes == 48
    assert meter.ended == (kind != "no_done")
    assert meter.usage is not None
    assert (meter.usage.input_tokens, meter.usage.output_tokens) == (30, 12)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("negative", "negative"),
        ("huge", "too_large"),
        ("missing", "missing"),
        ("zero", "zero_with_output"),
        ("text", "unreadable"),
        ("low", "contradictory"),
        ("twice", ""),
    ],
)
def test_lies_are_told_on_the_wire_and_found_out(
    emulated: Emulated, path: str, stream: bool, lie: str, reason: str
) -> None:
    script = {"usage": lie, "output": 600, "input": 30}
    answer = post(emulated.url, path, stream=stream, **script).content
    request = json.dumps(body_of(path, stream=stream, **script)).encode()
    if stream:
        meter = meter_over(path, answer, request)
        usage, told, seen = meter.usage, meter.invalid, meter.visible_bytes
        reason = "" if lie == "missing" else reason  # nothing said is nothing invalid
    else:
        dialect: Any = OpenAI() if path == CHAT else Anthropic()
        call = dialect.understand("chat" if path == CHAT else "messages", request)
        usage, seen, told = dialect.read_usage(call, answer)
    assert told == reason
    if lie == "twice":
        assert (usage.input_tokens, usage.output_tokens) == (30, 600)
    else:
        assert usage is None
        assert seen == 2400


# ---- as a server -----------------------------------------------------------------------------------------------------


def test_requests_in_one_packet_are_answered_in_order(emulated: Emulated) -> None:
    packet = b""
    for size in (3, 1, 2):
        body = json.dumps(body_of(CHAT, output=size, latency_ms=20 if size == 3 else 0)).encode()
        packet += b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", emulated.port), timeout=5) as connection:
        connection.sendall(packet)
        received = b""
        while received.count(b'"completion_tokens":') < 3:
            received += connection.recv(65536)
    found = [int(piece.split(b",")[0]) for piece in received.split(b'"completion_tokens":')[1:]]
    assert found == [3, 1, 2]


def test_it_ends_with_the_parent_that_gave_it_the_socket(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "bursar.providers.emulator", "--fd", str(listener.fileno()), "--no-bill"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=10)
        assert client.chat.completions.create(model="m", messages=scripted()).choices
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(5) == 0
    assert not os.listdir(tmp_path)  # noqa: PTH208 - nothing was written
