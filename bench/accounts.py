"""What processes used, by the kernel's own accounting: CPU seconds and memory of a group of processes."""

from collections.abc import Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Memory:
    """Bytes over a group of processes. PSS shares common pages out; RSS counts them once per process."""

    rss: int
    pss: int


def cpu_seconds(pids: Sequence[int]) -> float:
    """utime + stime of /proc/PID/stat, all threads, summed over the processes (resolution 10 ms each)."""
    used = (psutil.Process(pid).cpu_times() for pid in pids)
    return sum(times.user + times.system for times in used)


def memory(pids: Sequence[int]) -> Memory:
    full = [psutil.Process(pid).memory_full_info() for pid in pids]
    return Memory(rss=sum(info.rss for info in full), pss=sum(info.pss for info in full))


def family(pid: int) -> list[int]:
    """A process and everything below it."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]
