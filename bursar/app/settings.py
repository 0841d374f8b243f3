"""Which configuration a command goes by: --config, else ./bursar.yaml if there is one, else the defaults."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bursar.config import Config
from bursar.config.load import load

DEFAULT_CONFIG = Path("bursar.yaml")


def read_config(path: str | None, data: str | None, env: Mapping[str, str] = os.environ) -> Config:
    """Raises ConfigFaults."""
    chosen = path or (str(DEFAULT_CONFIG) if DEFAULT_CONFIG.exists() else None)
    config = load(chosen, env)
    return msgspec.structs.replace(config, data=data) if data else config
