"""Where Redis is: read from a URL, found by Sentinel, greeted. The URL holds the password and is never shown.

redis://[USER:PASSWORD@]HOST[:6379][/DATABASE], rediss:// with TLS, and for Sentinel
redis+sentinel://[USER:PASSWORD@]HOST[:26379],HOST.../SERVICE[/DATABASE][?sentinel_password=...] (rediss+sentinel).
"""

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from bursar.core.secret import Secret
from bursar.stores.redis_pipe import Pipe, ReplyError

AWAY = (OSError, TimeoutError, ReplyError)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of one Redis, or of the sentinels that know it."""

    hosts: tuple[tuple[str, int], ...]
    service: str = ""  # Sentinel's name of the master; "" = no Sentinel
    database: int = 0
    user: str = ""
    password: Secret | None = None
    sentinel_password: Secret | None = None
    tls: bool = False
    ca_file: str = ""


def read_place(url: Secret, ca_file: str = "") -> Place:
    """Raises ValueError, which says what is wrong and repeats nothing of the URL."""
    parts = urlsplit(url.reveal().strip())
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss") or kind not in ("", "sentinel"):
        raise ValueError("is not a redis://, rediss://, redis+sentinel:// or rediss+sentinel:// URL")
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    path = [piece for piece in parts.path.split("/") if piece]
    service = path.pop(0) if kind and path else ""
    if kind and not service:
        raise ValueError("names no service after the sentinels")
    database = path.pop(0) if path else "0"
    if path or not database.isdecimal():
        raise ValueError("does not end with the number of a database")
    options = parse_qs(parts.query)
    if set(options) - {"sentinel_password"}:
        raise ValueError("has an option that is not known")
    theirs = options.get("sentinel_password")
    return Place(
        hosts=tuple(_host(place, 26379 if kind else 6379) for place in places.split(",")),
        service=unquote(service),
        database=int(database),
        user=unquote(user),
        password=Secret(unquote(password)) if password else None,
        sentinel_password=Secret(theirs[0]) if theirs else None,
        tls=scheme == "rediss",
        ca_file=ca_file,
    )


def _host(text: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or default
    except ValueError:
        host, port = None, 0
    if not host:
        raise ValueError("names no host, or a port that is none")
    return host, port


async def connect(place: Place, make: Callable[[], Pipe], seconds: float) -> Pipe:
    """A connection to the one that takes writes, greeted. Raises what is in AWAY."""
    async with asyncio.timeout(seconds):
        if not place.service:
            return await _open(place, place.hosts[0], make, place.user, place.password)
        host = await _ask_sentinels(place, seconds / (len(place.hosts) + 1))
        pipe = await _open(place, host, make, place.user, place.password)
        try:
            role = (await pipe.ask("ROLE"))[0]
        except BaseException:
            pipe.cut("not greeted")
            raise
    if role != b"master":  # a sentinel that has not heard of the failover yet
        pipe.cut("it takes no writes")
        raise ConnectionError("the sentinels name one that takes no writes")
    return pipe


async def _ask_sentinels(place: Place, seconds: float) -> tuple[str, int]:
    """The first that answers is believed."""
    fault: Exception = ConnectionError("no sentinel knows the service")
    for host in place.hosts:
        try:
            async with asyncio.timeout(seconds):
                pipe = await _open(place, host, Pipe, "", place.sentinel_password)
                try:
                    found = await pipe.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", place.service)
                finally:
                    pipe.cut("asked")
        except AWAY as why:
            fault = why
            continue
        if found:
            return found[0].decode(), int(found[1])
    raise fault


async def _open(
    place: Place, host: tuple[str, int], make: Callable[[], Pipe], user: str, password: Secret | None
) -> Pipe:
    """Connected, authenticated and in the right database."""
    context = None
    if place.tls:
        context = ssl.create_default_context(cafile=place.ca_file or None)
    loop = asyncio.get_running_loop()
    _, pipe = await loop.create_connection(make, *host, ssl=context, server_hostname=host[0] if context else None)
    try:
        if password is not None:
            await pipe.ask("AUTH", *([user] if user else []), password.reveal())
        if make is not Pipe and place.database:
            await pipe.ask("SELECT", place.database)
    except BaseException:
        pipe.cut("not greeted")
        raise
    return pipe
