"""How large a batch may be."""

from collections.abc import Iterator

import msgspec

from bursar.config.spans import Size
from bursar.core.strict import Fault


class Batches(msgspec.Struct, frozen=True, kw_only=True):
    """Of one input file. OpenAI takes as much; `wire.max_body` bounds what can be uploaded here at once."""

    most_lines: int = 50_000
    most_bytes: Size = 200_000_000


def batches_faults(batches: Batches) -> Iterator[Fault]:
    for name in ("most_lines", "most_bytes"):
        if not getattr(batches, name) > 0:
            yield Fault(f"batches.{name}", "bad_value", "must be above zero", "write for example 50000")
