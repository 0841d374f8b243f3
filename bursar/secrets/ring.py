"""The ring of wrapping keys of a sealed store: under which it seals, and which open what lies there already."""

from collections.abc import Iterable, Sequence

from bursar.ports import KeyWrapper
from bursar.secrets.sealing import wrapper_ids


class Ringed:
    """What every sealed store is.

    New values are sealed under each of `wrappers`, the first of which is the node's own; `opening` are further keys
    that only open: the old ones, until a rewrap is done.
    """

    def __init__(self, wrappers: Sequence[KeyWrapper], opening: Sequence[KeyWrapper]) -> None:
        self._wrappers = tuple(wrappers)
        self._ring = (*wrappers, *opening)
        self._recovery: tuple[KeyWrapper, ...] = ()

    def recover_by(self, wrapper: KeyWrapper | None) -> None:
        """From now on values are sealed under this one besides; `rewrap` brings the stored along. It wraps only."""
        self._recovery = () if wrapper is None else (wrapper,)

    @property
    def sealing(self) -> tuple[str, ...]:
        """Ids of the wrapping keys under which new values are sealed, in order."""
        return tuple(wrapper.id for wrapper in self._sealers)

    @property
    def ring(self) -> tuple[str, ...]:
        """Ids of the wrapping keys that open, in the order in which they are tried."""
        return tuple(wrapper.id for wrapper in self._ring)

    @property
    def _sealers(self) -> tuple[KeyWrapper, ...]:
        return (*self._wrappers, *self._recovery)


def count_under(blobs: Iterable[bytes]) -> dict[tuple[str, ...], int]:
    """How many sealed values there are under which wrapping keys."""
    counts: dict[tuple[str, ...], int] = {}
    for blob in blobs:
        ids = wrapper_ids(blob)
        counts[ids] = counts.get(ids, 0) + 1
    return counts
