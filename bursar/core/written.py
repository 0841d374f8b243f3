"""How instants and amounts are written in JSON and YAML: RFC 3339 in UTC, and decimal USD as text, never a float."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec

from bursar.core.units import NS_PER_S, usd_to_pico


def instant(ns: int) -> str:
    """RFC 3339 in UTC, to the microsecond where there is one: ``2026-11-23T10:00:00Z``."""
    moment = datetime.fromtimestamp(ns // NS_PER_S, UTC).replace(microsecond=ns % NS_PER_S // 1000)
    return moment.isoformat().replace("+00:00", "Z")


def parse_instant(raw: object) -> int:
    """Nanoseconds of an RFC 3339 text or of a plain day; without an offset it is UTC. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(str(raw))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = int(moment.replace(microsecond=0).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"not an instant: `{str(raw)[:24]}` (write 2026-11-23T10:00:00Z)") from None
    return seconds * NS_PER_S + moment.microsecond * 1000


def parse_usd(raw: object) -> int:
    """Pico-USD of a text. Raises ValueError."""
    if not isinstance(raw, str):
        raise ValueError('an amount is text, to be exact: "12.50"')
    return usd_to_pico(raw)


USD_SCHEMA = {"type": "string", "format": "decimal", "examples": ["12.50"]}
Instant = Annotated[
    int, msgspec.Meta(extra={"parse": parse_instant}, extra_json_schema={"type": "string", "format": "date-time"})
]
Usd = Annotated[int, msgspec.Meta(extra={"parse": parse_usd}, extra_json_schema=USD_SCHEMA)]
