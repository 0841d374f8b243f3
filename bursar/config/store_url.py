"""What can be wrong with the URL of a PostgreSQL store, seen from its text alone. Nothing of the URL is repeated."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit


def faults_of_url(url: str, *, may_hold_password: bool) -> Iterator[tuple[str, str]]:
    """(what is wrong, what to write instead), for a libpq URL; several hosts are fine."""
    example = "write postgresql://USER@HOST/DATABASE?sslmode=verify-full"
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        yield "is not a URL", example
        return
    if parts.scheme not in {"postgresql", "postgres"}:
        yield "is not a postgresql:// URL", example
        return
    user, _, places = parts.netloc.rpartition("@")
    if not may_hold_password and (":" in user or "password" in options):
        yield "holds a password", "take it out, or give the URL by url_file or url_env"
    if not parts.path.strip("/") and "dbname" not in options and "database" not in options:
        yield "names no database", example
    hosts = [_host(place) for place in places.split(",")] + options.get("host", [])
    if "sslmode" not in options and not all(_is_here(host) for host in hosts):
        yield "leaves the machine and does not say sslmode", "add ?sslmode=verify-full, or disable on a trusted network"


def _host(place: str) -> str:
    """`db`, `db:5432`, `[::1]:5432` -> the host alone."""
    return place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]


def _is_here(host: str) -> bool:
    """A unix socket, or this machine's own address."""
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
