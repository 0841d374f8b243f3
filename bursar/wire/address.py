"""Which addresses a provider may have. Decides on the resolved address, so that no name can be rebound past it."""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Reachable by the books, yet never a provider: cloud metadata services and protocol assignments.
_NEVER_PUBLIC = (
    ipaddress.ip_network("192.0.0.0/24"),  # RFC 6890; Oracle Cloud's metadata lies here
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's host agent
    ipaddress.ip_network("100.64.0.0/10"),  # RFC 6598; Alibaba Cloud's metadata lies here
    ipaddress.ip_network("192.88.99.0/24"),  # RFC 7526, 6to4 relay
    ipaddress.ip_network("fec0::/10"),  # RFC 3879, site-local
    ipaddress.ip_network("64:ff9b:1::/48"),  # RFC 8215, local NAT64
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = ipaddress.ip_network("::/96")  # RFC 4291 §2.5.5.1, deprecated


def is_public(text: str) -> bool:
    """Is this literal address a place on the public internet, also when it is wrapped in another one?"""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return _is_global(inner)
    return _is_global(address)


def _embedded(address: ipaddress.IPv6Address) -> Address | None:
    """The IPv4 address that a packet to this IPv6 address would reach."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _is_global(address: Address) -> bool:
    if address.is_multicast or address.is_unspecified or not address.is_global:
        return False
    return not any(address in network for network in _NEVER_PUBLIC)  # of the other version: never in


def is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Is it a literal address of this machine itself?"""
    return is_literal(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback
