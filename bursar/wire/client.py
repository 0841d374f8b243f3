"""The HTTP/1.1 client of the data port: a pool of connections per origin. `upstream` does the work."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache

import msgspec

from bursar.core.errors import UpstreamFault
from bursar.wire.dial import Dialer, Origin, Proxy, Timeouts
from bursar.wire.head import header_block
from bursar.wire.outbox import Outbox
from bursar.wire.upstream import Link, Response
from bursar.wire.wheel import Wheel

__all__ = ["Client", "ClientConfig", "Origin", "Response", "Timeouts", "UpstreamFault"]

_TICK = 0.5  # seconds: how coarse deadlines are
_JOIN_UP_TO = 65536  # bytes of body that are cheaper to copy behind the head than to write apart
_OURS = frozenset(
    (
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "accept-encoding",
        "expect",
        "te",
        "upgrade",
        "trailer",
    )
)
_BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`ca_file`: PEM bundle instead of certifi's. `proxy`: http://[user:password@]host:port; `no_proxy` bypasses it."""

    max_idle_per_origin: int = 64
    idle_seconds: float = 15.0
    max_connections_per_origin: int = 2000  # 0 = none; beyond it a request fails at once, unsent
    ca_file: str | None = None
    proxy: str | None = None
    no_proxy: str = ""


@lru_cache(maxsize=1024)
def _opening(method: str, target: str, authority: str) -> bytes:
    """Request line and Host. ValueError: a part would break out of its line."""
    if not (method.isalpha() and method.isupper()) or not target.isascii() or not target.isprintable() or " " in target:
        raise ValueError("the request line is not method, target")
    return f"{method} {target} HTTP/1.1\r\nhost: {authority}\r\naccept-encoding: identity\r\n".encode("ascii")


class _Stock:
    """The connections to one origin."""

    __slots__ = ("authority", "idle", "open", "proxy")

    def __init__(self, authority: str, proxy: Proxy | None) -> None:
        self.authority = authority
        self.idle: list[Link] = []  # the latest used last
        self.open = 0  # all of them, also those being made
        self.proxy = proxy  # that is asked with the target in absolute form


class Client:
    """Sends requests. No redirects, no retries, no cookies, no decoding: what comes is what the provider sent."""

    def __init__(self, config: ClientConfig, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._dialer = Dialer(config.ca_file, config.proxy, config.no_proxy, monotonic)
        self._stocks: dict[Origin, _Stock] = {}
        self._links: set[Link] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.monotonic = monotonic
        self.wheel = Wheel(_TICK)
        self._outbox = Outbox()

    @property
    def connections(self) -> int:
        return len(self._links)

    def request(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]] | bytes,
        body: bytes,
        timeouts: Timeouts,
    ) -> Coroutine[None, None, Response]:
        """Send one request, at once where a connection is idle. To be awaited: for the end of its answer's head.

        The wait raises UpstreamFault, the call itself ValueError for bad input.
        Host, content-length and accept-encoding (identity) are added here. `headers` as bytes are whole lines, each
        with its CRLF, and are trusted.
        """
        now = self.monotonic()
        total = now + timeouts.total
        stock = self._stocks.get(origin) or self._stock(origin)
        data = _compose(stock, method, target, headers, body)
        link = self._idle_link(stock, now)
        response = Response(method, timeouts, total)
        if link is None:
            return self._connect_and_send(origin, stock, response, data, body)
        return self._send(link, response, data, body, now)

    def _send(
        self, link: Link, response: Response, data: bytes, body: bytes, now: float
    ) -> Coroutine[None, None, Response]:
        response.begin(link, now)
        if len(body) > _JOIN_UP_TO:
            link.transport.write(data)
            link.transport.write(body)
            response.written()
        else:
            self._outbox.post(link.transport, data)
        return response.head()

    async def _connect_and_send(
        self, origin: Origin, stock: _Stock, response: Response, data: bytes, body: bytes
    ) -> Response:
        timeouts = response.timeouts
        link = await self._connect(origin, stock, min(timeouts.connect, timeouts.total))
        return await self._send(link, response, data, body, self.monotonic())

    async def close(self) -> None:
        """Close every connection; open exchanges end with UpstreamFault(reset)."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for link in list(self._links):
            if link.response is not None:
                link.response.ended(clean=False)
            link.drop()
        await asyncio.sleep(0)

    def _stock(self, origin: Origin) -> _Stock:
        proxy = self._dialer.proxy_of(origin)
        stock = _Stock(origin.authority, proxy if origin.scheme == "http" else None)
        self._stocks[origin] = stock
        if self._sweeper is None:
            self._turn()
        return stock

    def _turn(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(_TICK, self._turn)
        self.sweep()

    def sweep(self) -> None:
        """Act on the deadlines that have passed. Happens by itself every half second."""
        self.wheel.sweep(self.monotonic())

    def _idle_link(self, stock: _Stock, now: float) -> Link | None:
        while stock.idle:
            link = stock.idle.pop()
            if link.is_fit(now):
                return link
            link.drop()
        return None

    async def _connect(self, origin: Origin, stock: _Stock, seconds: float) -> Link:
        most = self._config.max_connections_per_origin
        if self._closed or (most and stock.open >= most):
            raise UpstreamFault("connect", "too many connections to this provider are open", sent=False)
        stock.open += 1
        try:
            link = await self._dialer.open(origin, lambda: Link(self, stock), seconds)
        except BaseException:
            stock.open -= 1
            raise
        self._links.add(link)
        return link

    # ---- for the connections -----------------------------------------------------------------------------------------

    def take_back(self, link: Link) -> None:
        """Its answer is whole: keep it for the next, or close it when there are enough."""
        stock = link.key
        assert isinstance(stock, _Stock)
        idle, config = stock.idle, self._config
        if len(idle) >= config.max_idle_per_origin or self._closed:
            link.drop()
        else:
            link.idle_since = now = self.monotonic()
            link.deadline = deadline = now + config.idle_seconds
            if deadline < link.slot:
                self.wheel.file(link)
            idle.append(link)

    def forget(self, link: Link) -> None:
        """It is closed."""
        stock = link.key
        assert isinstance(stock, _Stock)
        if link in self._links:
            self._links.discard(link)
            stock.open -= 1
        if link in stock.idle:
            stock.idle.remove(link)


def _compose(
    stock: _Stock,
    method: str,
    target: str,
    headers: Sequence[tuple[str, str]] | bytes,
    body: bytes,
) -> bytes:
    """The request's head, with the body behind it unless that is large."""
    if isinstance(headers, bytes):
        block = headers
    elif any(name.lower() in _OURS for name, _ in headers):
        raise ValueError("a header field that the client sets itself")
    else:
        block = header_block(headers)
    if stock.proxy is not None:
        target = f"http://{stock.authority}{target}"
        if stock.proxy.credentials:
            block += header_block([("proxy-authorization", stock.proxy.credentials)])
    opening = _opening(method, target, stock.authority)
    if not body and method in _BODILESS:
        return b"%b%b\r\n" % (opening, block)
    if len(body) > _JOIN_UP_TO:
        return b"%b%bcontent-length: %d\r\n\r\n" % (opening, block, len(body))
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (opening, block, len(body), body)
