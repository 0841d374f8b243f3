"""What one plain call costs a gateway, counted in byte codes and instructions: a busy machine does not disturb it.

``python -m bench.count``: byte codes of one warm call. ``--instructions`` counts the processor's too (valgrind). The
gateway is whole but for what is below Python: both wires with their transports played by an echo, real journal, real
limits, the bench's key (five limits, two hard budgets) and body; one caller, one call at a time. uvloop, sockets and
control are not in it. What comes out belongs into docs/decisions/0009, before and after a change.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvloop

from bench.broker import LIMITS
from bench.load import chat_body
from bench.upstream import _PLAIN
from bursar.app.clock import SystemClock
from bursar.app.upstreams import Door, Upstreams
from bursar.core.directory import LimitDef, Policy
from bursar.stores.catalogue import load
from bursar.wire.client import Client, ClientConfig
from bursar.wire.connection import Connection
from bursar.wire.dial import Origin, Timeouts
from bursar.wire.door import Door as FrontDoor
from bursar.wire.door import Rendered, ServerConfig
from bursar.wire.upstream import Link
from tests.gateway.ground import Stand, budget, provider

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent
WARM = 3_000  # what a process learns in its first calls (tokens, memos) is not counted
_FEW, _MANY = 200, 1_200  # calls under valgrind: the difference is what calls cost


class Echo:
    """A transport that goes nowhere: what is written to it is answered in the loop's next turn."""

    def __init__(self, answer: Callable[[], None]) -> None:
        self.write: Callable[[bytes], None] = self._write
        self._answer = answer
        self._loop = asyncio.get_running_loop()

    def _write(self, _data: bytes) -> None:
        self._loop.call_soon(self._answer)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> None:
        return None


class Gateway:
    """One connection in, one out, everything between them real."""

    def __init__(self, folder: Path) -> None:
        limits = tuple(LimitDef(id=f"l{place}", **limit) for place, limit in enumerate(LIMITS))
        origin = Door(Origin("http", "127.0.0.1", 9, allow_private=True), Timeouts())
        plenty = 10**18
        self._stand = Stand(
            folder,
            policy=Policy(limits=limits, models=("gpt-*",)),
            budgets=[budget(plenty, "team")],
            providers=[provider("openai", door=origin)],
            prices=load(),
        )
        key = self._stand.key.id
        self._stand.node.tenants._take_budget(budget(plenty, "key", "key", key))
        clock = SystemClock()
        for holder in (self._stand.node, self._stand.journal, self._stand.leases, self._stand.releases):
            for name in ("clock", "_clock"):
                if hasattr(holder, name):
                    setattr(holder, name, clock)
        self._client = Client(ClientConfig())
        self._client._connect = self._connect  # type: ignore[method-assign]
        self._stand.node.upstream = Upstreams(self._client)
        door = FrontDoor(ServerConfig(), self._stand.pipeline.serve, _refuse, clock.monotonic)
        door.open()
        self._door = door
        self._line = Connection(door)
        self._left = 0
        self._done: asyncio.Future[None]
        body = chat_body(2_048)
        head = (
            "POST /v1/chat/completions HTTP/1.1",
            "Host: 127.0.0.1:4000",
            "content-type: application/json",
            f"authorization: Bearer {self._stand.key_text}",
            f"Content-Length: {len(body)}",
        )
        self._request = "\r\n".join([*head, "", ""]).encode() + body
        self._line.connection_made(cast("asyncio.BaseTransport", Echo(self._next)))

    async def _connect(self, _origin: Origin, stock: Any, _seconds: float) -> Link:
        link = Link(self._client, stock)
        stock.open += 1
        link.connection_made(cast("asyncio.BaseTransport", Echo(lambda: link.data_received(_PLAIN))))
        return link

    def _next(self) -> None:
        self._left -= 1
        if self._left:
            self._line.data_received(self._request)
        else:
            self._done.set_result(None)

    async def serve(self, calls: int) -> None:
        self._left = calls
        self._done = asyncio.get_running_loop().create_future()
        self._line.data_received(self._request)
        await self._done
        await asyncio.sleep(0)
        assert self._stand.node.counters.series("bursar_requests_total"), "nothing was served"

    def close(self) -> None:
        self._door.close()
        self._stand.close()


def _refuse(refusal: Exception) -> Rendered:
    raise refusal


async def byte_codes(folder: Path, calls: int) -> Counter[tuple[str, str]]:
    """(file, function) -> byte codes of so many calls."""
    gateway = Gateway(folder)
    await gateway.serve(WARM)
    counted: Counter[tuple[str, str]] = Counter()

    def look(frame: FrameType, event: str, _arg: object) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            frame.f_trace = look
        elif event == "opcode":
            counted[frame.f_code.co_filename, frame.f_code.co_qualname] += 1
        return look

    sys.settrace(look)
    await gateway.serve(calls)
    sys.settrace(None)
    gateway.close()
    return Counter({place: count for place, count in counted.items() if place[0] != str(HERE)})


async def only_serve(folder: Path, calls: int) -> None:
    gateway = Gateway(folder)
    await gateway.serve(WARM // 10)
    await gateway.serve(calls)
    gateway.close()


def instructions(calls: int, out: Path) -> int:
    """Of a process that serves so many calls, its start included."""
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    command = [*valgrind, sys.executable, "-m", "bench.count", "--serve", str(calls)]
    env = {**os.environ, "PYTHONHASHSEED": "0"}  # starts that differ in nothing else
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def table(counted: Counter[tuple[str, str]], calls: int, functions: int) -> str:
    """Pages, the dearest first, then so many functions."""
    pages: Counter[str] = Counter()
    for (file, _), count in counted.items():
        pages[_short(file)] += count
    lines = [f"{counted.total() / calls:9.1f}  a call"]
    lines += [f"{count / calls:9.1f}  {page}" for page, count in pages.most_common()]
    lines += [f"{count / calls:9.1f}  {_short(file)} {name}" for (file, name), count in counted.most_common(functions)]
    return "\n".join(lines)


def _short(file: str) -> str:
    return file.removeprefix(f"{ROOT}/")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.count")
    parser.add_argument("--calls", type=int, default=100, help="of which the mean is told")
    parser.add_argument("--functions", type=int, default=40, help="how many of them are listed")
    parser.add_argument("--instructions", action="store_true", help="count them too: needs valgrind and half a minute")
    parser.add_argument("--keep", type=Path, help="where callgrind's two files go, for callgrind_annotate")
    parser.add_argument("--serve", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if given.serve:
            uvloop.run(only_serve(folder, given.serve))
            return
        print(table(uvloop.run(byte_codes(folder, given.calls)), given.calls, given.functions))
        if given.instructions:
            kept = given.keep or folder
            few, many = (instructions(calls, kept / f"callgrind.{calls}") for calls in (_FEW, _MANY))
            print(f"{(many - few) / (_MANY - _FEW):9.0f}  instructions a call")


if __name__ == "__main__":
    main()
