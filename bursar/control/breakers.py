"""Circuits: how they stand, as gateways tell, and what a person has opened or closed, which lies in the directory.

So it holds on every node, with the board in memory or in Redis, over restarts, and is audited, previewed and taken back
like any other change.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from bursar.control.directory import Book, Change, Directory
from bursar.core.circuits import CircuitSeen, subject_of
from bursar.core.directory import BreakerMark, ProviderKey
from bursar.core.errors import Refusal
from bursar.core.units import NS_PER_S

_MOST = 1_000  # marks
_LONGEST_REASON = 200
_SILENT_NS = 10 * NS_PER_S  # a gateway says each second what it knows, while it knows anything


class Told(msgspec.Struct, frozen=True):
    """What one gateway knew last."""

    at_ns: int
    seen: list[CircuitSeen]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A circuit of which something is known or said. Either may be missing."""

    name: str
    node: str = ""  # whose gateway told; "" = none has anything to tell
    seen: CircuitSeen | None = None
    mark: BreakerMark | None = None  # that keeps calls away now


class Breakers:
    """`told`: by the names of gateways. `providers`: those that are configured."""

    def __init__(
        self, directory: Directory, providers: Collection[str], told: Callable[[], Mapping[str, Told]] = dict
    ) -> None:
        self._directory = directory
        self._providers = providers
        self.told = told

    def all(self) -> list[Standing]:
        """Ordered by name, each with every gateway that knows something of it."""
        now = self._directory.now()
        marks = {mark.id: mark for mark in self._directory.book.all(BreakerMark) if mark.shuts(now)}
        found = [
            Standing(name=seen.name, node=node, seen=seen, mark=marks.get(seen.name))
            for node, told in self.told().items()
            if now - told.at_ns < _SILENT_NS
            for seen in told.seen
        ]
        known = {one.name for one in found}
        found += [Standing(name=name, mark=mark) for name, mark in marks.items() if name not in known]
        return sorted(found, key=lambda one: (one.name, one.node))

    async def open(self, actor: str, name: str, for_s: int | None = None, reason: str = "") -> BreakerMark:
        """Keep calls away from it, at once and on every node. Raises Refusal(invalid_input | unknown_id)."""
        name = self._whole(name)
        now = self._directory.now()
        until = None if for_s is None else now + for_s * NS_PER_S
        if (for_s is not None and for_s <= 0) or len(reason) > _LONGEST_REASON or not reason.isprintable():
            hint = f"Give a time above zero, and a reason of at most {_LONGEST_REASON} printable characters"
            raise Refusal("invalid_input", "The time or the reason does not fit", hint)
        mark = BreakerMark(id=name, open=True, at=now, until=until, by=actor, reason=reason)
        await self._put(actor, "breaker.open", mark)
        return mark

    async def close(self, actor: str, name: str, reason: str = "") -> BreakerMark:
        """Use it again: what a person opened, and what its failures did. Raises Refusal(invalid_input | unknown_id)."""
        mark = BreakerMark(id=self._whole(name), open=False, at=self._directory.now(), by=actor, reason=reason)
        await self._put(actor, "breaker.close", mark)
        return mark

    async def _put(self, actor: str, action: str, mark: BreakerMark) -> None:
        facts: dict[str, str | int] = {"reason": mark.reason} if mark.reason else {}
        if mark.until is not None:
            facts["until_ns"] = mark.until

        def decide(book: Book) -> Change:
            if mark.id.startswith("key/"):
                book.get(ProviderKey, mark.id.split("/", 2)[1])
            present = book.all(BreakerMark)
            over = [("breaker", it.id) for it in present if not it.shuts(mark.at) and it.id != mark.id]
            gone = over if len(present) >= _MOST else []
            if len(present) - len(gone) >= _MOST:
                raise Refusal("invalid_input", f"{_MOST} circuits are open by hand", "Close some: bursar breakers list")
            return Change(action=action, target=f"breaker/{mark.id}", put=[mark], gone=gone, facts=facts)  # type: ignore[arg-type]

        await self._directory.change(actor, decide)

    def _whole(self, name: str) -> str:
        """A bare name is a provider's, or a provider key's. Raises Refusal(invalid_input | unknown_id)."""
        name = name.strip()
        if "/" not in name:
            name = f"key/{name}" if self._directory.book.find(ProviderKey, name) is not None else f"provider/{name}"
        subject_of(name)
        kind, _, rest = name.partition("/")
        if kind == "provider" and rest not in self._providers:
            raise Refusal("unknown_id", f"There is no provider {rest[:64]!r}", f"There are: {_listed(self._providers)}")
        return name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
