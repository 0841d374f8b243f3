"""``make bench-peers``: Bursar, LiteLLM and Portkey under the same load in one run; writes bench/PEERS.md.

``ARGS="--quick"`` for a short look that is printed and not kept.
"""

import argparse
import shutil

from bench.__main__ import say
from bench.accounts import memory
from bench.broker import ShippedBroker
from bench.peers import programs, report
from bench.peers.race import BUDGET_USD, Outcome, race
from bench.rows import SMALL, Case, f1_cpu, f2_events
from bench.stand import Stand
from bench.targets import OUT, certificate


def measure(rounds: int, seconds: float) -> report.Found:
    with Stand() as stand:
        found = report.Found(conditions=stand.conditions | {"rounds": str(rounds), "seconds": f"{seconds:g}"})
        say("the peers start")
        upstream = stand.direct.url
        peers = [programs.litellm(upstream), programs.portkey(upstream)]
        try:
            for target in peers:
                programs.warm(target)
            targets = [stand.nginx, stand.broker.target(), *peers]
            for target in targets:
                found.idle_rss[target.name] = memory(target.pids).rss
                if "start" in target.facts:
                    found.start_s[target.name] = float(target.facts["start"])
            for case in (Case(16, SMALL), Case(1, SMALL)):
                say(f"CPU and latency: {case.words}")
                found.plain[case] = f1_cpu(case, [stand.direct, *targets], rounds, seconds)
            say("streamed events")
            able = [target for target in targets if programs.streams(target)]
            found.no_streams = {target.name: target.facts["streams"] for target in targets if target not in able}
            found.events = f2_events(able, rounds, streams=8, events=60)
        finally:
            for target in peers:
                target.stop()
        found.races = races(stand)
        return found


def races(stand: Stand) -> dict[str, Outcome]:
    outcomes = {}
    say("the race: Bursar")
    broker = ShippedBroker(OUT / "race", stand.direct.url, {})
    try:
        broker.start(limit_usd=str(BUDGET_USD))
        outcomes["Bursar"] = race(broker.target(), stand.direct)
    finally:
        broker.stop()
    say("the race: LiteLLM")
    target = programs.litellm(stand.direct.url, budget_usd=str(BUDGET_USD), name="LiteLLM with a budget")
    try:
        outcomes["LiteLLM"] = race(target, stand.direct)
    finally:
        target.stop()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-peers")
    parser.add_argument("--quick", action="store_true", help="one short round, printed and not kept")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is kept")
    given = parser.parse_args()
    rounds, seconds = (1, 1.0) if given.quick else (given.rounds, 3.0)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    certificate()
    found = measure(rounds, seconds)
    print(report.write(found, programs.versions(), OUT if given.quick else report.BENCH).read_text())


if __name__ == "__main__":
    main()
