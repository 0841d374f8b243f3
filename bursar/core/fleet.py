"""The nodes of a fleet, as they see one another."""

import msgspec

LEASE_S = 10.0
"""Seconds after which a silent node is taken for gone."""


class NodeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One node by its last heartbeat. Instants are nanoseconds since the epoch, by the store's clock."""

    name: str
    version: str  # of Bursar
    host: str
    directory_version: int
    gateways: int  # connected to its control
    joined_ns: int
    seen_ns: int
    live: bool  # its lease has not run out
