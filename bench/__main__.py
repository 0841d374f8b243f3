"""``make bench``: measures F1 to F6, T, the audit and the vault, and writes bench/RESULTS.md.

``ARGS="--quick"`` for a short look that is printed and not kept, ``ARGS="--rows f1,f3"`` for some of the rows,
``ARGS="--rows f1 --cases 1"`` for the one that the bar is about.
"""

import argparse
import os
import shutil
import time

from bench import added, audit, many_keys, money, rates, report, rows, targets, tokens
from bench.rows import LARGE, SMALL, Case, Measured
from bench.secrets_rows import under_rewrap, vault_figures
from bench.stand import Stand
from bench.targets import Target

CASES = (Case(16, SMALL), Case(1, SMALL), Case(16, LARGE), Case(1, LARGE), Case(16, SMALL, tls=True))


def targets_of(stand: Stand, case: Case) -> list[Target]:
    if case.tls:
        return [stand.nginx, stand.floor_tls, stand.tls.target()]
    main = [stand.nginx, stand.floor, stand.broker.target()]
    return [*main, stand.power.target("Bursar, power", may_refuse=True)] if case == CASES[0] else main


def measure(
    wanted: set[str], cases: int, rounds: int, seconds: float, *, quick: bool = False
) -> tuple[Measured, dict[str, str]]:
    measured = Measured()
    if "f5" in wanted:  # first, on a machine that does nothing else
        say("F5: start and size")
        measured.f5 = rows.f5_start(rounds)
        measured.many_keys = many_keys.measure(rounds, many_keys.KEYS // 10 if quick else many_keys.KEYS)
    if "t" in wanted:
        say("T: who is calling")
        measured.tokens = tokens.measure(rounds)
    if "f6" in wanted:
        say("F6: money of many nodes")
        measured.f6 = money.measure(seconds)
        measured.rates = rates.measure(rounds)
    with Stand() as stand:
        bursar = stand.broker.target()
        if "f6" in wanted:
            measured.added = added.measure(stand.direct.url, rounds, seconds)
        if "f4" in wanted:  # before the load has grown anything
            say("F4: memory")
            measured.f4 = rows.f4_memory(bursar)
        if "f1" in wanted:
            for case in CASES[:cases]:
                say(f"F1: {case.words}")
                measured.f1[case] = rows.f1_cpu(case, targets_of(stand, case), rounds, seconds)
        if "f2" in wanted:
            say("F2: streamed events")
            measured.f2 = rows.f2_events([stand.nginx, stand.floor, bursar], rounds)
        if "f3" in wanted:
            say("F3: added latency")
            measured.f3 = rows.f3_latency([stand.direct, stand.nginx, stand.floor, bursar], rounds, seconds)
            scraped = rows.f3_under_scrape(bursar, stand.broker.metrics_url, rounds, seconds)
            measured.f3["Bursar, scraped"] = scraped
        if "audit" in wanted:
            say("audit: events appended, latency beside an export")
            measured.audit = audit.append_rates(seconds)
            measured.audit |= audit.f_export(stand.direct.url, targets.OUT / "audit", rounds, seconds)
        if "vault" in wanted:
            say("vault: leases, cold reads, a rewrap beside the data path")
            measured.vault = vault_figures(rounds)
            measured.rewrap = under_rewrap(bursar, stand.broker.admin_url, stand.broker.admin_token, rounds, seconds)
        return measured, stand.conditions


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rows", default="f1,f2,f3,f4,f5,f6,t,audit,vault", help="which of them, comma between")
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of F1's cases")
    parser.add_argument("--quick", action="store_true", help="one short round, printed and not kept")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is kept")
    given = parser.parse_args()
    rounds, seconds = (1, 1.0) if given.quick else (given.rounds, 3.0)
    shutil.rmtree(targets.OUT, ignore_errors=True)
    targets.OUT.mkdir(parents=True)
    targets.certificate()
    load = f"{os.getloadavg()[0]:.1f}"
    measured, conditions = measure(set(given.rows.split(",")), given.cases, rounds, seconds, quick=given.quick)
    conditions |= {"rounds": str(rounds), "seconds": f"{seconds:g}", "load": load}
    kept = not given.quick and given.rows == parser.get_default("rows") and given.cases == len(CASES)
    print(report.write(measured, conditions, report.BENCH if kept else targets.OUT).read_text())
    if kept:
        report.write_readme(measured)


if __name__ == "__main__":
    main()
