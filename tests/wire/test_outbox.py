"""Messages that are sent together: none lost, none out of order, none held back once a turn brings no more."""

import asyncio
from typing import cast

from bursar.wire.outbox import Outbox
from bursar.wire.server import Exchange
from tests.wire.ground import serving


class Paper:
    """A transport that keeps what is written to it in a list it may share with others."""

    def __init__(self, written: list[bytes], *, closed: bool = False) -> None:
        self.written = written
        self.closed = closed

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def transport(self) -> asyncio.Transport:
        return cast(asyncio.Transport, self)


async def test_what_is_posted_leaves_in_order_when_a_turn_brings_no_more() -> None:
    written: list[bytes] = []
    outbox, one, other = Outbox(), Paper(written).transport(), Paper(written).transport()
    for transport, data in ((one, b"1"), (other, b"2"), (one, b"3")):
        outbox.post(transport, data)
    await asyncio.sleep(0)
    assert not written
    outbox.post(other, b"4")
    await asyncio.sleep(0)
    assert not written
    await asyncio.sleep(0)
    assert written == [b"1", b"2", b"3", b"4"]


async def test_a_message_by_itself_waits_for_nothing() -> None:
    written: list[bytes] = []
    outbox, transport = Outbox(), Paper(written).transport()
    for data in (b"1", b"2", b"3"):
        outbox.post(transport, data)
        await asyncio.sleep(0)
        assert written[-1] == data


async def test_a_long_turn_does_not_hold_the_first_message_back() -> None:
    written: list[bytes] = []
    outbox, transport = Outbox(), Paper(written).transport()
    for number in range(100):
        outbox.post(transport, b"%d" % number)
        assert len(written) >= number - 15
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert written == [b"%d" % number for number in range(100)]


async def test_a_closed_transport_is_passed_over() -> None:
    written: list[bytes] = []
    outbox = Outbox()
    outbox.post(Paper(written, closed=True).transport(), b"lost")
    outbox.post(Paper(written).transport(), b"kept")
    outbox.flush()
    assert written == [b"kept"]


async def test_an_answer_and_the_stream_behind_it_stay_in_order() -> None:
    """Two pipelined requests: the first is answered whole, the second streams in the same turn."""

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/whole":
            exchange.respond(200, b"", b"whole")
        else:
            exchange.start(200, b"")
            exchange.write(b"stream")
            exchange.finish()

    async with serving(handler) as ground:
        raw = b"GET /whole HTTP/1.1\r\nHost: a\r\n\r\nGET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        got = await ground.talk(raw)
    assert 0 < got.find(b"whole") < got.find(b"stream")


async def test_an_answer_is_not_lost_to_a_close_in_the_same_turn() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, b"", b"answer")

    async with serving(handler) as ground:
        for _ in range(20):
            got = await ground.talk(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert got.endswith(b"answer")
            got = await ground.talk(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n")
            assert got.count(b"answer") == 1
            assert got.endswith(b"malformed_request")
