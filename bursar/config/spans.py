"""Spans of time and sizes, as people write them in `bursar.yaml`."""

import re
from typing import Annotated

import msgspec

from bursar.core.strict import shown
from bursar.core.units import parse_duration

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s)?", re.ASCII)
_SIZE = re.compile(r"(\d+)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB)?", re.ASCII)
_SIZES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}


def parse_span(raw: object) -> float:
    """Seconds of ``250ms``, ``30s``, ``1h30m`` or a number. Raises ValueError."""
    text = str(raw).strip()
    match = _SPAN.fullmatch(text) if not isinstance(raw, bool) else None
    if match:
        return float(match[1]) / (1000 if match[2] == "ms" else 1)
    try:
        return float(parse_duration(text))
    except ValueError:
        raise ValueError(f"not a span of time: {shown(raw)} (write 250ms, 30s, 1h30m)") from None


def parse_size(raw: object) -> int:
    """Bytes of ``64kB``, ``32MiB`` or a whole number. Raises ValueError."""
    text = str(raw).strip()
    match = _SIZE.fullmatch(text) if not isinstance(raw, bool) else None
    if not match:
        raise ValueError(f"not a size: {shown(raw)} (write 64kB, 32MiB or a number of bytes)")
    return int(match[1]) * _SIZES[match[2] or ""]


Seconds = Annotated[float, msgspec.Meta(extra={"parse": parse_span})]
Size = Annotated[int, msgspec.Meta(extra={"parse": parse_size})]
