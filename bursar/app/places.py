"""Where things of a node lie, for those who must not load what opens them."""

from pathlib import Path

from bursar.config import Config


def keyfile_path(config: Config, folder: Path) -> Path:
    """The wrapping key's file: as configured, else in the data folder."""
    return Path(config.wrapper.path).expanduser() if config.wrapper.path else folder / "wrapping.key"


def checkpoints_path(config: Config, folder: Path) -> Path:
    """The signed checkpoints of the audit: as configured (a second place), else in the data folder."""
    named = config.audit.checkpoints
    return Path(named).expanduser() if named else folder / "audit-checkpoints.jsonl"
