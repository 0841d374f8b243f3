"""Provider keys that come to the door and are not in the directory yet: how many are let in, and who learns of them."""

from collections.abc import Callable, Container

from bursar.core.errors import Refusal

_FIRST_CALLS_PER_S = 10.0  # a node lets in of keys that no provider has taken yet: they cost a hold and a call upstream
_FIRST_CALLS_AT_ONCE = 200.0
_TELL_AGAIN_S = 5.0  # control may be away when a key is seen first
_SEAL = "See `bursar observe list`; sealed keys do not count: `bursar observe seal ID`, or raise observe.most"


class Observing:
    """What this node needs for it. `team` "" = observe mode is off."""

    def __init__(
        self, team: str = "", most: int = 0, tell: Callable[[str, bytes, str], bool] = lambda *_key: False
    ) -> None:
        """`most`: keys that are passed on. `tell`: of a new one, its digest and its provider; whether that was sent."""
        self.team, self.most, self.tell = team, most, tell
        self._taken: dict[str, float] = {}  # key id -> when control was told, monotonic; the directory has not them yet
        self._room = _FIRST_CALLS_AT_ONCE
        self._at = 0.0

    def told(self, key_id: str, digest: bytes, provider: str, now: float) -> None:
        """A provider has taken a key that the directory does not know: say so, and again while it does not."""
        last = self._taken.get(key_id)
        if last is None or now >= last + _TELL_AGAIN_S:
            sent = self.tell(key_id, digest, provider)
            self._taken[key_id] = now if sent else now - _TELL_AGAIN_S

    def let_in(self, key_id: str, observed: int, known: Container[str], now: float) -> None:
        """One call of a key that is not in the directory. `observed`: how many of those that are `known` are passed on.

        Raises Refusal(key_invalid | overloaded).
        """
        if key_id in self._taken:
            return
        if observed + len(self._taken) >= self.most:
            self._taken = {name: at for name, at in self._taken.items() if name not in known}
            if observed + len(self._taken) >= self.most:
                message = f"This is not a Bursar key, and {self.most} provider keys are observed already"
                raise Refusal("key_invalid", message, _SEAL)
        self._room = min(self._room + (now - self._at) * _FIRST_CALLS_PER_S, _FIRST_CALLS_AT_ONCE)
        self._at = now
        if self._room < 1:
            message = "Too many calls come with provider keys that no provider has accepted yet"
            raise Refusal("overloaded", message, "Try again in a moment", retry_after=1)
        self._room -= 1
