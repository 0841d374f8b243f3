"""Composition root of the command line: hands the CLI what works on files."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bursar.app import backup_desk, ledger_desk, recovery_desk
from bursar.app.clock import SystemClock
from bursar.app.places import CHAINS, checkpoints_path, key_place
from bursar.app.settings import read_config
from bursar.config.checks import check_files
from bursar.control import verify_audit
from bursar.core.strict import Faults
from bursar.core.units import pico_to_usd
from bursar.faces.cli import Offline, UpOptions, build_cli
from bursar.faces.cli_terminal import Place, Trouble, Verified
from bursar.stores.catalogue import CatalogueBroken, compare
from bursar.stores.catalogue import load as load_catalogue


def locate(config: str | None, data: str | None) -> Place:
    """The data folder and the node's addresses, by configuration. Raises Faults."""
    settings = read_config(config, data)
    listen, data_folder = settings.listen, Path(settings.data)
    return Place(
        data_folder,
        f"http://{_host(listen.admin.host)}:{listen.admin.port}",
        checkpoints_path(settings, data_folder),
        config,
        f"{'http' if listen.data.tls is None else 'https'}://{_host(listen.data.host)}:{listen.data.port}",
        f"http://{_host(listen.metrics.host)}:{listen.metrics.port}/metrics",
    )


def _host(host: str) -> str:
    called = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104 - called, not bound
    return f"[{called}]" if ":" in called else called


def up(options: UpOptions) -> int:
    """Start the node in this process's place: it does without the CLI's libraries."""
    arguments = [
        *(["--config", options.config] if options.config else []),
        *(["--data", options.data] if options.data else []),
        *(["--seal-env"] if options.seal_env else []),
    ]
    return os.execv(sys.executable, [sys.executable, "-m", "bursar.app.main", "up", *arguments])  # noqa: S606


def check_config(path: str | None) -> Mapping[str, str]:
    """What the configuration says; raises Faults with everything that is wrong with it."""
    config = read_config(path, None)
    faults = check_files(config)
    if faults:
        raise Faults(faults)
    listen = config.listen
    served = [name for name, provider in config.providers.items() if provider.enabled]
    return {
        "data folder": config.data,
        "data port": f"{listen.data.host}:{listen.data.port}{' (TLS)' if listen.data.tls else ''}",
        "admin port": f"{listen.admin.host}:{listen.admin.port}",
        "metrics port": f"{listen.metrics.host}:{listen.metrics.port}",
        "providers": ", ".join(served),
        "durability": config.durability,
        "wrapping key": key_place(config.wrapper, Path(config.data)),
    }


def connect(path: str | None) -> list[dict[str, Any]]:
    """Ask everything that the configuration names, in a process of its own (bursar.app.connecting)."""
    asked = {"config": read_config(path, None)}
    command = [sys.executable, "-c", "from bursar.app.connecting import main; raise SystemExit(main())"]
    done = subprocess.run(command, input=msgspec.json.encode(asked), stdout=subprocess.PIPE, check=False)  # noqa: S603
    if done.returncode:
        raise Trouble("the look at what is configured ended before its time", "see above")
    return list(msgspec.json.decode(done.stdout))


def prove_audit(place: Place, public_key: str | None) -> Verified:
    """Check the chain in audit.db and its checkpoints, or the chains in PostgreSQL (bursar.control.verify_audit)."""
    config = read_config(place.config, str(place.data))
    if config.store.kind == "postgres":
        return ledger_desk.prove_rows_of_audit(config, public_key)
    checkpoints = place.checkpoints if place.checkpoints.exists() else None
    try:
        report = verify_audit.verify_database(place.data / "audit.db", checkpoints, public_key)
        others = {
            path.stem: verify_audit.verify_database(path, None, public_key)
            for path in sorted((place.data / CHAINS).glob("*.db"))
        }
    except (OSError, sqlite3.Error) as fault:
        return Verified({}, f"the audit cannot be read: {fault}", "name the data folder with --data")
    facts: dict[str, str | int] = {
        "records": report.records,
        "pruned": report.pruned,
        "checkpoints": report.checkpoints,
        "signed up to": report.signed,
        "public key": ", ".join(report.public_keys),
    }
    for chain, other in others.items():
        facts[f"chain {chain}"] = f"{other.records} records, signed up to {other.signed}"
    hint = "compare with the copy in another sink, audit.jsonl for one"
    for chain, found in {"": report, **others}.items():
        if found.fault:
            where = (f"chain of {chain}, " if chain else "") + (f"record {found.broken}: " if found.broken else "")
            return Verified(facts, where + found.fault, hint)
    return Verified(facts)


def compare_prices(other: Path, tolerance: int) -> list[dict[str, str | int]]:
    """Rates, in USD per million tokens, on which the shipped table and another one differ. Raises Trouble."""
    try:
        found = compare(load_catalogue(), other, SystemClock().now(), tolerance)
    except CatalogueBroken as fault:
        hint = "Give LiteLLM's model_prices_and_context_window.json or genai-prices' data.json"
        raise Trouble(str(fault), hint) from None
    return [
        {
            "provider": row.provider,
            "model": row.model,
            "rate": row.rate,
            "ours_usd": pico_to_usd(row.ours * 10**6),
            "theirs_usd": pico_to_usd(row.theirs * 10**6),
            "percent": row.percent,
        }
        for row in found
    ]


def main() -> None:
    offline = Offline(
        locate=locate,
        up=up,
        check_config=check_config,
        connect=connect,
        verify_ledger=ledger_desk.prove_ledger,
        move_store=ledger_desk.move_store,
        verify_audit=prove_audit,
        compare_prices=compare_prices,
        load_prices=load_catalogue,
        recovery=recovery_desk.DESK,
        backup=backup_desk.DESK,
    )
    build_cli(offline)(prog_name="bursar")


if __name__ == "__main__":
    main()
