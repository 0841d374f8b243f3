"""Real time and real randomness, for the composition roots."""

import os
import time


class SystemClock:
    """`bursar.ports.Clock` on the machine's own clocks."""

    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


class SystemEntropy:
    """`bursar.ports.Entropy` on the kernel's random numbers."""

    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)
