"""Applications that keep their provider key and change only the base URL."""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from bursar.core.strict import Fault

_Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class Observe(msgspec.Struct, frozen=True, kw_only=True):
    """Off, a provider key at the door is refused. On, its calls are passed on to its provider, metered and named."""

    enabled: bool = False
    team: str = "observed"  # under which they stand; made at a start, with everything that it would enforce in shadow
    most: _Count = 1_000  # keys that are passed on; those that are sealed do not count


def observe_faults(observe: Observe) -> Iterator[Fault]:
    name = observe.team
    if not (name and name.isascii() and name.replace("-", "").replace("_", "").isalnum() and name == name.lower()):
        yield Fault("observe.team", "bad_value", "is no id of a team", "use a-z, 0-9, `_` and `-`")
