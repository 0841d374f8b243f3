"""Opens connections to providers: names, addresses, proxies, TLS. Nothing of a request is written here."""

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import certifi
import msgspec

from bursar.core.errors import UpstreamFault
from bursar.wire.address import is_literal, is_loopback, is_public

_NAMES_SECONDS = 20.0  # how long a resolved name is believed
_MAX_NAMES = 1024
_MAX_PROXY_HEAD = 16384
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 4}  # long silent answers outlive NAT tables

_P = TypeVar("_P", bound=asyncio.Protocol)


class Origin(msgspec.Struct, frozen=True):
    """Where a provider lives. `allow_private` lets it be on a private, loopback or metadata address."""

    scheme: str  # "https" | "http"
    host: str
    port: int
    allow_private: bool = False

    @property
    def authority(self) -> str:
        """As the Host field spells it: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `write`: a full write buffer must drain; `first_byte`: request written to first byte of the answer;
    `body`: end of the answer's head to first byte of its body.
    """

    connect: float = 5.0
    write: float = 60.0
    first_byte: float = 120.0
    body: float = 120.0
    between_bytes: float = 60.0
    total: float = 600.0


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy of the operator's. `credentials` is the value of Proxy-Authorization, "" = none."""

    host: str
    port: int
    credentials: str

    @classmethod
    def parse(cls, url: str) -> "Proxy":
        """`http://[user:password@]host[:port]` -> Proxy. ValueError when it is anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("the proxy must be http://host:port")
        credentials = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            credentials = "Basic " + base64.b64encode(pair.encode()).decode()
        return cls(parts.hostname, parts.port or 80, credentials)


def bypasses(no_proxy: str, host: str) -> bool:
    """Does the comma list NO_PROXY name this host, a domain above it, or everything (`*`)? This machine always is."""
    host = host.lower()
    if host == "localhost" or is_loopback(host):
        return True
    for entry in no_proxy.lower().split(","):
        name = entry.strip().partition(":")[0].removeprefix("*").removeprefix(".")
        if entry.strip() == "*" or (name and (host == name or host.endswith("." + name))):
            return True
    return False


class Dialer:
    """Opens connections. `connect` is the whole span for one connection: name, address, proxy, TLS."""

    def __init__(self, ca_file: str | None, proxy: str | None, no_proxy: str, monotonic: Callable[[], float]) -> None:
        self._tls = ssl.create_default_context(cafile=ca_file or certifi.where())
        self._tls.set_alpn_protocols(["http/1.1"])
        self._proxy = Proxy.parse(proxy) if proxy else None
        self._no_proxy = no_proxy
        self._monotonic = monotonic
        self._names: dict[tuple[str, int], tuple[float, list[str]]] = {}

    def proxy_of(self, origin: Origin) -> Proxy | None:
        return None if self._proxy is None or bypasses(self._no_proxy, origin.host) else self._proxy

    async def open(self, origin: Origin, protocol: Callable[[], _P], connect: float) -> _P:
        """A connected protocol. Raises UpstreamFault(timeout_connect | connect | tls | private_address | proxy)."""
        try:
            async with asyncio.timeout(connect):
                return await self._open(origin, protocol, connect)
        except TimeoutError:
            raise UpstreamFault("timeout_connect", "no connection in time", sent=False) from None
        except ssl.SSLError as fault:
            raise UpstreamFault("tls", fault.reason or type(fault).__name__, sent=False) from None
        except OSError as fault:
            raise UpstreamFault("connect", fault.strerror or type(fault).__name__, sent=False) from None

    async def _open(self, origin: Origin, protocol: Callable[[], _P], connect: float) -> _P:
        proxy = self.proxy_of(origin)
        if proxy is None:
            sock = await self._reach(await self._addresses(origin), origin.port, connect)
        else:
            sock = await self._through(proxy, origin, connect)
        try:
            return await self._speak(sock, origin, protocol)
        except BaseException:
            sock.close()
            raise

    async def _speak(self, sock: socket.socket, origin: Origin, protocol: Callable[[], _P]) -> _P:
        loop = asyncio.get_running_loop()
        if origin.scheme == "https":
            _, made = await loop.create_connection(protocol, sock=sock, ssl=self._tls, server_hostname=origin.host)
        else:
            _, made = await loop.create_connection(protocol, sock=sock)
        return made

    async def _addresses(self, origin: Origin) -> list[str]:
        addresses = await self._resolve(origin.host, origin.port)
        if not origin.allow_private:
            addresses = [address for address in addresses if is_public(address)]
            if not addresses:
                raise UpstreamFault("private_address", "the provider's name leads to no public address", sent=False)
        return addresses

    async def _resolve(self, host: str, port: int) -> list[str]:
        known = self._names.get((host, port))
        now = self._monotonic()
        if known is not None and now < known[0]:
            return known[1]
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        self._names[host, port] = (now + _NAMES_SECONDS, addresses)
        return addresses

    async def _reach(self, addresses: list[str], port: int, connect: float) -> socket.socket:
        """Try the addresses in the resolver's order, each with its share of the time."""
        fault: OSError | None = None
        for address in addresses:
            try:
                return await _attach(address, port, connect / len(addresses))
            except OSError as refused:  # TimeoutError is one
                fault = refused
        raise fault or OSError("the name has no address")

    async def _through(self, proxy: Proxy, origin: Origin, connect: float) -> socket.socket:
        """A socket that leads to the origin (https) or to a proxy that will be asked for it (http)."""
        if is_literal(origin.host) and not origin.allow_private and not is_public(origin.host):
            raise UpstreamFault("private_address", "the provider's address is not public", sent=False)
        try:
            sock = await self._reach(await self._resolve(proxy.host, proxy.port), proxy.port, connect)
        except OSError as fault:
            raise UpstreamFault("proxy", f"the proxy was not reached: {fault.strerror}", sent=False) from None
        if origin.scheme == "https":
            try:
                await _tunnel(sock, proxy, origin)
            except BaseException:
                sock.close()
                raise
        return sock


async def _attach(address: str, port: int, seconds: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _tunnel(sock: socket.socket, proxy: Proxy, origin: Origin) -> None:
    """CONNECT (RFC 9110 §9.3.6). The proxy says nothing after its head until we speak TLS through it."""
    loop = asyncio.get_running_loop()
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.credentials:
        lines.append(f"Proxy-Authorization: {proxy.credentials}")
    await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await loop.sock_recv(sock, 4096)
        head += piece
        if not piece or len(head) > _MAX_PROXY_HEAD:
            raise UpstreamFault("proxy", "the proxy gave no answer to CONNECT", sent=False)
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].startswith(b"2"):
        raise UpstreamFault("proxy", "the proxy refused CONNECT", sent=False)
