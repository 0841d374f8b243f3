"""The entry point `bursar`. `bursar up` stays out of the CLI's libraries: it must print within a second."""

import argparse
import os
import sys

from bursar.app.settings import read_config
from bursar.app.supervisor import CannotStart, Supervisor
from bursar.config.load import ConfigFaults

EXIT_FAILED = 1
EXIT_CONFIG = 5


def up(arguments: list[str]) -> int:
    """Run a node in the foreground until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="bursar up", description="Run a Bursar node in the foreground.")
    parser.add_argument("--config", metavar="FILE", help="the node's settings (default: ./bursar.yaml if it exists)")
    parser.add_argument("--data", metavar="DIR", help="the data folder (default: ./bursar-data)")
    parser.add_argument(
        "--seal-env", action="store_true", help="seal provider keys found in the environment into the vault"
    )
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config, options.data)
        return Supervisor(config, dict(os.environ), seal_env=options.seal_env).run()
    except ConfigFaults as faults:
        say(f"{len(faults.faults)} fault(s) in the configuration {faults.source}".rstrip())
        for fault in faults.faults:
            say(f"  {fault.path}: {fault.message}" + (f"; {fault.hint}" if fault.hint else ""))
        return EXIT_CONFIG
    except CannotStart as fault:
        say(str(fault))
        return EXIT_FAILED


def say(text: str) -> None:
    sys.stderr.write(f"bursar: {text}\n")


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["up"]:
        return up(arguments[1:])
    # Another program of ours: the CLI's libraries take longer to load than a node takes to start.
    return os.execv(sys.executable, [sys.executable, "-m", "bursar.app.commands", *arguments])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
