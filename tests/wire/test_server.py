"""The door on a real socket: bodies, order, deadlines, leaving clients, draining. Time moves only when told to."""

import asyncio
import contextlib
import socket
import ssl
import struct

import pytest
import trustme

from bursar.core.errors import ClientGone, Refusal
from bursar.wire.server import Exchange
from tests.wire.ground import answers, eventually, serving

GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"
BYE = b"GET /bye HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def post(length: int, *lines: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: h", b"Content-Length: %d" % length, *lines]) + b"\r\n\r\n"


async def echo(exchange: Exchange) -> None:
    exchange.respond(200, [("x-path", exchange.path)], await exchange.body())


# ---- answers ---------------------------------------------------------------------------------------------------------


async def test_keep_alive_and_pipelining_in_order() -> None:
    async def slow_first(exchange: Exchange) -> None:
        if exchange.path == "/0":
            await asyncio.sleep(0.02)
        await echo(exchange)

    async with serving(slow_first, max_pipelined=3) as ground:
        raw = b"".join(GET % (b"%d" % number) for number in range(40)) + BYE
        got = answers(await ground.talk(raw), "GET " * 41)
    assert [headers["x-path"] for _, headers, _ in got] == [f"/{number}" for number in range(40)] + ["/bye"]
    assert "connection" not in got[0][1]
    assert got[40][1]["connection"] == "close"


async def test_pipelined_connections_take_turns() -> None:
    """A long pipeline that never waits must not keep another client from being served."""
    order: list[str] = []

    async def note(exchange: Exchange) -> None:
        order.append(exchange.path)
        exchange.respond(200, [], b"")

    async with serving(note, max_pipelined=4) as ground:
        _, writer = await ground.connect()
        _, other = await ground.connect()
        await eventually(lambda: ground.server.connections == 2)
        writer.write((GET % b"many") * 400)
        other.write(GET % b"other")
        await eventually(lambda: len(order) == 401)
        writer.close()
        other.close()
    assert order.index("/other") < 350


@pytest.mark.parametrize(
    ("method", "status", "length"), [("GET", 200, "5"), ("HEAD", 200, "5"), ("GET", 204, None), ("GET", 304, None)]
)
async def test_whole_answers(method: str, status: int, length: str | None) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(status, b"x-a: b\r\n", b"hello")

    async with serving(handler) as ground:
        raw = await ground.talk(b"%b / HTTP/1.1\r\nHost: h\r\n\r\n" % method.encode() + BYE)
    (got, headers, body), _ = answers(raw, f"{method} GET")
    assert (got, headers.get("content-length"), headers["x-a"]) == (status, length, "b")
    assert body == (b"hello" if (method, status) == ("GET", 200) else b"")


async def test_streamed_answers_in_both_versions() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [("content-type", "text/event-stream")])
        for piece in (b"one", b"", b"two"):
            exchange.write(piece)
            await asyncio.sleep(0)
        exchange.finish()

    async with serving(handler) as ground:
        raw = await ground.talk(GET % b"x" + BYE)
        old = await ground.talk(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
        head = await ground.talk(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" + BYE)
    assert raw.count(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n") == 2
    assert [body for _, _, body in answers(raw, "GET GET")] == [b"onetwo", b"onetwo"]
    assert old.endswith(b"connection: close\r\n\r\nonetwo")
    assert [body for _, _, body in answers(head, "HEAD GET")] == [b"", b"onetwo"]


async def test_http_1_0_keeps_alive_only_when_asked() -> None:
    async with serving(echo) as ground:
        kept = await ground.talk(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n" + BYE)
        closed = await ground.talk(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n" + BYE)
    assert kept.count(b"HTTP/1.1 200") == 2
    assert closed.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\rb", "a\0b", "\u2603"])
async def test_a_value_cannot_leave_its_line(value: str) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, [("x-a", value)], b"")

    async with serving(handler) as ground:
        [(status, headers, _)] = answers(await ground.talk(BYE))
    assert status == 500
    assert "set-cookie" not in headers


# ---- failing handlers ------------------------------------------------------------------------------------------------


async def test_a_failing_handler_is_answered_and_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/silent":
            return
        raise KeyError("sk-secret")

    async with serving(handler) as ground:
        got = answers(await ground.talk(GET % b"x" + GET % b"silent" + BYE), "GET GET GET")
        assert ground.server.refused == {"internal_error": 3}
    assert [(status, body) for status, _, body in got] == [(500, b"internal_error")] * 3
    assert "KeyError" in caplog.text
    assert "sk-secret" not in caplog.text


async def test_a_refusal_that_escapes_is_rendered() -> None:
    async def handler(exchange: Exchange) -> None:
        raise Refusal("key_invalid", "no")

    async with serving(handler) as ground:
        [(status, _, body)] = answers(await ground.talk(BYE))
    assert (status, body) == (401, b"key_invalid")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_broken_stream_is_visibly_broken(version: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"half")
        await asyncio.sleep(0.02)
        raise ValueError

    async with serving(handler) as ground:
        reader, writer = await ground.connect()
        writer.write(b"GET / HTTP/%b\r\nHost: h\r\n\r\n" % version)
        await reader.readuntil(b"half")
        if version == b"1.0":  # nothing but a reset tells the end of this answer from its breaking off
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert await reader.read() == b"\r\n"  # and no last chunk
        writer.close()


# ---- bodies ----------------------------------------------------------------------------------------------------------


async def test_the_handler_runs_before_the_body_comes() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(401, [], b"no")

    async with serving(handler) as ground:
        reader, writer = await ground.connect()
        writer.write(post(10_000_000))
        [(status, headers, _)] = answers(await asyncio.wait_for(reader.read(), 5), "POST")
        assert (status, headers["connection"]) == (401, "close")
        assert ground.server.bytes_in_flight == 0
        writer.close()


async def test_a_small_unwanted_body_is_drained_and_the_connection_kept() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(401, [], b"no")

    async with serving(handler) as ground:
        reader, writer = await ground.connect()
        writer.write(post(1000) + b"x" * 10)
        await reader.readuntil(b"\r\n\r\nno")
        writer.write(b"x" * 990 + BYE)
        [(status, _, _)] = answers(await reader.read())
        assert status == 401
        writer.close()


async def test_a_body_that_is_here_needs_no_waiting() -> None:
    turns: list[bool] = []

    async def handler(exchange: Exchange) -> None:
        waiting = exchange.body()
        try:
            waiting.send(None)
        except StopIteration as done:
            turns.append(done.value == b"abcd")
        exchange.respond(200, [], b"")

    async with serving(handler) as ground:
        await ground.talk(post(4, b"Connection: close") + b"abcd")
    assert turns == [True]


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_arrive_whole_and_are_counted(chunked: bool) -> None:
    body = bytes(range(256)) * 20000
    counted: list[int] = []

    async def handler(exchange: Exchange) -> None:
        got = await exchange.body()
        assert await exchange.body() is got
        counted.append(ground.server.bytes_in_flight)
        exchange.respond(200, [], b"same" if got == body else b"other")

    async with serving(handler) as ground:
        raw = post(len(body)) + body
        if chunked:
            pieces = [body[at : at + 70000] for at in range(0, len(body), 70000)]
            raw = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            raw += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        got = answers(await ground.talk(raw + BYE), "POST GET")
        assert got[0][2] == b"same"
        assert ground.server.bytes_in_flight == 0
    assert counted == [len(body), 0]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit(chunked: bool) -> None:
    async with serving(echo, max_body=100_000) as ground:
        reader, writer = await ground.connect()
        if chunked:
            writer.write(
                b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"x" * 65535
            )
            writer.write(b"\r\nffff\r\n" + b"x" * 65535)
        else:
            writer.write(post(100_001) + b"x" * 50_000)
        [(status, headers, body)] = answers(await asyncio.wait_for(reader.read(), 5), "POST")
        assert (status, body, headers["connection"]) == (413, b"body_too_large", "close")
        assert ground.server.bytes_in_flight == 0
        writer.close()


async def test_a_gigabyte_is_refused_by_its_length_alone() -> None:
    async with serving(echo) as ground:
        reader, writer = await ground.connect()
        writer.write(post(1 << 30, b"Expect: 100-continue"))
        [(status, _, _)] = answers(await asyncio.wait_for(reader.read(), 5), "POST")
        assert status == 413
        writer.close()


async def test_bodies_in_memory_are_capped_over_all_connections() -> None:
    async with serving(echo, max_bytes_in_flight=150_000) as ground:
        first, first_writer = await ground.connect()
        first_writer.write(post(100_000) + b"x" * 99_999)
        await eventually(lambda: ground.server.bytes_in_flight == 99_999)
        [(status, _, word)] = answers(await ground.talk(post(60_000) + b"x" * 60_000), "POST")
        assert (status, word) == (503, b"overloaded")
        first_writer.write(b"x" + BYE)
        assert [status for status, _, _ in answers(await first.read(), "POST GET")] == [200, 200]
        assert ground.server.bytes_in_flight == 0
        first_writer.close()


async def test_expect_100_continue_is_answered_only_when_the_body_is_wanted() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.headers.get("x-key") != "right":
            exchange.respond(401, [], b"no")
        else:
            await echo(exchange)

    async with serving(handler) as ground:
        reader, writer = await ground.connect()
        writer.write(post(4, b"Expect: 100-continue", b"X-Key: right"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abcd")
        assert (await reader.readuntil(b"abcd")).startswith(b"HTTP/1.1 200")
        writer.write(post(4, b"Expect: 100-continue"))
        [(status, headers, _)] = answers(await reader.read(), "POST")
        assert (status, headers["connection"]) == (401, "close")
        writer.close()
        # A client that does not wait for it needs none.
        got = await ground.talk(post(4, b"Expect: 100-continue", b"X-Key: right") + b"abcd" + BYE)
        assert got.startswith(b"HTTP/1.1 200")


async def test_unread_bodies_and_pipelines_stop_the_reading() -> None:
    """Nobody asks for the body: at most what the kernel and we hold ahead leaves the client."""
    asked = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await asked.wait()
        exchange.respond(200, [], b"%d" % len(await exchange.body()))

    async with serving(handler) as ground:
        sock = socket.create_connection(("127.0.0.1", ground.port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        sending = loop.create_task(loop.sock_sendall(sock, post(20_000_000, b"Connection: close") + bytes(20_000_000)))
        await asyncio.sleep(0.1)
        assert not sending.done()
        assert ground.server.bytes_in_flight < 1_000_000
        asked.set()
        await asyncio.wait_for(sending, 10)
        assert (await loop.sock_recv(sock, 1000)).endswith(b"20000000")
        sock.close()


async def test_a_pipeline_is_not_read_ahead_without_end() -> None:
    go = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, [], b"")

    async with serving(handler) as ground:
        sock = socket.create_connection(("127.0.0.1", ground.port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        sending = loop.create_task(loop.sock_sendall(sock, (GET % b"x" * 100) * 8000))
        await asyncio.sleep(0.1)
        assert not sending.done()
        sending.cancel()
        sock.close()
        go.set()


# ---- deadlines -------------------------------------------------------------------------------------------------------


async def test_a_slow_head() -> None:
    async with serving(echo) as ground:
        reader, writer = await ground.connect()
        for piece in (b"GET / HT", b"TP/1.1\r\n", b"Host: h\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.01)
            await ground.pass_time(3.0)
        assert ground.server.refused == {}
        await ground.pass_time(2.0)
        [(status, _, word)] = answers(await reader.read())
        assert (status, word) == (408, b"request_timeout")
        writer.close()


async def test_a_slow_body_and_one_that_is_merely_long() -> None:
    async with serving(echo) as ground:
        slow, slow_writer = await ground.connect()
        steady, steady_writer = await ground.connect()
        slow_writer.write(post(500_000) + b"x")
        steady_writer.write(post(500_000) + b"x")
        await eventually(lambda: ground.server.bytes_in_flight == 2)
        slow_writer.write(b"x" * 50_000)
        for _ in range(5):
            steady_writer.write(b"x" * 70_000)
            await asyncio.sleep(0.02)
            await ground.pass_time(61.0)
        [(status, headers, word)] = answers(await slow.read(), "POST")
        assert (status, word, headers["connection"]) == (408, b"request_timeout", "close")
        steady_writer.write(b"x" * 149_999 + BYE)
        assert [status for status, _, _ in answers(await steady.read(), "POST GET")] == [200, 200]
        assert ground.server.bytes_in_flight == 0
        slow_writer.close()
        steady_writer.close()


async def test_idle_connections_are_closed_silently() -> None:
    async with serving(echo, idle_timeout=75.0, head_timeout=10.0) as ground:
        used, used_writer = await ground.connect()
        unused, unused_writer = await ground.connect()
        used_writer.write(GET % b"x")
        await used.readuntil(b"\r\n\r\n")
        await ground.pass_time(11.0)
        assert await unused.read() == b""
        await ground.pass_time(50.0)
        used_writer.write(GET % b"x")
        await used.readuntil(b"\r\n\r\n")
        await ground.pass_time(74.0)
        assert ground.server.connections == 1
        await ground.pass_time(2.0)
        assert await used.read() == b""
        used_writer.close()
        unused_writer.close()


async def test_no_deadline_runs_while_the_handler_works() -> None:
    go = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, [], b"")

    async with serving(handler) as ground:
        talk = asyncio.create_task(ground.talk(BYE))
        await eventually(lambda: ground.server.connections == 1)
        await asyncio.sleep(0.01)
        await ground.pass_time(3600.0)
        go.set()
        assert (await talk).startswith(b"HTTP/1.1 200")


async def test_a_slow_reader_pauses_the_producer_and_a_stuck_one_is_cut_off() -> None:
    flow: list[bool] = []
    left = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.on_flow = flow.append
        exchange.on_gone = left.set
        exchange.start(200, [])
        while not (flow and flow[-1]):
            exchange.write(b"x" * 65536)
            await asyncio.sleep(0)
        await left.wait()

    async with serving(handler) as ground:
        reader, writer = await ground.connect(limit=1024)
        writer.write(GET % b"x")
        await eventually(lambda: flow == [True])
        while flow != [True, False]:
            await reader.read(1 << 20)
        flow.clear()
        await asyncio.sleep(0)
        writer.close()
        await asyncio.wait_for(left.wait(), 5)

        left.clear()
        flow.clear()
        _, writer = await ground.connect(limit=1024)
        writer.write(GET % b"x")
        await eventually(lambda: flow == [True])
        await ground.pass_time(59.0)
        assert not left.is_set()
        for _ in range(4):  # what the kernels still shift between them counts as taken
            await asyncio.sleep(0.01)
            await ground.pass_time(61.0)
        assert left.is_set()
        writer.close()


async def test_a_client_that_closes_its_side_over_unread_bytes_is_gone_at_once() -> None:
    flow: list[bool] = []
    left = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.on_flow = flow.append
        exchange.on_gone = left.set
        exchange.start(200, [])
        while not flow:
            exchange.write(b"x" * 65536)
            await asyncio.sleep(0)
        await left.wait()

    async with serving(handler) as ground:
        _, writer = await ground.connect(limit=1024)
        writer.write(GET % b"x")
        await eventually(lambda: flow == [True])
        writer.write_eof()
        await asyncio.wait_for(left.wait(), 5)
        writer.close()


async def test_a_reader_that_takes_little_by_little_is_served_to_the_end() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(200, [], bytes(30_000_000))

    async with serving(handler) as ground:
        reader, writer = await ground.connect(limit=1024)
        writer.write(BYE)
        got = passed = 0
        while piece := await reader.read(1 << 20):
            got += len(piece)
            if got - passed > 500_000:
                passed = got
                await asyncio.sleep(0.001)
                await ground.pass_time(40.0)
        assert got > 30_000_000
        writer.close()


async def test_the_next_request_waits_until_the_last_answer_is_taken() -> None:
    """A client that sends but never reads cannot pile up answers."""
    served: list[str] = []

    async def handler(exchange: Exchange) -> None:
        served.append(exchange.path)
        exchange.respond(200, [], bytes(8_000_000))

    async with serving(handler) as ground:
        _, writer = await ground.connect(limit=1024)
        writer.write((GET % b"x") * 50)
        await asyncio.sleep(0.1)
        assert 1 <= len(served) <= 2
        writer.close()


# ---- leaving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
async def test_a_leaving_client_is_told_once_and_the_handler_goes_on(reset: bool) -> None:
    told: list[str] = []
    settled = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        gone = asyncio.Event()

        def on_gone() -> None:
            told.append("gone")
            gone.set()

        exchange.on_gone = on_gone
        exchange.start(200, [])
        exchange.write(b"one")
        await gone.wait()
        assert exchange.gone
        exchange.write(b"two")  # dropped silently
        await asyncio.sleep(0.01)
        exchange.finish()
        settled.set()

    async with serving(handler) as ground:
        reader, writer = await ground.connect()
        writer.write(GET % b"x")
        await reader.readuntil(b"one")
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
        await asyncio.wait_for(settled.wait(), 5)
        await eventually(lambda: ground.server.connections == 0)
    assert told == ["gone"]


async def test_a_client_that_leaves_after_its_answer_is_not_gone() -> None:
    told: list[str] = []
    settled = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.on_gone = lambda: told.append("gone")
        exchange.respond(200, [], b"x")
        await asyncio.sleep(0.05)
        settled.set()

    async with serving(handler) as ground:
        await ground.talk(BYE)
        await asyncio.wait_for(settled.wait(), 5)
    assert told == []


async def test_leaving_during_the_body() -> None:
    seen: list[str] = []

    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.body()
        except ClientGone:
            seen.append("gone")
            raise

    async with serving(handler) as ground:
        _, writer = await ground.connect()
        writer.write(post(100) + b"x" * 50)
        await eventually(lambda: ground.server.bytes_in_flight == 50)
        writer.close()
        await eventually(lambda: seen == ["gone"])
        assert ground.server.bytes_in_flight == 0
        assert ground.server.refused == {}


# ---- limits, drain, TLS ----------------------------------------------------------------------------------------------


async def test_connections_are_capped() -> None:
    async with serving(echo, max_connections=2) as ground:
        kept = [await ground.connect() for _ in range(2)]
        await eventually(lambda: ground.server.connections == 2)
        [(status, _, word)] = answers(await ground.talk(b""))
        assert (status, word) == (503, b"overloaded")
        kept[0][1].close()
        await eventually(lambda: ground.server.connections == 1)
        assert (await ground.talk(BYE)).startswith(b"HTTP/1.1 200")
        kept[1][1].close()


async def test_drain_lets_streams_finish_and_closes_the_idle() -> None:
    go = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        if exchange.path == "/quick":
            await echo(exchange)
            return
        exchange.start(200, [])
        exchange.write(b"begin")
        await go.wait()
        exchange.write(b"end")
        exchange.finish()

    async with serving(handler) as ground:
        idle, idle_writer = await ground.connect()
        idle_writer.write(GET % b"quick")
        await idle.readuntil(b"\r\n\r\n")
        stream, stream_writer = await ground.connect()
        stream_writer.write(GET % b"slow")
        await stream.readuntil(b"begin")
        late, late_writer = await ground.connect()
        late_writer.write(b"GET /quick HTTP/1.1\r\n")
        await eventually(lambda: ground.server.connections == 3)
        draining = asyncio.create_task(ground.server.drain(5))
        assert await idle.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await ground.connect()
        late_writer.write(b"Host: h\r\n\r\n")
        [(status, headers, _)] = answers(await late.read())
        assert (status, headers["connection"]) == (200, "close")
        assert not draining.done()
        go.set()
        assert (await stream.read()).endswith(b"end\r\n0\r\n\r\n")
        await asyncio.wait_for(draining, 5)
        assert ground.server.connections == 0
        for writer in (idle_writer, stream_writer, late_writer):
            writer.close()


async def test_drain_cuts_off_what_does_not_end_and_waits_for_settlement() -> None:
    settled: list[bool] = []

    async def handler(exchange: Exchange) -> None:
        gone = asyncio.Event()
        exchange.on_gone = gone.set
        exchange.start(200, [])
        exchange.write(b"begin")
        await gone.wait()
        await asyncio.sleep(0.02)
        settled.append(exchange.gone)

    async with serving(handler) as ground:
        reader, writer = await ground.connect()
        writer.write(GET % b"x")
        await reader.readuntil(b"begin")
        await ground.server.drain(0.05)
        assert settled == [True]
        assert b"0\r\n\r\n" not in await reader.read()
        writer.close()


def _contexts(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_tls_and_its_reload() -> None:
    server, client = _contexts("localhost")
    other_server, other_client = _contexts("localhost")
    async with serving(echo, tls=server) as ground:
        reader, writer = await ground.connect(ssl=client, server_hostname="localhost")
        body = bytes(300_000)
        writer.write(post(len(body)) + body)
        assert (await reader.readexactly(9)) == b"HTTP/1.1 "
        await ground.server.reload_tls(other_server)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ground.connect(ssl=client, server_hostname="localhost")
        renewed, renewed_writer = await ground.connect(ssl=other_client, server_hostname="localhost")
        renewed_writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n")
        [(status, _, _)] = answers(await renewed.read(), "POST")
        assert status == 400
        rest = await reader.readexactly(300_000)  # the connection from before the reload is served on
        writer.write(BYE)
        assert b"x-path: /bye" in rest + await reader.read()
        for each in (writer, renewed_writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()


async def test_the_peer_is_told() -> None:
    seen: list[tuple[str, float]] = []

    async def handler(exchange: Exchange) -> None:
        seen.append((exchange.peer, exchange.received))
        exchange.respond(200, [], b"")

    async with serving(handler) as ground:
        await ground.talk(BYE)
    assert seen == [("127.0.0.1", 1000.0)]
