"""A caller with its hands on the socket: it can leave after any piece, read slowly, or send anything at all."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

ROUTES = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}


@dataclass
class Answer:
    """What came back. `whole`: the framing came to its end; a stream that broke off is not whole."""

    status: int = 0  # 0 = not even a head came
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    left: bool = False  # the caller itself went away

    @property
    def word(self) -> str:
        """The machine word of a refusal; "" for an answer."""
        return self.headers.get("x-bursar-word", "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of each whole event of a stream, the end mark and what is no JSON left out."""
        found = []
        for line in self.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
            if line.startswith(b"data: {"):
                try:
                    found.append(json.loads(line[6:]))
                except ValueError:
                    continue
        return found


def script(**fields: Any) -> str:
    return f"[[emulator {json.dumps(fields)}]]"


def asking(dialect: str, text: str, **fields: Any) -> dict[str, Any]:
    """A request of one user turn; `max_tokens` 100 unless given."""
    base = {"model": MODELS[dialect], "messages": [{"role": "user", "content": text}], "max_tokens": 100}
    return {**base, **fields}


def raw_request(path: str, key: str, body: bytes, extra: Iterable[str] = ()) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: bursar.test", "content-type: application/json", "connection: close"]
    lines += [f"authorization: Bearer {key}", f"content-length: {len(body)}", *extra]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def ask(
    port: int,
    key: str,
    body: dict[str, Any] | bytes,
    *,
    path: str = "",
    leave_after: int | None = None,
    pause: float = 0.0,
    seconds: float = 60.0,
) -> Answer:
    """One call on a connection of its own. `leave_after` pieces of the answer (0 = before its head) the caller leaves;
    `pause` seconds pass between two reads of at most 4 kB.
    """
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    if not path:
        path = ROUTES["anthropic" if b'"claude' in raw else "openai"]
    return await send(port, raw_request(path, key, raw), leave_after=leave_after, pause=pause, seconds=seconds)


async def send(
    port: int, request: bytes, *, leave_after: int | None = None, pause: float = 0.0, seconds: float = 60.0
) -> Answer:
    """These bytes on a connection of their own, and what comes back."""
    answer = Answer()
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                if leave_after == 0:
                    await writer.drain()
                    await asyncio.sleep(0.003)
                    answer.left = True
                else:
                    await _read(reader, answer, leave_after, pause)
            finally:
                writer.transport.abort() if answer.left else writer.close()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # broken off: what came so far tells where
    return answer


async def _read(reader: asyncio.StreamReader, answer: Answer, leave_after: int | None, pause: float) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    answer.status = int(head[0].split()[1])
    answer.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if "chunked" not in answer.headers.get("transfer-encoding", ""):
        answer.body = await reader.readexactly(int(answer.headers.get("content-length", "0")))
        answer.whole = True
        return
    pieces = 0
    while size := int(await reader.readline() or b"-1", 16):
        if size < 0:
            raise ConnectionError("the stream broke off")
        left = size
        while left:
            piece = await reader.read(min(left, 4096) if pause else left)
            if not piece:
                raise ConnectionError("the stream broke off")
            answer.body += piece
            left -= len(piece)
            if pause:
                await asyncio.sleep(pause)
        await reader.readexactly(2)
        pieces += 1
        if leave_after is not None and pieces >= leave_after:
            answer.left = True
            return
    await reader.readexactly(2)
    answer.whole = True
