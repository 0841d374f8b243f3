"""What estimates are made from: the priors that ship with Bursar, and what this node has learned, in a file.

The file is written whole and put in place by a rename: a crash leaves the one before. It is a help, not a record: one
that is missing or cannot be read is as if nothing had been learned yet.
"""

import logging
import os
from pathlib import Path

import msgspec

from bursar.core.estimate import Family, Learned

FORMAT = 1
_SHIPPED = Path(__file__).parent / "data" / "estimates.json"
_log = logging.getLogger("bursar.estimate")


class _Priors(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    made_from: tuple[str, ...]  # the sets, by name; no text of theirs is in here
    families: tuple[Family, ...]


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    learned: Learned


def load_priors() -> tuple[Family, ...]:
    """Those that ship with Bursar, most special first."""
    return msgspec.json.decode(_SHIPPED.read_bytes(), type=_Priors).families


def read_learned(path: Path) -> Learned:
    """What was kept; nothing where there is no such file, or none that can be used (which the log tells)."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except FileNotFoundError:
        return Learned()
    except (OSError, msgspec.DecodeError) as fault:
        _log.warning("what was learned about tokens cannot be read, it is learned anew: %s: %s", path, fault)
        return Learned()
    return kept.learned if kept.format == FORMAT else Learned()


def write_learned(path: Path, learned: Learned) -> None:
    """Put it in the place of what was kept. Raises OSError, and then the former stands."""
    part = path.with_suffix(".part")
    data = msgspec.json.encode(_Kept(format=FORMAT, learned=learned))
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
