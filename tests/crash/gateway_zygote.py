"""Makes gateway processes quickly: everything is imported once, each gateway is a fork.

Reads one JSON order a line, answers each with one JSON line. Orders: {"spec": ..., "faults": ...} starts a gateway on
the listening socket it was given; {"wait": true} waits for that gateway's end. A gateway may be told to kill itself
(SIGKILL) the nth time it comes to a named point, counted from the moment it serves.
"""

import contextlib
import functools
import gc
import json
import mmap
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import uvloop

from bursar.app import backing
from bursar.app import gateway as composition
from bursar.app.logs import set_up_logs
from bursar.app.spec import NodeSpec
from bursar.gateway import attempt
from bursar.stores.journal import Files, Journal
from bursar.wire.upstream import Response

READY_S = 10.0


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What shall happen to a gateway that is not an accident."""

    point: str = ""
    nth: int = 1
    segment_bytes: int = 16 << 20
    clock: str = ""  # file of 8 bytes: nanoseconds to add to the clock, signed


class Fuse:
    """Ends the process the nth time a point is reached, once it is armed."""

    def __init__(self, faults: Faults) -> None:
        self._point = faults.point
        self._left = faults.nth
        self.armed = False

    def reached(self, point: str) -> None:
        if self.armed and point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class TearingFiles(Files):
    """The point "write": dies in the middle of a write, with a part of it done."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse

    def write(self, fd: int, data: bytes) -> int:
        half = len(data) * (len(data) % 7 + 1) // 9
        written = os.write(fd, data[:half]) if half else 0
        self._fuse.reached("write")
        return written + os.write(fd, data[written:])


class MovedClock:
    """The machine's clock, set forth or back from outside while the process runs. Monotonic time stays monotonic."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._moved = mmap.mmap(file.fileno(), 8)

    def now(self) -> int:
        moved: int = struct.unpack("<q", self._moved[:8])[0]
        return time.time_ns() + moved

    def monotonic(self) -> float:
        return time.monotonic()


def lay(fuse: Fuse, faults: Faults) -> None:
    """Put the named points, the small segments and the clock into this process's composition."""
    opened = functools.partial(
        Journal.open, trace=fuse.reached, segment_bytes=faults.segment_bytes, files=TearingFiles(fuse)
    )
    backing.Journal = SimpleNamespace(open=opened)  # type: ignore[assignment,misc]
    if faults.clock:
        composition.SystemClock = functools.partial(MovedClock, faults.clock)  # type: ignore[assignment,misc]
    attempt.settle = before(attempt.settle, fuse, "usage_known")
    attempt.take_hold = before(attempt.take_hold, fuse, "before_hold")
    Response.receive = after(Response.receive, fuse, "upstream_bytes")  # type: ignore[method-assign]
    said = composition.say_ready

    def serves(*arguments: Any) -> None:
        said(*arguments)
        fuse.armed = True

    composition.say_ready = serves


def before(work: Callable[..., Any], fuse: Fuse, point: str) -> Callable[..., Any]:
    def fused(*arguments: Any) -> Any:
        fuse.reached(point)
        return work(*arguments)

    return fused


def after(work: Callable[..., Any], fuse: Fuse, point: str) -> Callable[..., Any]:
    def fused(*arguments: Any) -> Any:
        done = work(*arguments)
        fuse.reached(point)
        return done

    return fused


def be_gateway(spec: NodeSpec, faults: Faults, stdin: int) -> None:
    """In the child: as `bursar.app.gateway.main`, with the faults laid."""
    os.dup2(stdin, 0)
    fuse = Fuse(faults)
    lay(fuse, faults)
    gc.enable()
    set_up_logs("gateway")
    uvloop.run(composition._serve(spec, backing.open_embedded))


def start(order: dict[str, Any]) -> dict[str, Any]:
    spec = msgspec.convert(order["spec"], NodeSpec)
    ready, child_ready = os.pipe()
    stdin, keep = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                os.close(keep)
                be_gateway(msgspec.structs.replace(spec, ready_fd=child_ready), fault_of(order), stdin)
                code = 0
            except BaseException as error:
                sys.stderr.write(f"gateway: {error!r}\n")
                raise
        os._exit(code)
    os.close(child_ready)
    os.close(stdin)
    came, _, _ = select.select([ready], [], [], READY_S)
    line = os.read(ready, 65536) if came else b""
    os.close(ready)
    return {"pid": pid, "ready": bool(line), "stdin": keep}


def fault_of(order: dict[str, Any]) -> Faults:
    return msgspec.convert(order["faults"], Faults)


def main() -> None:
    pid, stdin = 0, -1
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(pid, 0)
            os.close(stdin)
            answer: dict[str, Any] = {"killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL}
            answer["code"] = os.waitstatus_to_exitcode(status)
        else:
            answer = start(order)
            pid, stdin = answer["pid"], answer.pop("stdin")
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
