"""How long an id that a provider made is known, and how many of them."""

from collections.abc import Iterator

import msgspec

from bursar.config.spans import Seconds
from bursar.core.made_ids import Lives
from bursar.core.strict import Fault
from bursar.core.units import NS_PER_S

_DAY = 86_400


class Ids(msgspec.Struct, frozen=True, kw_only=True):
    """Afterwards an id is unknown here, whatever the provider still keeps."""

    response: Seconds = 30 * _DAY  # as long as OpenAI keeps one; with the ids of its parts
    conversation: Seconds = 365 * _DAY
    file: Seconds = 365 * _DAY
    batch: Seconds = 90 * _DAY
    most_of_team: int = 100_000  # beyond them a team's oldest is forgotten
    most: int = 200_000  # on one node, whose memory holds them: 300 to 700 bytes each. PostgreSQL holds any

    @property
    def lives(self) -> Lives:
        return Lives(
            response=int(self.response * NS_PER_S),
            conversation=int(self.conversation * NS_PER_S),
            file=int(self.file * NS_PER_S),
            batch=int(self.batch * NS_PER_S),
        )


def ids_faults(ids: Ids) -> Iterator[Fault]:
    for name in ("response", "conversation", "file", "batch"):
        if not getattr(ids, name) > 0:
            yield Fault(f"ids.{name}", "bad_value", "must be above zero", "write for example 30d")
    for name in ("most_of_team", "most"):
        if not getattr(ids, name) > 0:
            yield Fault(f"ids.{name}", "bad_value", "must be above zero", "write for example 100000")
