"""The real port and callers who mean harm or do not know better: a clear word, soon, and nobody else waits for them."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants
from tests.faults.books import Books, until
from tests.faults.caller import Answer, ask, asking, raw_request, script, send

CHAT = "/v1/chat/completions"
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: bursar.test\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def key(tenants: Tenants) -> MadeKey:
    return tenants.key(budget={"limit_usd": "10"})


async def talk(port: int, *pieces: bytes, pause: float = 0.0, seconds: float = 10.0) -> bytes:
    """Send piece by piece, with a pause after each; everything that comes back until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(seconds):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause)
                if reader.at_eof():
                    break
            return await reader.read(-1)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def is_refusal(answer: bytes, word: str) -> bool:
    return f"\r\nx-bursar-word: {word}\r\n".encode() in answer


def test_a_slow_head(impatient: Broker, key: MadeKey) -> None:
    began = time.monotonic()
    answer = asyncio.run(talk(impatient.data_port, HEAD.encode()))
    assert is_refusal(answer, "request_timeout")
    assert time.monotonic() - began < 10


def test_a_slow_body(impatient: Broker, key: MadeKey) -> None:
    head = f"{HEAD}authorization: Bearer {key.text}\r\ncontent-length: 5000\r\n\r\n"
    began = time.monotonic()
    answer = asyncio.run(talk(impatient.data_port, head.encode(), *[b"x"] * 5))
    assert answer.startswith(b"HTTP/1.1 408")
    assert is_refusal(answer, "request_timeout")
    assert time.monotonic() - began < 12


def test_a_wrong_key_is_refused_before_the_body_is_there(impatient: Broker) -> None:
    for sent in ("", "authorization: Bearer sk-nobody\r\n", f"x-api-key: {impatient.demo_key[:-1]}0\r\n"):
        head = f"{HEAD}{sent}content-length: 1000000\r\nexpect: 100-continue\r\n\r\n"
        began = time.monotonic()
        answer = asyncio.run(talk(impatient.data_port, head.encode()))
        assert answer.startswith(b"HTTP/1.1 401"), answer[:100]
        assert b"100 Continue" not in answer
        assert time.monotonic() - began < 0.9, "nobody waited for the body"


def test_a_gigabyte(impatient: Broker, key: MadeKey) -> None:
    """Refused by its length, or by what comes when no length is told; memory does not grow."""
    before = resident(impatient)
    told = f"{HEAD}authorization: Bearer {key.text}\r\ncontent-length: 1000000000\r\n\r\n"
    answer = asyncio.run(talk(impatient.data_port, told.encode(), *[bytes(2**20)] * 8))
    assert is_refusal(answer, "body_too_large") or not answer
    untold = f"{HEAD}authorization: Bearer {key.text}\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    answer = asyncio.run(talk(impatient.data_port, untold.encode(), *[chunk] * 1000))
    assert is_refusal(answer, "body_too_large") or not answer
    assert resident(impatient) - before < 96 * 2**20
    assert asyncio.run(ask(impatient.data_port, key.text, asking("openai", "Hi"))).status == 200


def resident(broker: Broker) -> int:
    """Bytes of the gateway in memory."""
    lines = Path(f"/proc/{broker.pids()['gateway']}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_hundred_thousand_messages(impatient: Broker, key: MadeKey, books: Books, dialect: str) -> None:
    body = asking(dialect, "Hi")
    body["messages"] = [{"role": ("user", "assistant")[at % 2], "content": "Hi"} for at in range(99_999)]
    body["messages"][-1]["content"] = script(input=5000)  # a real provider would not take more than its window
    began = time.monotonic()
    answer = asyncio.run(ask(impatient.data_port, key.text, body))
    assert answer.status in (200, 402), answer.body[:300]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"gpt-4o-mini","messages":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"model":"gpt-4o-mini","messages":[],"metadata":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
        "[" * 3_000_000,
        '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"' + "\\ud800" * 50_000,
    ],
    ids=["deep messages", "deep elsewhere", "never closed", "never whole"],
)
def test_deep_and_broken_json(impatient: Broker, key: MadeKey, text: str) -> None:
    began = time.monotonic()
    answer = asyncio.run(ask(impatient.data_port, key.text, text.encode(), path=CHAT))
    assert (answer.status, answer.word) in ((400, "malformed_request"), (400, "invalid_field"))
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "fields",
    [
        '"model":"gpt-4o-mini","model":"gpt-4o"',
        '"model":"gpt-4o-mini","Model":"gpt-4o"',
        '"model":"gpt-4o-mini","max_tokens":5,"max_tokens":5000',
        '"model":"gpt-4o-mini","max_tokens":5,"MAX_TOKENS":5000',
        '"model":"gpt-4o-mini","max_tokens":5,"max\\u005ftokens":5000',
        '"model":"gpt-4o-mini","n":1,"N":100',
        '"model":"gpt-4o-mini","stream":false,"stream":true',
    ],
)
def test_a_governed_field_said_twice(impatient: Broker, key: MadeKey, books: Books, fields: str) -> None:
    before = len(books.attempts())
    body = f'{{{fields},"messages":[{{"role":"user","content":"Hi"}}]}}'.encode()
    answer = asyncio.run(ask(impatient.data_port, key.text, body, path=CHAT))
    assert (answer.status, answer.word) == (400, "duplicate_field"), answer.body
    assert len(books.attempts()) == before, "nothing was held, nothing sent"


@pytest.mark.parametrize(
    "lines",
    [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding : chunked\r\n",
        "host: other.test\r\n",
        "x: a\r\n folded\r\n",
        "x: a\nauthorization: Bearer other\r\n",
    ],
)
def test_a_head_that_could_be_read_in_two_ways(impatient: Broker, key: MadeKey, lines: str) -> None:
    head = f"{HEAD}authorization: Bearer {key.text}\r\n{lines}\r\n"
    answer = asyncio.run(
        talk(impatient.data_port, head.encode() + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    )
    assert answer.startswith(b"HTTP/1.1 400"), answer[:100]
    assert answer.count(b"HTTP/1.1 ") == 1, "what follows was not taken for a request"


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_slow_reader_holds_up_the_provider_and_not_the_memory(
    impatient: Broker, tenants: Tenants, books: Books, numbers: Iterator[int], dialect: str
) -> None:
    key, number = tenants.key(budget={"limit_usd": "10"}), next(numbers)
    text = "x" * number + script(input=number, output=2500, chunks=2500)
    body = asking(dialect, text, stream=True, max_tokens=2500)
    before = resident(impatient)

    async def read_slowly() -> Answer:
        slow = asyncio.create_task(ask(impatient.data_port, key.text, body, pause=0.001))
        quick = [await ask(impatient.data_port, key.text, asking(dialect, "Hi")) for _ in range(10)]
        assert all(answer.status == 200 for answer in quick)
        return await slow

    answer = asyncio.run(read_slowly())
    assert answer.whole
    assert resident(impatient) - before < 48 * 2**20
    rows = books.settled(key.id, 11)
    assert all(row.exact for row in rows)


def test_a_reader_that_stops_reading_is_cut_off_in_the_end(impatient: Broker, tenants: Tenants, books: Books) -> None:
    """Its connection is closed from outside here; what it used is booked."""
    key = tenants.key(policy={"on_disconnect": "drain"}, budget={"limit_usd": "10"})
    body = asking("openai", script(output=20_000, chunks=20_000), stream=True, max_tokens=16_000)
    raw = raw_request(CHAT, key.text, json.dumps(body).encode())

    async def stop_reading() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", impatient.data_port, limit=4096)
        writer.write(raw)
        await reader.readexactly(100)
        await asyncio.to_thread(until, lambda: books.attempts(key.id))
        await asyncio.sleep(0.3)
        writer.transport.abort()

    asyncio.run(stop_reading())
    (row,) = books.settled(key.id)
    assert row.exact
    assert row.output_tokens == 16_000


def test_pipelined_calls_are_answered_in_order(impatient: Broker, key: MadeKey) -> None:
    texts = [f"answer number {at}" for at in range(5)]
    raw = b""
    for at, text in enumerate(texts):
        body = json.dumps(asking("openai", script(text=text, latency_ms=30 if at == 0 else 0))).encode()
        one = raw_request(CHAT, key.text, body)
        raw += one if at == 4 else one.replace(b"connection: close\r\n", b"")
    answer = asyncio.run(talk(impatient.data_port, raw))
    places = [answer.find(text.encode()) for text in texts]
    assert -1 not in places
    assert places == sorted(places)


def test_a_request_to_nowhere(impatient: Broker, key: MadeKey) -> None:
    for path, word in (("/v1/images/generations", "not_found"), ("/v1/chat/completions/../../admin", "not_found")):
        answer = asyncio.run(send(impatient.data_port, raw_request(path, key.text, b"{}")))
        assert answer.word == word
