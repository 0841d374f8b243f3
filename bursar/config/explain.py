"""What is kept to explain single requests by."""

from typing import Annotated

import msgspec

from bursar.config.spans import Seconds

_Count = Annotated[int, msgspec.Meta(ge=1)]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """How many decisions a second a gateway records; what comes beyond is counted."""

    refused: _Count = 20  # of one key's calls that something refused, cut, or would have refused
    in_all: _Count = 200  # ... of all keys' together
    ordinary: Annotated[int, msgspec.Meta(ge=0)] = 10  # of calls that nothing refused


class Explain(msgspec.Struct, frozen=True, kw_only=True):
    """What `bursar explain` knows of single requests: `explain.db` in the data folder, or the store of the fleet."""

    keep: Seconds = 7 * 86_400
    most: _Count = 200_000  # records, whatever their age; at most half of them ordinary ones
    record: Record = Record()
