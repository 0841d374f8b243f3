"""The race: a thousand callers at once, and a budget for ten. What the provider is asked for is what it bills."""

import asyncio
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import urlsplit

import uvloop

from bench.load import chat_body, stream_request
from bench.rows import SMALL
from bench.targets import Target

CALLERS, AFFORDED = 1_000, 10
CALL_USD = Decimal(
    "0.0001014"
)  # 420 tokens in at $0.15, 64 out at $0.60 a million: gpt-4o-mini, as upstream.py answers
BUDGET_USD = CALL_USD * AFFORDED
LATER = 50
_PAUSE_MS = 300  # an answer takes a while, as a provider's does: this is the window that the race is about
_MOST_S = 300.0


@dataclass(frozen=True)
class Outcome:
    """Of one contestant."""

    ran: int  # calls that reached the provider
    later: int  # of `LATER` further calls, one by one, after everything has been booked
    answers: dict[int, int]  # statuses the callers saw
    seconds: float

    @property
    def spent(self) -> Decimal:
        """US dollars, all calls."""
        return CALL_USD * (self.ran + self.later)


def served(upstream: Target) -> int:
    with urllib.request.urlopen(f"{upstream.url}/served", timeout=10) as answer:
        return int(answer.read())


def race(target: Target, upstream: Target) -> Outcome:
    """All callers have their connection before the first one writes. Nobody tries twice."""
    before = served(upstream)
    begin = time.monotonic()
    answers = uvloop.run(_all_at_once(target))
    seconds = time.monotonic() - begin
    time.sleep(3)  # what is booked behind the answer has time to be
    ran = served(upstream) - before
    uvloop.run(_one_by_one(target))
    time.sleep(1)
    return Outcome(ran, served(upstream) - before - ran, answers, seconds)


def _request(target: Target) -> bytes:
    body = chat_body(SMALL)[:-1] + b',"seed":%d}' % _PAUSE_MS
    return stream_request(target, body).replace(b"content-type", b"connection: close\r\ncontent-type", 1)


async def _all_at_once(target: Target) -> dict[int, int]:
    port, request = urlsplit(target.url).port, _request(target)
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CALLERS)]
    statuses = await asyncio.gather(*(_call(reader, writer, request) for reader, writer in opened))
    return dict(Counter(statuses))


async def _one_by_one(target: Target) -> None:
    port, request = urlsplit(target.url).port, _request(target)
    for _ in range(LATER):
        await _call(*await asyncio.open_connection("127.0.0.1", port), request)


async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """The status; 0 where the connection ended without one."""
    try:
        writer.write(request)
        line = await asyncio.wait_for(reader.readline(), _MOST_S)
        return int(line.split()[1]) if line else 0
    except (ConnectionError, TimeoutError):
        return 0
    finally:
        writer.close()
