"""What the run found, as a page with a table, a plot and its caveats: bench/PEERS.md and peers.svg."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.race import AFFORDED, BUDGET_USD, CALLERS, LATER, Outcome
from bench.report import BENCH, commit, cost, machine, plot, table
from bench.rows import Case, Figures

__all__ = ["BENCH", "Found", "write"]

_CAVEATS = """\
- Versions and settings are as the packages ship them, one worker each, quiet logs, LiteLLM with
  `LITELLM_MODE=PRODUCTION`, no database, no callbacks, no Redis; Portkey with the provider named in headers.
  A tuned deployment may do better.
- They do not do the same: Bursar authenticates a virtual key, asks two hard budgets and five limits, makes the hold
  durable, meters, audits and counts. LiteLLM checks its master key and prices the call. Portkey forwards and may retry.
  nginx only forwards.
- LiteLLM's budgets for virtual keys, teams and users need its database, whose client fetches a program of its own from
  the network at installation, so they are **not** what raced here. What raced is its budget of a deployment
  (`max_budget`, `budget_duration` in `litellm_params`), which works without one. Its reservation of an estimate for
  keys may fare better in such a race.
- Bursar holds the dearest outcome of each call before it is sent. That is why it lets fewer than ten run at once: the
  ceiling of this call is several times what it turns out to cost. What was not needed is given back when the call
  is settled, and the next one may run.
- Load generator, upstream and proxies share the cores; ratios within the run are worth more than absolute figures.
"""


@dataclass
class Found:
    conditions: Mapping[str, str]
    plain: dict[Case, dict[str, Figures]] = field(default_factory=dict)
    events: dict[str, Figures] = field(default_factory=dict)
    no_streams: dict[str, str] = field(default_factory=dict)  # the status answered instead
    idle_rss: dict[str, int] = field(default_factory=dict)  # bytes
    start_s: dict[str, float] = field(default_factory=dict)
    races: dict[str, Outcome] = field(default_factory=dict)


def write(found: Found, versions: Mapping[str, str], folder: Path) -> Path:
    (folder / "peers.svg").write_text(plot(found.plain))
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        "# Bursar beside its peers",
        "",
        f"Written by `make bench-peers` on {today} at commit {commit()}: {told}, {found.conditions['nginx']}.",
        f"{machine()}.",
        f"Rounds of {found.conditions['seconds']} s, targets in turn: {found.conditions['rounds']}, medians of them.",
        f"Bursar as shipped: {found.conditions['setup']}.",
        "",
    ]
    for case, figures in found.plain.items():
        lines += _plain(case, figures)
    lines += ["![CPU per request](peers.svg)", ""]
    lines += _events(found.events, found.no_streams)
    lines += _standing(found)
    lines += _races(found.races)
    lines += ["## What to keep in mind", "", _CAVEATS]
    page = folder / "PEERS.md"
    page.write_text("\n".join(lines))
    return page


def _plain(case: Case, figures: Mapping[str, Figures]) -> list[str]:
    own, direct = figures["Bursar"].cpu_us, figures["direct"]
    rows = [
        (
            name,
            cost(x),
            f"{x.cpu_us / own:.1f} ×",
            f"{(x.p50 - direct.p50) / 1e3:.2f}",
            f"{(x.p99 - direct.p99) / 1e3:.2f}",
        )
        for name, x in figures.items()
        if name != "direct"
    ]
    head = ["", "CPU per call", "÷ Bursar", "added p50, ms", "added p99, ms"]
    return [f"## A plain call: {case.words}", "", *table(head, rows)]


def _events(figures: Mapping[str, Figures], failed: Mapping[str, str]) -> list[str]:
    rows = [(name, cost(x), f"{x.cpu_us / figures['Bursar'].cpu_us:.1f} ×") for name, x in figures.items()]
    rows += [(name, f"answered {status}", "–") for name, status in failed.items()]
    return ["## A streamed event", "", *table(["", "CPU per event", "÷ Bursar"], rows)]


def _standing(found: Found) -> list[str]:
    rows = [
        (name, f"{size / 1e6:.0f} MB", f"{found.start_s[name]:.1f} s" if name in found.start_s else "–")
        for name, size in found.idle_rss.items()
    ]
    note = (
        "Bursar's start is in [RESULTS.md](RESULTS.md), F5; its memory is of three processes, shared pages each time."
    )
    return ["## Standing still", "", *table(["", "memory (RSS)", "start to first answer"], rows), note, ""]


def _races(races: Mapping[str, Outcome]) -> list[str]:
    head = ["", "calls that ran", "of later ones", "spent", "of the budget", "what callers saw", "seconds"]
    rows = []
    for name, outcome in races.items():
        seen = ", ".join(f"{count} × {status or 'none'}" for status, count in sorted(outcome.answers.items()))
        share = f"{outcome.spent / BUDGET_USD:.0%}"
        later = f"{outcome.later} of {LATER}"
        rows.append((name, str(outcome.ran), later, f"${outcome.spent:.4f}", share, seen, f"{outcome.seconds:.1f}"))
    told = (
        f"{CALLERS:,} callers at once, none tries twice; the budget, ${BUDGET_USD:.4f}, pays for {AFFORDED} calls. The"
        f" provider takes 300 ms to answer and bills each call it began. Afterwards {LATER} more, one by one."
    )
    return ["## The race for a budget", "", told, "", *table(head, rows)]
