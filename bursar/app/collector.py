"""Python's collector, kept out of the way of what lives as long as the process.

While a process is built up, everything that is made stays: looking at it again and again is for nothing, and with a
large directory costs seconds.
"""

import gc


def hold() -> None:
    """Until `release`: nothing is collected."""
    gc.disable()


def release() -> None:
    """What is there by now stays; from now on the collector looks at what comes later, and rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()
