"""Reports as one HTML file: tables and charts drawn as inline SVG, no script, nothing fetched from anywhere.

Every text goes through `escape`: names of models and keys come from callers.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

_COLOURS = (
    *("#2f6fab", "#c2571a", "#3f8f4f", "#8a4fae", "#b03a48"),
    *("#5f7d8c", "#a98b1c", "#4f63c4", "#1e8f8f", "#7a5a3a"),
)
_MOST_BARS = 20
_WIDTH, _LEFT, _BAR = 1000, 400, 22
_TALL, _FOOT = 190, 46

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --dim: #647384; --line: #d9e0e7; --back: #fff; --soft: #f4f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4eaf0; --dim: #94a3b3; --line: #33404d; --back: #141b22; --soft: #1c252e; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); }
body { margin: 0 auto; padding: 32px 24px 64px; max-width: 1080px; }
h1 { font-size: 24px; margin: 0; }
h2 { font-size: 17px; margin: 36px 0 8px; }
p { color: var(--dim); margin: 4px 0 12px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 8px; }
.card { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; }
.card { min-width: 130px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span { color: var(--dim); font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .dim { fill: var(--dim); }
svg line { stroke: var(--line); }
"""


class Bar(NamedTuple):
    """One horizontal bar. `said` is its value in words."""

    name: str
    value: float
    said: str


def page(title: str, told: str, parts: Sequence[str]) -> str:
    """The whole file."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1><p>{escape(told)}</p>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def heading(text: str, told: str = "") -> str:
    return f"<h2>{escape(text)}</h2>" + (f"<p>{escape(told)}</p>" if told else "")


def cards(facts: Mapping[str, str]) -> str:
    """The figures that matter, large."""
    each = (f'<div class="card"><b>{escape(it)}</b><span>{escape(name)}</span></div>' for name, it in facts.items())
    return f'<div class="cards">{"".join(each)}</div>'


def rows(titles: Sequence[str], lines: Sequence[Sequence[str]], numbers: frozenset[int]) -> str:
    """A table; the columns in `numbers` are set to the right."""

    def cell(kind: str, place: int, text: str) -> str:
        return f"<{kind}{' class=n' if place in numbers else ''}>{escape(text)}</{kind}>"

    head = "".join(cell("th", place, title) for place, title in enumerate(titles))
    body = "".join("<tr>" + "".join(cell("td", i, text) for i, text in enumerate(line)) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bars(found: Sequence[Bar]) -> str:
    """The largest, as horizontal bars."""
    shown = sorted(found, key=lambda bar: -bar.value)[:_MOST_BARS]
    most = max((bar.value for bar in shown), default=0) or 1
    room = _WIDTH - _LEFT - 110
    drawn = []
    for place, bar in enumerate(shown):
        top = place * _BAR
        width = max(1.0, bar.value / most * room) if bar.value else 0
        name = bar.name if len(bar.name) <= 62 else bar.name[:61] + "…"
        drawn.append(
            f'<text x="{_LEFT - 8}" y="{top + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LEFT}" y="{top + 3}" width="{width:.1f}" height="{_BAR - 6}" rx="2" fill="{_COLOURS[0]}"/>'
            f'<text x="{_LEFT + width + 6:.1f}" y="{top + 15}" class="dim">{escape(bar.said)}</text>'
        )
    return _svg(len(shown) * _BAR + 4, drawn)


def columns(days: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """A column a day, stacked by series, with its legend."""
    sums = [sum(values[day] for values in series.values()) for day in range(len(days))]
    most = max(sums, default=0) or 1
    step = (_WIDTH - 60) / max(1, len(days))
    drawn = [f'<line x1="52" x2="{_WIDTH}" y1="{_TALL}" y2="{_TALL}"/>', *_scale(most)]
    for day, name in enumerate(days):
        left = 56 + day * step
        drawn += _stack(
            left, max(2.0, step * 0.8), name, {title: values[day] for title, values in series.items()}, most
        )
        if day % max(1, -(-len(days) // 9)) == 0:
            drawn.append(f'<text x="{left:.1f}" y="{_TALL + 16}" class="dim">{escape(name[5:] or name)}</text>')
    left, line = 56.0, 0
    for place, title in enumerate(series):
        wide = 34 + 7 * len(title)
        if left + wide > _WIDTH:
            left, line = 56.0, line + 1
        top = _TALL + 28 + line * 18
        drawn.append(f'<rect x="{left}" y="{top}" width="11" height="11" rx="2" fill="{_colour(place)}"/>')
        drawn.append(f'<text x="{left + 16}" y="{top + 10}">{escape(title)}</text>')
        left += wide
    return _svg(_TALL + _FOOT + line * 18, drawn)


def _scale(most: float) -> list[str]:
    numbers = ((14, f"{most:,.0f}"), (_TALL, "0"))
    return [f'<text x="46" y="{y}" text-anchor="end" class="dim">{number}</text>' for y, number in numbers]


def _stack(left: float, wide: float, name: str, values: Mapping[str, float], most: float) -> list[str]:
    floor, drawn = float(_TALL), []
    for place, (title, value) in enumerate(values.items()):
        tall = value / most * (_TALL - 10)
        floor -= tall
        if tall:
            said = escape(f"{name} {title}: {value:,.0f}")
            size = f'x="{left:.1f}" y="{floor:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
            drawn.append(f'<rect {size} fill="{_colour(place)}"><title>{said}</title></rect>')
    return drawn


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _svg(tall: int, drawn: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {tall}" width="{_WIDTH}" height="{tall}" role="img">{"".join(drawn)}</svg>'
