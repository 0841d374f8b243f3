"""Money, time spans and their text forms. Integers only; a float never touches money.

Amounts are **pico-USD** (1e-12 USD) as Python ints: the smallest unit in which every genuine list price per
token is exact (nano-USD is not). Instants are **nanoseconds since the Unix epoch** as ints.
"""

import re
from decimal import Decimal, InvalidOperation, localcontext

PICO_PER_USD = 10**12
NS_PER_S = 10**9

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\Z")
_UNIT_SECONDS = (86_400, 3_600, 60, 1)


def usd_to_pico(text: str) -> int:
    """Exact pico-USD of a decimal string such as ``"10.50"``, ``"$3"`` or ``"0.000000000001"``.

    Raises ValueError when the text is not a finite decimal number or needs more than 12 places.
    """
    with localcontext() as context:
        context.prec = 60
        try:
            scaled = Decimal(text.strip().removeprefix("$").replace("_", "")).scaleb(12)
        except InvalidOperation:
            raise ValueError(f"not an amount of USD: {text!r}") from None
        if not scaled.is_finite():
            raise ValueError(f"not a finite amount of USD: {text!r}")
        if scaled != scaled.to_integral_value():
            raise ValueError(f"finer than a pico-USD: {text!r}")
        return int(scaled)


def pico_to_usd(pico: int) -> str:
    """Plain decimal USD without rounding: at least two places, trailing zeros dropped beyond them."""
    sign = "-" if pico < 0 else ""
    whole, rest = divmod(abs(pico), PICO_PER_USD)
    places = f"{rest:012d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{places}"


def parse_duration(text: str) -> int:
    """Whole seconds of ``"90s"``, ``"15m"``, ``"1h30m"``, ``"30d"``; ValueError for anything else or zero."""
    match = _DURATION.match(text)
    seconds = sum(int(n) * u for n, u in zip(match.groups(default="0"), _UNIT_SECONDS, strict=True)) if match else 0
    if not seconds:
        raise ValueError(f"not a duration: {text!r} (write 90s, 15m, 1h30m or 30d)")
    return seconds


def format_duration(seconds: int) -> str:
    """The shortest text that `parse_duration` reads back: 5400 -> ``1h30m``."""
    parts = []
    for unit, name in zip(_UNIT_SECONDS, "dhms", strict=True):
        count, seconds = divmod(seconds, unit)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts) or "0s"
