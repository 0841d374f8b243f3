#!/bin/sh
# Everything that reads the code without running it. Each line is a gate; the first that fails ends it.
set -eu
cd "$(dirname "$0")/.."
ruff check .
ruff format --check --quiet .
mypy
lint-imports
python scripts/check_core.py
python scripts/check_sizes.py
