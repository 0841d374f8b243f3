"""bench/RESULTS.md and its plot: what was measured, under which conditions, beside the bars of the requirements."""

import platform
import subprocess
import time
import timeit
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from bench import added, estimates
from bench.figures_money import MoneyMeasured
from bench.rows import Case, Figures, Measured
from bench.targets import descriptors

BENCH = Path(__file__).parent
README_MARK, README_END = "<!-- figures: written by `make bench` -->", "<!-- /figures -->"
_COLOURS = {"nginx": "#6b8f71", "pass-through": "#8a8fb5", "Bursar": "#c0562f", "Bursar, power": "#d99a7c"}

_INTRO = """# Results

Written by `make bench`; nothing here is edited by hand. {machine}. Measured on {date}, commit `{commit}`,
with a load average of {load} before it began (above 0.5 other work disturbed it).

All targets stand on this one machine in front of the same upstream ({upstream}), driven by wrk over loopback;
they take turns within one run and the figures are medians over {rounds} rounds of {seconds} s. **CPU per request** is
the kernel's own accounting (utime + stime) over *every* process of the target (supervisor, gateway
and control; nginx's master and worker) divided by the requests answered. Any answer but 200, and any broken connection,
fails the run (but for `power`, whose refusals are shown).

- **nginx**: `proxy_pass`, one worker, kept-alive upstream connections, no access log ({nginx}).
- **pass-through**: `bench/passthrough.py`, httptools and uvloop, forwards and decides nothing: the floor for Python.
- **Bursar**: as shipped: virtual key, guard stage, {setup}, audit, metrics, ledger projection; every call held durably
  before dispatch, metered and settled. Durability `process` (survives kill -9); *Bursar, power* waits for `fdatasync`.
"""

_CAVEATS = """
## How far to trust it

- Load generator, upstream and target share two cores. CPU per request is not much disturbed by that; throughput and the
  tail of the latency are. Compare the columns of one row, not rows of different runs.
- Three quarters of Bursar's CPU is the interpreter itself. Debian's and the official images' are compiled with
  optimisation by profile, what pyenv compiles by default is not and needs a tenth more (`make bench PYTHON=...`);
  the plain loop named above tells them apart.
- CPU is accounted in ticks of 10 ms; a round uses some hundreds of them.
- The fewer connections, the more of the cost is waking up: at c = 1 every proxy sleeps between two requests.
- The upstream answers at once. A real provider takes seconds, so the share of added latency is much smaller than here.
- TLS is on the client's side; towards the upstream it is plain for all.
"""


def write(measured: Measured, conditions: Mapping[str, str], folder: Path) -> Path:
    """RESULTS.md and cpu.svg in `folder`; the path of the page."""
    page = folder / "RESULTS.md"
    (folder / "cpu.svg").write_text(plot(measured.f1))
    text = _INTRO.format(
        machine=machine(), date=time.strftime("%d %B %Y", time.gmtime()), commit=commit(), **conditions
    )
    text += "\n".join(
        [
            *_f1(measured.f1),
            *_f2(measured.f2),
            *_f3(measured.f3),
            *_f4(measured.f4),
            *_f5(measured.f5, measured.many_keys),
            *_f6(measured.f6),
            *_added(measured.added),
            *_rates(measured.rates),
            *_tokens(measured.tokens),
            *_audit(measured.audit),
            *_vault(measured),
            *estimates.section(),
        ]
    )
    page.write_text(text + "\n" + _CAVEATS)
    return page


def write_readme(measured: Measured) -> None:
    """The few figures that the README shows, between its two marks."""
    case, found = next(iter(measured.f1.items()))
    bursar, nginx = found["Bursar"], found["nginx"]
    direct, added = measured.f3["direct"], measured.f3["Bursar"]
    rows = [
        [f"CPU per call ({case.words})", f"{bursar.cpu_us:.0f} µs", f"{bursar.cpu_us / nginx.cpu_us:.1f} × nginx"],
        ["CPU per streamed event", f"{measured.f2['Bursar'].cpu_us:.0f} µs", _ratio(measured.f2)],
        [
            "added latency, median (c=1)",
            f"{(added.p50 - direct.p50) / 1000:.2f} ms",
            "over calling the upstream directly",
        ],
        [
            "memory (RSS), idle",
            f"{measured.f4['idle_rss'] / 1e6:.0f} MB",
            "three processes, shared pages counted thrice",
        ],
        ["start to first answer", f"{measured.f5['first']:.1f} s", "a new data folder"],
        ["installed", f"{measured.f5['bytes'] / 1e6:.0f} MB", f"{measured.f5['packages']:.0f} packages"],
    ]
    readme = BENCH.parent / "README.md"
    before, mark, rest = readme.read_text().partition(README_MARK)
    _, end, after = rest.partition(README_END)
    if not mark or not end:
        raise RuntimeError("the README has lost the marks between which the figures stand")
    readme.write_text(before + mark + "\n" + "\n".join(table(["", "Bursar", ""], rows)) + end + after)


def _ratio(found: Mapping[str, Figures]) -> str:
    return f"{found['Bursar'].cpu_us / found['nginx'].cpu_us:.1f} × nginx, unbuffered"


def machine() -> str:
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        "unknown CPU",
    )
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return f"{_cores()} cores ({model}), {memory / 2**20:.0f} GiB, Linux {platform.release()}, {_interpreter()}"


def _interpreter() -> str:
    """Its version, and how fast it is: how it was compiled makes a tenth of a call's CPU, and no flag tells."""
    pair = "class Pair:\n def __init__(self, a): self.a = a\n def plus(self, b): return self.a + b\ni = 77777"
    turns = 100_000
    seconds = min(timeit.repeat("Pair(i).plus(3); f'{i}: {i & 7}'.partition(':')", pair, number=turns, repeat=9))
    return f"Python {platform.python_version()} ({seconds / turns * 1e9:.0f} ns a turn of a plain loop)"


def _cores() -> int:
    return sum(line.startswith("processor") for line in _lines("/proc/cpuinfo"))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=BENCH
    )
    return done.stdout.strip() or "unknown"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def cost(figures: Figures | None) -> str:
    if figures is None:
        return "–"
    low, high = figures.spread
    refused = f", {figures.refused / figures.requests:.0%} refused" if figures.refused else ""
    return f"{figures.cpu_us:.0f} ({low:.0f}–{high:.0f}{refused})"


def _f1(cases: Mapping[Case, Mapping[str, Figures]]) -> list[str]:
    names = list(dict.fromkeys(name for found in cases.values() for name in found))
    head = ["case", *(f"{name} µs" for name in names), "Bursar ÷ nginx", "Bursar ÷ pass-through"]
    rows = []
    for case, found in cases.items():
        bursar, nginx, floor = found.get("Bursar"), found.get("nginx"), found.get("pass-through")
        ratios = [f"{bursar.cpu_us / other.cpu_us:.1f}" if bursar and other else "–" for other in (nginx, floor)]
        rows.append([case.words, *(cost(found.get(name)) for name in names), *ratios])
    bar = "Bar: at c = 16 with 2 kB, Bursar ≤ 4 × nginx, never shipped above 5 ×. In brackets the least and the most."
    bar += " With `power`, calls are refused (`store_unavailable`) while the disk takes longer than a hold may wait."
    return ["", "## F1: CPU per plain request", "", *table(head, rows), bar, "", "![CPU per request](cpu.svg)", ""]


def _f2(found: Mapping[str, Figures]) -> list[str]:
    if not found:
        return []
    nginx = found["nginx"].cpu_us
    rows = [[name, cost(figures), f"{figures.cpu_us / nginx:.1f}"] for name, figures in found.items()]
    note = "64 streams, an event every 10 ms on each, nginx with `proxy_buffering off`; heads and ends not counted."
    note += " Bar: ≤ 2 × nginx."
    return ["## F2: CPU per streamed event", "", *table(["target", "µs per event", "÷ nginx"], rows), note, ""]


def _f3(found: Mapping[str, Figures]) -> list[str]:
    if not found:
        return []
    direct = found["direct"]
    rows = [
        [name, f"{x.p50:.0f}", f"{x.p99:.0f}", f"{x.p50 - direct.p50:.0f}", f"{x.p99 - direct.p99:.0f}"]
        for name, x in found.items()
    ]
    head = ["target", "p50 µs", "p99 µs", "added p50", "added p99"]
    note = "c = 1, 2 kB. *Scraped*: /metrics is read ten times a second meanwhile."
    note += " Bars: added p50 ≤ 400 µs, p99 ≤ 2,000 µs, scraped ± 20 %."
    return ["## F3: added latency", "", *table(head, rows), note, ""]


def _f4(found: Mapping[str, float]) -> list[str]:
    if not found:
        return []
    count = int(found["streams"])
    each = (found["open_pss"] - found["idle_pss"]) / count
    rows = [
        ["idle, all processes", f"{found['idle_rss'] / 1e6:.0f}", f"{found['idle_pss'] / 1e6:.0f}"],
        [f"{count:,} open streams", f"{found['open_rss'] / 1e6:.0f}", f"{found['open_pss'] / 1e6:.0f}"],
    ]
    if count < 10_000:
        reach = (found["idle_pss"] + 10_000 * each) / 1e6
        rows.append(["10,000 open streams, extrapolated", "–", f"{reach:.0f}"])
    note = f"{each / 1e3:.1f} kB a stream, plain on both sides."
    if count < 10_000:
        note += f" This machine lets a process open {descriptors():,} files, two a stream: hence {count:,} of them."
    note += " RSS counts shared pages once per process, PSS once. Bars: ≤ 100 MB idle, ≤ 400 MB with 10,000 streams."
    return ["## F4: memory", "", *table(["state", "RSS MB", "PSS MB"], rows), note, ""]


def _f6(found: MoneyMeasured | None) -> list[str]:
    if found is None:
        return []
    head = ["case", "hold + settle /s", "node µs", "database µs", "p50 ms", "p99 ms", "refused", "exact"]
    rows = [
        [
            name,
            *(f"{x.rate:,.0f}", f"{x.node_us:.0f}", f"{x.database_us:.0f}", f"{x.p50_ms:.1f}", f"{x.p99_ms:.1f}"),
            *(f"{x.refused:,}", "yes" if x.exact else "NO"),
        ]
        for name, x in found.cases.items()
    ]
    note = (
        "Processes on one PostgreSQL with `fsync`, all on this machine; each call holds and posts at once, and µs are"
    )
    note += " CPU a call. *Exact*: proven row by row, and it says what was spent. A call costs a node's process"
    note += f" {found.added_us:.0f} µs more than on its own journal (16 in flight). 10,000 open holds of a dead node"
    note += f" were booked in {found.recovery_s:.1f} s."
    note += " Bars: ≥ 4,000 /s of three on one hot budget, 1,000 budgets no slower, ≤ 60 µs more, ≤ 5 s."
    return ["## F6: money of many nodes", "", *table(head, rows), note, ""]


def _added(found: Mapping[str, Figures]) -> list[str]:
    if not found:
        return []
    alone, shared = found[added.EMBEDDED], found[added.SHARED]
    rows = [[name, cost(x), f"{x.p50 / 1e3:.2f}", f"{x.p99 / 1e3:.2f}"] for name, x in found.items()]
    more = f"{shared.cpu_us - alone.cpu_us:.0f}", f"{(shared.p50 - alone.p50) / 1e3:.2f}"
    rows.append(["added", *more, f"{(shared.p99 - alone.p99) / 1e3:.2f}"])
    note = f"Whole requests through two brokers in turns ({added.CASE.words}), a node each; CPU of all of Bursar's"
    note += " processes. PostgreSQL (`fsync`), Redis, upstream and load share the cores, which are busy throughout."
    note += " Bars: ≤ 60 µs more, added p50 ≤ 5 ms, p99 ≤ 25 ms."
    head = ["money and rates in", "CPU µs", "p50 ms", "p99 ms"]
    return ["## F6: a whole request", "", *table(head, rows), note, ""]


def _rates(found: Mapping[str, float]) -> list[str]:
    if not found:
        return []
    rows = [[name, f"{cost:.1f}"] for name, cost in found.items()]
    note = "The node's own CPU, 64 in flight on one connection, Debian's redis-server. Bar: a hold of tokens ≤ 30 µs."
    return ["## F6: rates in Redis", "", *table(["act", "µs"], rows), note, ""]


def _tokens(found: Mapping[str, float]) -> list[str]:
    if not found:
        return []
    rows = [
        ["a virtual key", f"{found['key']:.1f}"],
        ["a token that is remembered", f"{found['remembered']:.1f}"],
        ["a token that is read anew", f"{found['anew']:.0f}"],
    ]
    note = "The whole of stage 2, the least of several turns. Bars: remembered ≤ 3 µs, anew ≤ 150 µs."
    return ["## T: who is calling", "", *table(["presented", "µs"], rows), note, ""]


def _f5(found: Mapping[str, float], many_keys: Mapping[str, float]) -> list[str]:
    if not found:
        return []
    rows = [
        ["first start of a data folder, s", f"{found['first']:.2f}"],
        ["later starts, s", f"{found['again']:.2f}"],
        *([name, f"{seconds:.2f}"] for name, seconds in many_keys.items()),
        ["installed, MB", f"{found['bytes'] / 1e6:.0f}"],
        ["packages", f"{found['packages']:.0f}"],
    ]
    note = "From the command to the first 200 of /readyz. Bars: ≤ 1 s, with 200,000 keys ≤ 3 s, ≤ 60 MB, ≤ 30 packages."
    return ["## F5: start and size", "", *table(["what", "figure"], rows), note, ""]


def _audit(found: Mapping[str, float]) -> list[str]:
    if not found:
        return []
    rates = [
        ["256 callers, an event each", f"{found['single']:,.0f}"],
        ["256 callers, a hundred each", f"{found['batch']:,.0f}"],
        ["the same, a file sink waited for as well", f"{found['required']:,.0f}"],
    ]
    latency = [
        ["by itself", f"{found['alone_p50']:.0f}", f"{found['alone_p99']:.0f}"],
        ["beside the export", f"{found['export_p50']:.0f}", f"{found['export_p99']:.0f}"],
    ]
    note = "Each event is hashed, chained, synced to the trail (group commit) and given to a file. Bar: ≥ 20,000."
    beside = f"c = 1, 2 kB, while 300,000 records are exported over and over ({found['export_bytes'] / 1e6:.0f} MB/s)."
    beside += " Bar: p99 ± 20 %."
    head = ["## Audit", "", *table(["appended", "events a second"], rates), note, ""]
    return [*head, *table(["latency of calls", "p50 µs", "p99 µs"], latency), beside, ""]


def _vault(measured: Measured) -> list[str]:
    if not measured.vault:
        return []
    found, alone, beside = measured.vault, measured.rewrap["alone"], measured.rewrap["during a rewrap"]
    rows = [
        ["a leased provider key on the hot path", f"{found['leased_us']:.2f} µs a call", "≤ 5 µs"],
        ["cold read from the embedded store, median", f"{found['cold_p50_ms']:.2f} ms", "≤ 2 ms"],
        ["cold read from the embedded store, p99", f"{found['cold_p99_ms']:.2f} ms", ""],
        ["data path p99, c = 1, alone", f"{alone.p99:.0f} µs", ""],
        [
            "data path p99, c = 1, during a rewrap",
            f"{beside.p99:.0f} µs",
            f"{(beside.p99 / alone.p99 - 1):+.0%}, ± 20 %",
        ],
    ]
    note = "500 entries under a key file; the rewrap goes on all the while, each value under a recovery key besides."
    return ["## The vault", "", *table(["what", "figure", "bar"], rows), note, ""]


def plot(cases: Mapping[Case, Mapping[str, Figures]]) -> str:
    """Horizontal bars as a plain SVG: one group a case, one bar a target, microseconds of CPU."""
    bars = [(case.words, name, x.cpu_us) for case, found in cases.items() for name, x in found.items()]
    most = max((cost for _, _, cost in bars), default=1.0)
    parts, y, last = [], 8.0, ""
    for words, name, cost in bars:
        if words != last:
            y += 12 if last else 0
            parts.append(f'<text x="8" y="{y + 12:.0f}" font-weight="bold">{escape(words)}</text>')
            y, last = y + 18, words
        width = 430 * cost / most
        parts.append(f'<text x="150" y="{y + 12:.0f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="158" y="{y:.0f}" width="{width:.1f}" height="15" fill="{_COLOURS.get(name, "#999")}"/>')
        parts.append(f'<text x="{164 + width:.0f}" y="{y + 12:.0f}">{cost:.0f} µs</text>')
        y += 18
    size = f'viewBox="0 0 660 {y + 10:.0f}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])
