"""How the node is, in one value: for `bursar status`, the console and the admin API."""

from collections.abc import Callable, Sequence

import msgspec

from bursar.control.directory import Directory
from bursar.core.directory import BudgetDef, Owner, ProviderKey, Team, VirtualKey
from bursar.core.provider_keys import UNASSIGNED


class GatewayFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway as control sees it over the link."""

    node: str
    pid: int
    connected: bool
    directory_version: int  # as applied there


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the composition root knows of this node."""

    version: str
    node: str
    data: str  # the data folder
    started_ns: int
    gateways: Sequence[GatewayFacts] = ()
    emulator: bool = False  # the built-in emulator answers: no provider key is stored
    warnings: Sequence[str] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    facts: NodeFacts
    directory_version: int
    counts: dict[str, int]  # owners, teams, keys, budgets, provider_keys
    warnings: list[str]

    @property
    def ok(self) -> bool:
        return not self.warnings


class StatusBoard:
    def __init__(self, directory: Directory, facts: Callable[[], NodeFacts]) -> None:
        self._directory = directory
        self._facts = facts

    def read(self) -> Status:
        facts, book = self._facts(), self._directory.book
        provider_keys = book.all(ProviderKey)
        return Status(
            facts=facts,
            directory_version=book.version,
            counts={
                "owners": book.count(Owner),
                "teams": book.count(Team),
                "keys": book.count(VirtualKey),
                "budgets": sum(not budget.deleted for budget in book.all(BudgetDef)),
                "provider_keys": len(provider_keys),
            },
            warnings=[*facts.warnings, *_warnings(facts, book.version, provider_keys)],
        )


def _warnings(facts: NodeFacts, version: int, provider_keys: Sequence[ProviderKey]) -> list[str]:
    found = []
    if not any(gateway.connected for gateway in facts.gateways):
        found.append("no gateway is connected: the data port cannot serve what changes from now on")
    found += [
        f"gateway {gateway.node} is at directory version {gateway.directory_version}, not {version}"
        for gateway in facts.gateways
        if gateway.connected and gateway.directory_version < version
    ]
    unowned = [key.id for key in provider_keys if key.billing_owner == UNASSIGNED]
    if unowned:
        found.append(
            f"{len(unowned)} provider keys have no billing owner: bursar secrets tag {unowned[0]} billing_owner=OWNER"
        )
    if facts.emulator:
        found.append("the built-in emulator answers: store a provider key with bursar secrets put")
    return found
