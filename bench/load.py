"""Load: wrk for whole answers, an asyncio client for streams. Both report what they counted, nothing derived."""

import asyncio
import json
import subprocess
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from bench.targets import OUT, Target

_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
%s
local file = io.open("%s", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('JSON{"requests":%%d,"us":%%d,"refused":%%d,"broken":%%d,"p50":%%d,"p90":%%d,"p99":%%d}\\n',
    summary.requests, summary.duration, summary.errors.status, bad,
    latency:percentile(50), latency:percentile(90), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Load:
    """One wrk run. Latencies in microseconds."""

    requests: int
    seconds: float
    refused: int
    broken: int
    p50: int
    p90: int
    p99: int


def chat_body(size: int, *, stream: bool = False, events: int = 64, pause_ms: int = 10) -> bytes:
    """A chat completion of about `size` bytes: a system prompt, then one long user turn."""
    call: dict[str, object] = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": ""}],
        "max_tokens": max(events, 64),
        "temperature": 0.2,
    }
    if stream:
        call |= {"stream": True, "max_tokens": events, "seed": pause_ms}
    words = "The quick brown fox jumps over the lazy dog, and the invoice stays what was agreed. "
    room = size - len(json.dumps(call, separators=(",", ":")))
    text = (words * (max(room, 0) // len(words) + 1))[: max(room, 1)]
    call["messages"] = [{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": text}]
    return json.dumps(call, separators=(",", ":")).encode()


def wrk(target: Target, *, body: bytes, concurrency: int, seconds: float, tls: bool = False) -> Load:
    (OUT / "body.json").write_bytes(body)
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in target.headers.items())
    script = OUT / f"{target.name}.lua"
    script.write_text(_SCRIPT % (headers, OUT / "body.json"))
    url = (target.tls_url if tls else target.url) + "/v1/chat/completions"
    command = [
        "wrk",
        "-t1",
        f"-c{concurrency}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "20s",
        "-s",
        str(script),
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30)
    line = next(line for line in done.stdout.splitlines() if line.startswith("JSON"))
    counted = json.loads(line.removeprefix("JSON"))
    load = Load(seconds=counted.pop("us") / 1e6, **counted)
    if (load.refused and not target.may_refuse) or load.broken or load.requests <= load.refused:
        raise RuntimeError(f"{target.name}: {load.refused} answers refused, {load.broken} broken of {load.requests}")
    return load


class _Stream(asyncio.Protocol):
    """One streamed request; counts `data:` events and tells when the last chunk came."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.events = 0
        self.head = b""
        self.tail = b""
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:

        self.transport = cast(asyncio.Transport, transport)  # what uvloop gives is one in all but type
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if len(self.head) < 64:
            self.head += data[:64]
        self.events += (self.tail + data).count(b"data: ") - self.tail.count(b"data: ")
        self.tail = (self.tail + data)[-16:]
        if self.events and not self.began.done():
            self.began.set_result(None)
        if not self.head.startswith(b"HTTP/1.1 200"[: len(self.head)]):
            self.finish()
        if self.tail.endswith(b"\r\n0\r\n\r\n"):
            self.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.finish()

    def finish(self) -> None:
        for future in (self.began, self.ended):
            if not future.done():
                future.set_result(None)

    @property
    def whole(self) -> bool:
        return self.head.startswith(b"HTTP/1.1 200") and self.tail.endswith(b"\r\n0\r\n\r\n")


def stream_request(target: Target, body: bytes) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


async def open_streams(target: Target, body: bytes, count: int, per_second: int) -> list[_Stream]:
    """Start `count` streams, no faster than `per_second`, and wait until each has its first event."""
    request = stream_request(target, body)
    port = urlsplit(target.stream_url or target.url).port
    loop = asyncio.get_running_loop()
    streams: list[_Stream] = []
    begin = loop.time()
    for number in range(count):
        ahead = begin + number / per_second - loop.time()
        if ahead > 0:
            await asyncio.sleep(ahead)
        _, stream = await loop.create_connection(lambda: _Stream(request), "127.0.0.1", port)
        streams.append(stream)
    await asyncio.wait_for(asyncio.gather(*(stream.began for stream in streams)), 60)
    silent = [stream for stream in streams if not stream.events]
    if silent:
        raise RuntimeError(f"{len(silent)} of {count} streams did not begin; the first said {silent[0].head!r}")
    return streams


async def finish_streams(streams: list[_Stream], seconds: float) -> int:
    """Wait for all ends; the events counted. A stream that broke or was refused fails the bench."""
    await asyncio.wait_for(asyncio.gather(*(stream.ended for stream in streams)), seconds)
    broken = [stream for stream in streams if not stream.whole]
    if broken:
        raise RuntimeError(f"{len(broken)} of {len(streams)} streams broke; the first said {broken[0].head!r}")
    for stream in streams:
        stream.transport.abort()
    return sum(stream.events for stream in streams)
