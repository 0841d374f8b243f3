"""The documents of outside issuers: https, one try, no redirects, bounded in size and time, not into the network."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from bursar.app.fetching import Fetcher
from bursar.control.issuer_keys import MAX_DOCUMENT
from bursar.core.errors import Refusal
from bursar.wire.client import Client, ClientConfig, Timeouts

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HASTY = Timeouts(connect=1, write=1, first_byte=0.5, body=0.5, between_bytes=0.5, total=1.5)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    made = Client(ClientConfig(max_idle_per_origin=0))
    yield made
    await made.close()


def saying(raw: bytes, *, end: bool = True) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        if end:
            writer.close()

    return serve


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never silent for long, never done."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await asyncio.sleep(0.1)


async def fetched(client: Client, serve: Serve, *, http_loopback: bool = True) -> bytes:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        fetch = Fetcher(client, http_loopback=http_loopback, timeouts=HASTY)
        return await fetch(f"http://127.0.0.1:{port}/keys", private=False)


def answer(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), more, body)


async def test_a_document_is_read(client: Client) -> None:
    assert await fetched(client, saying(answer(b'{"keys":[]}'))) == b'{"keys":[]}'


@pytest.mark.parametrize(
    "serve",
    [
        saying(b"", end=False),  # deaf
        saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", end=False),
        saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
        dripping,
        saying(answer(b"x" * (MAX_DOCUMENT + 1))),
        saying(answer(b"", b"302 Found", b"location: http://169.254.169.254/latest\r\n")),
        saying(answer(b"", b"404 Not Found")),
        saying(answer(b"{}", b"500 No")),
        saying(b"nonsense\r\n\r\n"),
    ],
    ids=["deaf", "stalled", "cut off", "dripping", "huge", "redirect", "missing", "failing", "no http"],
)
async def test_what_is_slow_huge_or_elsewhere_is_refused_in_time(client: Client, serve: Serve) -> None:
    with pytest.raises(Refusal) as caught:
        await asyncio.wait_for(fetched(client, serve), 10)
    assert caught.value.word == "subject_keys_unavailable"


async def test_nobody_there(client: Client) -> None:
    with pytest.raises(Refusal) as caught:
        await Fetcher(client, http_loopback=True, timeouts=HASTY)("http://127.0.0.1:1/keys", private=False)
    assert caught.value.word == "subject_keys_unavailable"


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example.org/keys",
        "http://10.0.0.1/keys",
        "ftp://issuer.example.org/keys",
        "file:///etc/passwd",
        "https://",
        "https://[::1/keys",
        "keys",
        "https://10.0.0.1/keys",
        "https://169.254.169.254/keys",
    ],
)
@pytest.mark.parametrize("http_loopback", [True, False])
async def test_only_https_and_nothing_inside(client: Client, url: str, http_loopback: bool) -> None:
    with pytest.raises(Refusal) as caught:
        await Fetcher(client, http_loopback=http_loopback, timeouts=HASTY)(url, private=False)
    assert caught.value.word == "subject_keys_unavailable"


async def test_this_machine_only_where_it_is_configured(client: Client) -> None:
    with pytest.raises(Refusal):
        await fetched(client, saying(answer(b"{}")), http_loopback=False)
