"""Real time and real randomness, for the composition roots."""

import os
import time


class SystemClock:
    """`bursar.ports.Clock` on the machine's own clocks.

    A request asks two dozen times what time it is: these are the functions themselves, not methods around them.
    """

    now = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)


class SystemEntropy:
    """`bursar.ports.Entropy` on the kernel's random numbers."""

    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)
