"""Where things of a node lie, for those who must not load what opens them."""

from pathlib import Path

from bursar.config import Config


def keyfile_path(config: Config, folder: Path) -> Path:
    """The wrapping key's file: as configured, else in the data folder."""
    return Path(config.wrapper.path).expanduser() if config.wrapper.path else folder / "wrapping.key"
