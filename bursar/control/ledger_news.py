"""What owners are to be told in a fleet: from the database in which it came about into the audit, once each.

The id of a row stands in its record. A row that another node had taken before it died is looked for there first, so
that it is neither lost nor told twice.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from bursar.control.directory import Audit
from bursar.core.errors import Refusal
from bursar.core.ledger import LedgerEvent

EVERY_S = 1.0
_log = logging.getLogger("bursar.ledger")


class News(Protocol):
    @property
    def id(self) -> int: ...

    @property
    def event(self) -> LedgerEvent: ...

    @property
    def again(self) -> bool:
        """Somebody took it before."""
        ...


N = TypeVar("N", bound=News)


class Outbox(Protocol[N]):
    async def take(self) -> list[N]: ...

    async def told(self, action: str, news: N, mark: str) -> bool: ...

    async def done(self, news: Sequence[N]) -> None: ...


async def tell_news(outbox: Outbox[N], audit: Audit) -> int:
    """What there is now -> how much was told. Raises Refusal; what is not told then is taken again later."""
    told = 0
    for news in await outbox.take():
        action = f"ledger_{news.event.kind}"
        if not (news.again and await outbox.told(action, news, f'"event":"{news.id}"')):
            _log.warning("%s %s", action, news.event.budget_id)
            plain = msgspec.to_builtins(news.event)
            facts = {name: value for name, value in plain.items() if isinstance(value, str | int)}
            await audit.append("control", action, news.event.budget_id, {**facts, "event": str(news.id)})
            told += 1
        await outbox.done([news])
    return told


async def tell_for_ever(outbox: Outbox[N], audit: Audit, seconds: float = EVERY_S) -> None:
    """What fails is tried again."""
    away = False
    while True:
        try:
            await tell_news(outbox, audit)
            away = False
        except Refusal as refusal:
            if not away:
                _log.error("what owners are to be told waits: %s", refusal.message)
            away = True
        await asyncio.sleep(seconds)
