"""The fault proxy does what it is told, to connections that are open and to new ones, and stops when told."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import FaultProxy


class Echo(socketserver.BaseRequestHandler):
    """Answers each piece with itself, and keeps what came."""

    def handle(self) -> None:
        assert isinstance(self.server, EchoServer)
        try:
            while data := self.request.recv(65_536):
                self.server.came += data
                self.request.sendall(data)
        except OSError:
            self.server.broken += 1


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    came = b""
    broken = 0


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", server.server_address[1]) as proxy:
        yield proxy


def call(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=20)


def hears_nothing(caller: socket.socket, seconds: float = 0.15) -> bool:
    caller.settimeout(seconds)
    try:
        caller.recv(1)
    except TimeoutError:
        return True
    finally:
        caller.settimeout(20)
    return False


def until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_in_fair_weather_bytes_pass_both_ways_and_so_does_the_end(proxy: FaultProxy) -> None:
    with call(proxy) as caller:
        sent = bytes(range(256)) * 4000
        threading.Thread(target=lambda: (caller.sendall(sent), caller.shutdown(socket.SHUT_WR))).start()
        came = b""
        while piece := caller.recv(65_536):
            came += piece
        assert came == sent
    until(lambda: proxy.connections == 0)
    assert proxy.accepted == 1


def test_delay_is_added_each_way_and_order_stays(proxy: FaultProxy) -> None:
    with call(proxy) as caller:
        proxy.delay(0.1)
        began = time.monotonic()
        caller.sendall(b"one")
        caller.sendall(b"two")
        assert caller.recv(1, socket.MSG_PEEK)
        assert time.monotonic() - began >= 0.2
        until(lambda: len(caller.recv(6, socket.MSG_PEEK)) == 6)
        assert caller.recv(6) == b"onetwo"


def test_a_long_delay_ends_with_heal(proxy: FaultProxy) -> None:
    with call(proxy) as caller:
        proxy.delay(600)
        caller.sendall(b"x")
        assert hears_nothing(caller)
        proxy.heal()
        assert caller.recv(1) == b"x"


def test_a_black_hole_lets_nothing_through_and_tells_nobody(proxy: FaultProxy, server: EchoServer) -> None:
    with call(proxy) as caller:
        proxy.drop()
        caller.sendall(b"lost?")
        with call(proxy) as late:
            late.sendall(b"late")
            assert hears_nothing(caller)
            assert hears_nothing(late)
            assert server.came == b""
            proxy.heal()
            assert caller.recv(5) == b"lost?"
            assert late.recv(4) == b"late"


def test_a_mute_server_has_done_what_it_was_asked(proxy: FaultProxy, server: EchoServer) -> None:
    with call(proxy) as caller:
        proxy.mute()
        caller.sendall(b"commit")
        until(lambda: server.came == b"commit")
        assert hears_nothing(caller)
        proxy.heal()
        assert caller.recv(6) == b"commit"


def test_half_open_connections_stay_so_and_new_ones_work(proxy: FaultProxy, server: EchoServer) -> None:
    with call(proxy) as caller:
        caller.sendall(b"a")
        assert caller.recv(1) == b"a"
        proxy.half_open()
        caller.sendall(b"b")
        assert hears_nothing(caller)
        proxy.heal()
        caller.sendall(b"c")
        assert hears_nothing(caller)
        assert server.came == b"a"
        with call(proxy) as fresh:
            fresh.sendall(b"d")
            assert fresh.recv(1) == b"d"


def test_a_reset_is_a_reset(proxy: FaultProxy) -> None:
    with call(proxy) as caller:
        caller.sendall(b"a")
        assert caller.recv(1) == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            caller.recv(1)
        with call(proxy) as fresh:
            fresh.sendall(b"b")
            assert fresh.recv(1) == b"b"


def test_while_it_refuses_every_connection_is_reset(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError), call(proxy) as caller:
        caller.recv(1)
    proxy.heal()
    with call(proxy) as caller:
        caller.sendall(b"a")
        assert caller.recv(1) == b"a"


def test_a_reset_in_the_place_of_an_answer(proxy: FaultProxy, server: EchoServer) -> None:
    with call(proxy) as caller, call(proxy) as other:
        proxy.reset_at_answer()
        caller.sendall(b"commit")
        with pytest.raises(ConnectionResetError):
            caller.recv(1)
        assert server.came == b"commit"
        other.sendall(b"b")
        assert other.recv(1) == b"b"


def test_a_narrow_line_takes_its_time(proxy: FaultProxy) -> None:
    with call(proxy) as caller:
        proxy.bandwidth(20_000)
        began = time.monotonic()
        caller.sendall(b"x" * 4_000)
        caller.shutdown(socket.SHUT_WR)
        came = 0
        while piece := caller.recv(65_536):
            came += len(piece)
        assert came == 4_000
        assert time.monotonic() - began >= 0.2


def test_nothing_listens_behind_it() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with FaultProxy("127.0.0.1", port) as proxy, call(proxy) as caller:
        assert caller.recv(1) == b""
