"""The client on real sockets: framing, pooling, deadlines, cancellation, what counts as sent."""

import asyncio
import contextlib
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable

import pytest

from bursar.core.errors import UpstreamFault
from bursar.wire.client import Client, ClientConfig, Origin, Timeouts
from tests.wire.ground import Hands, bound, eventually
from tests.wire.provider import OK, Provider, Visit, always_ok, providing

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def saying(answer: bytes, *, step: int = 0, close: bool = False) -> Callable[[Visit], Awaitable[None]]:
    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            await visit.say(answer, step)
            if close:
                return

    return script


# ---- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [b"x-a: b\r\nx-c: d\r\n", [("x-a", "b"), ("x-c", "d")]])
@pytest.mark.parametrize("size", [0, 5, 200_000])
async def test_what_is_sent(headers: bytes | list[tuple[str, str]], size: int) -> None:
    got: list[bytes] = []

    async def script(visit: Visit) -> None:
        got.append(await visit.request())
        await visit.say(OK)

    async with providing(script) as provider:
        body = b"x" * size
        response = await provider.client.request(provider.origin, "POST", "/a?b=c", headers, body, Timeouts())
        assert (response.status, await response.read(2)) == (200, b"ok")
        port = provider.origin.port
    assert got == [
        b"POST /a?b=c HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\nx-a: b\r\nx-c: d\r\n"
        b"content-length: %d\r\n\r\n%b" % (port, size, body)
    ]


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/a b", []),
        ("GET", "/a\r\nx: y", []),
        ("GET", "/\u00e9", []),
        ("GE T", "/", []),
        ("GET\r\n", "/", []),
        ("GET", "/", [("x-a", "b\r\nx-c: d")]),
        ("GET", "/", [("x-a\n", "b")]),
        ("GET", "/", [("x-a", "b\0")]),
        ("GET", "/", [("Content-Length", "5")]),
        ("GET", "/", [("transfer-encoding", "chunked")]),
        ("GET", "/", [("Host", "other")]),
    ],
)
async def test_requests_that_would_break_out_are_not_sent(
    method: str, target: str, headers: list[tuple[str, str]]
) -> None:
    async with providing(always_ok) as provider:
        with pytest.raises(ValueError, match=r"."):
            await provider.client.request(provider.origin, method, target, headers, b"", Timeouts())
        assert provider.client.connections == 0


# ---- answers ---------------------------------------------------------------------------------------------------------

ANSWERS = [
    ("by length", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
    ("nothing", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    ("chunks", CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nx-t: a\r\n\r\n", 200, b"hello", True),
    ("chunked in capitals", CHUNKED.replace(b"chunked", b"Chunked") + b"5\r\nhello\r\n0\r\n\r\n", 200, b"hello", True),
    ("no phrase", b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
    ("no content", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    ("not modified", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", True),
    (
        "interim answers",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK,
        200,
        b"ok",
        True,
    ),
    ("to be closed", b"HTTP/1.1 429 Slow\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", 429, b"no", False),
    ("HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
]


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(
    ("raw", "status", "body", "reused"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
async def test_answers(raw: bytes, status: int, body: bytes, reused: bool, step: int) -> None:
    async with providing(saying(raw, step=step)) as provider:
        for _ in range(2):
            response = await provider.get()
            assert response.status == status
            assert await response.read(100) == body
        assert len(provider.visits) == (1 if reused else 2)


async def test_an_answer_that_ends_with_its_connection() -> None:
    async with providing(saying(b"HTTP/1.1 200 OK\r\n\r\nhello", close=True)) as provider:
        assert await (await provider.get()).read(100) == b"hello"
        await eventually(lambda: provider.client.connections == 0)


async def test_fields_are_joined_and_lower_case() -> None:
    raw = b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSET-COOKIE: b\r\nContent-Length: 0\r\n\r\n"
    async with providing(saying(raw)) as provider:
        assert (await provider.get()).headers == {"set-cookie": "a, b", "content-length": "0"}


MALFORMED = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\x00\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + OK,
    CHUNKED + b"+2\r\nok\r\n0\r\n\r\n",
    CHUNKED + b"2\r\nok0\r\n\r\n",
    CHUNKED + b"2;" + b"x" * 300 + b"\r\nok\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("raw", MALFORMED)
async def test_malformed_answers(raw: bytes) -> None:
    async with providing(saying(raw)) as provider:
        with pytest.raises(UpstreamFault) as caught:
            await (await provider.get()).read(100)
        assert (caught.value.kind, caught.value.sent) == ("malformed", True)
        await eventually(lambda: provider.client.connections == 0)


@pytest.mark.parametrize(
    "raw", [b"HTTP/1.1 200 OK\r\nx: " + b"a" * 66000, b"HTTP/1.1 200 OK\r\nx: " + b"a" * 66000 + b"\r\n\r\n"]
)
async def test_a_head_without_end(raw: bytes) -> None:
    async with providing(saying(raw)) as provider:
        with pytest.raises(UpstreamFault) as caught:
            await provider.get()
        assert caught.value.kind == "head_too_large"


@pytest.mark.parametrize("framed", [b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n", CHUNKED + b"7a120\r\n"])
async def test_a_body_over_the_limit(framed: bytes) -> None:
    async with providing(saying(framed + b"x" * 500_000)) as provider:
        response = await provider.get()
        with pytest.raises(UpstreamFault) as caught:
            await response.read(400_000)
        assert caught.value.kind == "body_too_large"
        await eventually(lambda: provider.client.connections == 0)


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200", OK[:-1], CHUNKED + b"5\r\nhel", CHUNKED + b"5\r\nhello\r\n"])
async def test_answers_that_break_off(raw: bytes) -> None:
    async with providing(saying(raw, close=True)) as provider:
        with pytest.raises(UpstreamFault) as caught:
            await (await provider.get()).read(100)
        assert (caught.value.kind, caught.value.sent) == ("reset", True)


# ---- the pool --------------------------------------------------------------------------------------------------------


async def test_connections_are_reused_one_exchange_at_a_time() -> None:
    async with providing(always_ok) as provider:
        first, second = await asyncio.gather(provider.get(), provider.get())
        assert len(provider.visits) == 2
        assert (await first.read(9), await second.read(9)) == (b"ok", b"ok")
        for _ in range(5):
            await (await provider.get()).read(9)
        assert len(provider.visits) == 2


@pytest.mark.parametrize("extra", [b"x", OK])
async def test_bytes_nobody_asked_for_spoil_a_connection(extra: bytes) -> None:
    """An answer that comes before its question could be taken for the next caller's."""
    async with providing(saying(OK + extra)) as provider:
        for _ in range(2):
            assert await (await provider.get()).read(9) == b"ok"
        assert len(provider.visits) == 2


async def test_an_idle_connection_that_hears_something_is_closed() -> None:
    async with providing(always_ok) as provider:
        await (await provider.get()).read(9)
        await provider.visits[0].say(OK)
        await eventually(lambda: provider.client.connections == 0)
        assert await (await provider.get()).read(9) == b"ok"


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with providing(always_ok, idle_seconds=15.0) as provider:
        await (await provider.get()).read(9)
        await provider.pass_time(14.0)
        assert provider.client.connections == 1
        await provider.pass_time(2.0)
        await eventually(lambda: provider.client.connections == 0)


async def test_an_end_that_the_loop_has_not_noticed_costs_no_attempt() -> None:
    listening = bound()
    listening.listen()
    origin = Origin("http", "127.0.0.1", listening.getsockname()[1], allow_private=True)
    hands = Hands()
    client = Client(ClientConfig(), monotonic=hands)

    async def answer() -> socket.socket:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        accepted, _ = await loop.sock_accept(listening)
        await loop.sock_recv(accepted, 1000)
        await loop.sock_sendall(accepted, OK)
        return accepted

    async def ask() -> bytes:
        answering = asyncio.create_task(answer())
        response = await client.request(origin, "GET", "/", (), b"", Timeouts())
        accepted.append(await answering)
        return await response.read(9)

    accepted: list[socket.socket] = []
    assert await ask() == b"ok"
    accepted[0].close()  # no turn of the loop until the next request is written
    hands.now += 1.0
    assert await ask() == b"ok"
    accepted[1].close()
    listening.close()
    await client.close()


async def test_idle_and_open_connections_are_capped() -> None:
    """litellm post httpx-client: clients fell out of a cache, and their connections stayed or were cut."""
    async with providing(always_ok, max_idle_per_origin=1, max_connections_per_origin=2) as provider:
        gate = asyncio.Event()

        async def hold(visit: Visit) -> None:
            await visit.request()
            await gate.wait()
            await visit.say(OK)
            await visit.until_left()

        async with providing(hold, max_idle_per_origin=1, max_connections_per_origin=2) as slow:
            asked = [asyncio.create_task(slow.get()) for _ in range(2)]
            await eventually(lambda: len(slow.visits) == 2)
            with pytest.raises(UpstreamFault) as caught:
                await slow.get()
            assert (caught.value.kind, caught.value.sent) == ("connect", False)
            gate.set()
            await asyncio.gather(*asked)
            await eventually(lambda: slow.client.connections == 1)
        await (await provider.get()).read(9)


async def test_an_answer_before_the_whole_request_spoils_the_connection() -> None:
    async def early(visit: Visit) -> None:
        await visit.reader.readuntil(b"\r\n\r\n")
        await visit.say(b"HTTP/1.1 413 Too large\r\ncontent-length: 0\r\n\r\n")
        await asyncio.sleep(10)

    async with providing(early) as provider:
        response = await provider.client.request(provider.origin, "POST", "/", (), bytes(30_000_000), Timeouts())
        assert response.status == 413
        await eventually(lambda: provider.client.connections == 0)


# ---- deadlines -------------------------------------------------------------------------------------------------------


async def mute(visit: Visit) -> None:
    await visit.request()
    await visit.until_left()


async def fault_after(provider: Provider, steps: list[float], body: bytes = b"") -> UpstreamFault:
    async def ask() -> None:
        response = await provider.client.request(provider.origin, "POST", "/", (), body, Timeouts())
        await response.read(1 << 30)

    asking = asyncio.create_task(ask())
    for seconds in steps:
        await asyncio.sleep(0.03)
        assert not asking.done()
        await provider.pass_time(seconds)
    with pytest.raises(UpstreamFault) as caught:
        await asyncio.wait_for(asking, 5)
    await eventually(lambda: provider.client.connections == 0)
    assert caught.value.sent
    return caught.value


async def test_no_first_byte() -> None:
    async with providing(mute) as provider:
        assert (await fault_after(provider, [119.0, 2.0])).kind == "timeout_first_byte"


async def test_a_request_that_is_not_taken() -> None:
    async def deaf(visit: Visit) -> None:
        visit.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(30)

    async with providing(deaf) as provider:
        assert (await fault_after(provider, [59.0, 2.0], bytes(30_000_000))).kind == "timeout_write"


async def test_a_stall_between_bytes() -> None:
    async with providing(saying(CHUNKED + b"5\r\nhello\r\n")) as provider:
        assert (await fault_after(provider, [59.0, 2.0])).kind == "timeout_between_bytes"


async def test_an_answer_that_never_ends() -> None:
    async def dripping(visit: Visit) -> None:
        await visit.request()
        await visit.say(CHUNKED)
        while True:
            await visit.say(b"1\r\nx\r\n")
            await asyncio.sleep(0.005)

    async with providing(dripping) as provider:
        assert (await fault_after(provider, [50.0] * 11 + [51.0])).kind == "timeout_total"


async def test_a_handshake_that_does_not_come() -> None:
    async with providing(mute) as provider:
        origin = Origin("https", "127.0.0.1", provider.origin.port, allow_private=True)
        with pytest.raises(UpstreamFault) as caught:
            await provider.client.request(origin, "GET", "/", (), b"", Timeouts(connect=0.05))
        assert (caught.value.kind, caught.value.sent) == ("timeout_connect", False)
        assert provider.client.connections == 0


async def test_a_closed_port() -> None:
    sock = bound()
    port = sock.getsockname()[1]
    sock.close()
    client = Client(ClientConfig(max_connections_per_origin=1))
    for _ in range(3):  # and a failure takes up no place
        with pytest.raises(UpstreamFault, match="failed") as caught:
            await client.request(Origin("http", "127.0.0.1", port, True), "GET", "/", (), b"", Timeouts())
        assert (caught.value.kind, caught.value.sent) == ("connect", False)
    await client.close()


# ---- cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["head", "read", "relay"])
async def test_a_cancelled_wait_closes_its_connection(where: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        if where != "head":
            await visit.say(CHUNKED + b"5\r\nhello\r\n")
        await visit.until_left()

    async def ask() -> None:
        response = await provider.get()
        await (response.read(100) if where == "read" else response.relay(lambda _: None))

    async with providing(script) as provider:
        asking = asyncio.create_task(ask())
        await eventually(lambda: len(provider.visits) == 1)
        await asyncio.sleep(0.02)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(provider.visits[0].left.wait(), 5)
        await eventually(lambda: provider.client.connections == 0)


async def test_cancelling_at_any_turn_of_the_loop_leaks_nothing() -> None:
    """Cancelled after n turns, for every n up to the whole exchange: no connection is half used afterwards."""

    async def ask() -> bytes:
        return await (await provider.get()).read(9)

    async with providing(saying(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", step=9)) as provider:
        finished = 0
        for turns in range(40):
            asking = asyncio.create_task(ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                finished += await asking == b"hello"
            assert await ask() == b"hello"
            await eventually(lambda: provider.client.connections == 1)
        assert 0 < finished < 40


async def test_cancelling_while_connecting() -> None:
    async with providing(mute) as provider:
        origin = Origin("https", "127.0.0.1", provider.origin.port, allow_private=True)
        asking = asyncio.create_task(provider.client.request(origin, "GET", "/", (), b"", Timeouts()))
        await eventually(lambda: len(provider.visits) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert provider.client.connections == 0


# ---- streams ---------------------------------------------------------------------------------------------------------


async def test_relay_hands_on_each_piece_at_once() -> None:
    """Kong 14425, litellm 9491: streams that were buffered on their way."""
    go = asyncio.Event()
    got: list[bytes] = []

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(CHUNKED + b"3\r\none\r\n")
        await go.wait()
        await visit.say(b"3\r\ntwo\r\n")
        await asyncio.sleep(0.01)
        await visit.say(b"5\r\nthree\r\n0\r\n\r\n")
        await visit.until_left()

    async with providing(script) as provider:
        response = await provider.get()
        await asyncio.sleep(0.02)
        relaying = asyncio.create_task(response.relay(got.append))
        await eventually(lambda: got == [b"one"])
        go.set()
        await eventually(lambda: got == [b"one", b"two"])
        await relaying
        assert got == [b"one", b"two", b"three"]
        assert provider.client.connections == 1


@pytest.mark.parametrize("broken", [b"", CHUNKED, CHUNKED + b"3\r\none\r\n", CHUNKED + b"3\r\none\r\n0\r\n\r\n"])
async def test_what_a_call_held_is_freed_with_its_answer(broken: bytes) -> None:
    """A fault leads, by its traceback, to all that waited for it: nothing may wait for the garbage collector."""

    class Body:
        def take(self, _: bytes) -> None:
            pass

    async def call(provider: Provider) -> weakref.ref[Body]:
        body = Body()
        try:
            response = await provider.get()
            await response.relay(body.take)
        except UpstreamFault:
            assert not broken.endswith(b"0\r\n\r\n")
        return weakref.ref(body)

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(broken)

    async with providing(script) as provider:
        gc.disable()
        try:
            left = await call(provider)
            await eventually(lambda: left() is None)
        finally:
            gc.enable()


async def test_relay_raises_what_its_sink_raises() -> None:
    def sink(piece: bytes) -> None:
        if piece.endswith(b"o"):
            raise ZeroDivisionError

    for step in (0, 3):
        async with providing(saying(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n", step=step)) as provider:
            response = await provider.get()
            with pytest.raises(ZeroDivisionError):
                await response.relay(sink)
            await eventually(lambda provider=provider: provider.client.connections == 0)


async def test_a_stream_that_breaks_off_after_some_events() -> None:
    got: list[bytes] = []
    async with providing(saying(CHUNKED + b"3\r\none\r\n", close=True)) as provider:
        response = await provider.get()
        with pytest.raises(UpstreamFault) as caught:
            await response.relay(got.append)
        assert (caught.value.kind, got) == ("reset", [b"one"])


async def test_abort_inside_the_sink_ends_the_stream_quietly() -> None:
    got: list[bytes] = []

    def sink(piece: bytes) -> None:
        got.append(piece)
        response.abort()

    async with providing(saying(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n")) as provider:
        response = await provider.get()
        await asyncio.wait_for(response.relay(sink), 5)
        assert got == [b"one"]
        await eventually(lambda: provider.client.connections == 0)
        response.abort()


async def test_a_paused_stream_stops_the_provider_and_no_stall_is_seen() -> None:
    sent = 0

    async def script(visit: Visit) -> None:
        nonlocal sent
        await visit.request()
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: 30000000\r\n\r\n")
        for _ in range(300):
            await visit.say(bytes(100_000))
            sent += 100_000
        await visit.until_left()

    size = 0

    def sink(piece: bytes) -> None:
        nonlocal size
        size += len(piece)

    async with providing(script) as provider:
        response = await provider.get()
        response.pause()
        relaying = asyncio.create_task(response.relay(sink))
        await asyncio.sleep(0.1)
        assert sent < 20_000_000
        await provider.pass_time(300.0)
        assert not relaying.done()
        response.resume()
        await relaying
        assert size == 30_000_000


async def test_an_unread_body_is_bounded_in_memory() -> None:
    sent = 0

    async def script(visit: Visit) -> None:
        nonlocal sent
        await visit.request()
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            await visit.say(bytes(100_000))
            sent += 100_000

    async with providing(script) as provider:
        response = await provider.get()
        await asyncio.sleep(0.1)
        assert sent < 25_000_000
        assert len(await response.read(50_000_000)) == 50_000_000


async def test_close_ends_open_exchanges() -> None:
    async with providing(mute) as provider:
        asking = asyncio.create_task(provider.get())
        await eventually(lambda: len(provider.visits) == 1)
        await asyncio.sleep(0.01)
        await provider.client.close()
        with pytest.raises(UpstreamFault) as caught:
            await asking
        assert caught.value.kind == "reset"
        await eventually(lambda: provider.client.connections == 0)
