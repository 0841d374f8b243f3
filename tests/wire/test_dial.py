"""How providers are reached: TLS, addresses, proxies. Until the request is written, nothing counts as sent."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from bursar.core.errors import UpstreamFault
from bursar.wire.client import Client, ClientConfig, Origin, Timeouts
from bursar.wire.dial import Dialer, Proxy, bypasses
from tests.wire.ground import Hands
from tests.wire.provider import Visit, always_ok, providing


class Authority:
    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


async def fault_of(client: Client, origin: Origin) -> UpstreamFault:
    with pytest.raises(UpstreamFault) as caught:
        await client.request(origin, "GET", "/x", (), b"", Timeouts())
    assert client.connections == 0
    assert not caught.value.sent
    return caught.value


# ---- TLS -------------------------------------------------------------------------------------------------------------


async def test_tls_with_our_own_authority(authority: Authority) -> None:
    async with providing(always_ok, tls=authority.server("localhost"), ca_file=authority.file) as provider:
        for _ in range(3):
            assert await (await provider.get()).read(9) == b"ok"
        assert len(provider.visits) == 1
        large = await provider.client.request(provider.origin, "POST", "/", (), bytes(500_000), Timeouts())
        assert large.status == 200


async def test_a_certificate_for_another_name(authority: Authority) -> None:
    async with providing(always_ok, tls=authority.server("other.example"), ca_file=authority.file) as provider:
        assert (await fault_of(provider.client, provider.origin)).kind == "tls"


async def test_a_certificate_of_an_unknown_authority(authority: Authority) -> None:
    async with providing(always_ok, tls=authority.server("localhost")) as provider:
        assert (await fault_of(provider.client, provider.origin)).kind == "tls"


async def test_no_tls_at_all() -> None:
    async def plain(visit: Visit) -> None:
        await visit.say(b"220 smtp.example ready\r\n")
        await visit.until_left()

    async with providing(plain) as provider:
        origin = Origin("https", "127.0.0.1", provider.origin.port, allow_private=True)
        assert (await fault_of(provider.client, origin)).kind == "tls"


# ---- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "::1", "::ffff:127.0.0.1", "10.1.2.3"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_private_addresses_are_refused(host: str, scheme: str) -> None:
    client = Client(ClientConfig())
    assert (await fault_of(client, Origin(scheme, host, 9))).kind == "private_address"
    await client.close()


class Names(Dialer):
    """A resolver under the test's control."""

    answers: tuple[list[str], ...] = ()
    asked = 0

    async def _resolve(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


async def test_what_was_checked_is_what_is_reached() -> None:
    """A name that turns private after the check (rebinding) or in part is never followed there."""
    async with providing(always_ok) as provider:
        names = Names(None, None, "", Hands())
        names.answers = (["127.0.0.1", "::1", "10.0.0.1"],)
        with pytest.raises(UpstreamFault) as caught:
            await names.open(Origin("http", "evil.example", provider.origin.port), asyncio.Protocol, 1.0)
        assert (caught.value.kind, names.asked) == ("private_address", 1)
        names.answers = (["203.0.113.1"], ["127.0.0.1"])
        names.asked = 0
        with pytest.raises(UpstreamFault):
            await names.open(Origin("http", "evil.example", provider.origin.port), asyncio.Protocol, 0.1)
        assert (names.asked, provider.visits) == (1, [])


async def test_the_second_address_is_tried() -> None:
    async with providing(always_ok) as provider:
        names = Names(None, None, "", Hands())
        names.answers = (["127.0.0.2", "127.0.0.1"],)
        await names.open(Origin("http", "two.example", provider.origin.port, True), asyncio.Protocol, 5.0)
        await asyncio.sleep(0.01)
        assert len(provider.visits) == 1


async def test_names_are_believed_for_a_while() -> None:
    hands = Hands()
    dialer = Dialer(None, None, "", hands)
    first = await dialer._resolve("localhost", 80)
    assert await dialer._resolve("localhost", 80) is first
    hands.now += 60.0
    assert await dialer._resolve("localhost", 80) is not first


async def test_a_name_that_does_not_exist() -> None:
    client = Client(ClientConfig())
    assert (await fault_of(client, Origin("https", "no-such-name.invalid", 443))).kind == "connect"
    await client.close()


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("https", "api.example", 443), "api.example"),
        (Origin("https", "api.example", 80), "api.example:80"),
        (Origin("http", "api.example", 80), "api.example"),
        (Origin("http", "::1", 8000), "[::1]:8000"),
    ],
)
def test_authority(origin: Origin, authority: str) -> None:
    assert origin.authority == authority


# ---- proxies ---------------------------------------------------------------------------------------------------------


class Relay:
    """An HTTP proxy: CONNECT is tunnelled to 127.0.0.1, a target in absolute form is answered here."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0
        self.answer = b"HTTP/1.1 200 Connection established\r\n\r\n"

    async def visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if not head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nproxy")
                await reader.read()
            elif self.answer.startswith(b"HTTP/1.1 200"):
                port = int(head.split(b" ")[1].rpartition(b":")[2])
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(self.answer)
                await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))
            else:
                writer.write(self.answer)
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
    writer.close()


@asynccontextmanager
async def relaying() -> AsyncIterator[Relay]:
    relay = Relay()
    server = await asyncio.start_server(relay.visited, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()


async def test_https_goes_through_a_tunnel(authority: Authority) -> None:
    async with relaying() as relay:
        proxy = f"http://us%40er:p%3Aw@127.0.0.1:{relay.port}"
        tls = authority.server("api.example")
        async with providing(always_ok, tls=tls, ca_file=authority.file, proxy=proxy) as provider:
            provider.origin = Origin("https", "api.example", provider.origin.port)
            for _ in range(2):
                assert await (await provider.get()).read(9) == b"ok"
            port = provider.origin.port
    token = base64.b64encode(b"us@er:p:w")
    assert relay.heads == [
        b"CONNECT api.example:%d HTTP/1.1\r\nHost: api.example:%d\r\nProxy-Authorization: Basic %b\r\n\r\n"
        % (port, port, token)
    ]


async def test_http_asks_the_proxy_in_absolute_form() -> None:
    async with relaying() as relay:
        client = Client(ClientConfig(proxy=f"http://u:p@127.0.0.1:{relay.port}"))
        response = await client.request(Origin("http", "api.example", 80), "GET", "/a?b", (), b"", Timeouts())
        assert await response.read(9) == b"proxy"
        await client.close()
    [head] = relay.heads
    assert head.startswith(b"GET http://api.example/a?b HTTP/1.1\r\nhost: api.example\r\n")
    assert b"proxy-authorization: Basic dTpw\r\n" in head


async def test_this_machine_is_not_asked_of_a_proxy() -> None:
    async with relaying() as relay, providing(always_ok, proxy=f"http://127.0.0.1:{relay.port}") as provider:
        assert await (await provider.get()).read(9) == b"ok"
    assert relay.heads == []


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 Who are you\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"", b"x" * 20000])
async def test_a_proxy_that_refuses(answer: bytes) -> None:
    async with relaying() as relay:
        relay.answer = answer
        client = Client(ClientConfig(proxy=f"http://127.0.0.1:{relay.port}"))
        assert (await fault_of(client, Origin("https", "api.example", 443))).kind == "proxy"
        await client.close()


async def test_a_proxy_that_is_not_there() -> None:
    client = Client(ClientConfig(proxy="http://127.0.0.1:1"))
    assert (await fault_of(client, Origin("https", "api.example", 443))).kind == "proxy"
    await client.close()


async def test_a_private_address_is_not_reached_through_a_proxy_either() -> None:
    async with relaying() as relay:
        client = Client(ClientConfig(proxy=f"http://127.0.0.1:{relay.port}"))
        for scheme in ("http", "https"):
            assert (await fault_of(client, Origin(scheme, "169.254.169.254", 80))).kind == "private_address"
        await client.close()
    assert relay.heads == []


@pytest.mark.parametrize(
    ("no_proxy", "host", "bypassed"),
    [
        ("", "a.example", False),
        ("*", "a.example", True),
        ("a.example", "a.example", True),
        ("a.example", "b.a.example", True),
        (".a.example", "b.a.example", True),
        ("*.a.example", "b.a.example", True),
        ("a.example", "ba.example", False),
        ("x, A.Example:443 ", "a.example", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("", "10.0.0.1", False),
        ("", "127.0.0.1", True),
        ("", "localhost", True),
        ("", "::1", True),
        (",", "a.example", False),
    ],
)
def test_bypasses(no_proxy: str, host: str, bypassed: bool) -> None:
    assert bypasses(no_proxy, host) is bypassed


@pytest.mark.parametrize("url", ["https://p:1", "socks5://p:1", "p:3128", "http://", "http://p:x"])
def test_proxies_we_cannot_use_are_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Proxy.parse(url)
