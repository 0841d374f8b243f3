"""Networks that keys and tokens can be bound to: CIDR blocks (RFC 4632, RFC 4291 §2.3)."""

import ipaddress
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def read_network(text: str) -> Network:
    """``10.0.0.0/8``, ``2001:db8::/32``, or one address. Raises ValueError, also for bits set behind the prefix."""
    return ipaddress.ip_network(text.strip())


def read_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(map(read_network, texts))


def read_address(text: str) -> Address | None:
    """An address as a socket or a proxy tells it; IPv4 in IPv6 clothes is IPv4. None for anything else."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_within(text: str, networks: Sequence[Network]) -> bool:
    """Whether an address lies in one of the networks; what is no address lies in none."""
    address = read_address(text)
    return address is not None and any(address in network for network in networks)


def is_inside(inner: str, outer: Iterable[str]) -> bool:
    """Whether every address of one block lies in one of the others."""
    block = read_network(inner)
    return any(
        block.version == other.version and block.subnet_of(other)  # type: ignore[arg-type]  # of the same version
        for other in read_networks(outer)
    )


def caller_address(peer: str, forwarded: str, proxies: Sequence[Network]) -> str:
    """Who really calls. `forwarded` (X-Forwarded-For) is believed only as far as trusted proxies wrote it.

    Each proxy appends the address it saw: read from the right, the first that is no trusted proxy is the caller.
    """
    if not proxies or not is_within(peer, proxies):
        return peer
    for hop in reversed(forwarded.split(",")):
        text = hop.strip()
        if read_address(text) is None:
            return ""  # a trusted proxy passed on something that is no address: nobody can tell who calls
        if not is_within(text, proxies):
            return text
    return peer
