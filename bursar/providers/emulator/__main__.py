"""``python -m bursar.providers.emulator``: one fake provider on one port."""

import argparse
import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import uvloop

from bursar.providers.emulator.bill import Bill
from bursar.providers.emulator.connection import Connection
from bursar.providers.emulator.desk import Desk


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    path = None if options.no_bill else Path(options.bill)
    desk = Desk(Bill(path), seed=options.seed, latency=options.latency / 1000, require_key=options.require_key)
    uvloop.run(_serve(options, desk))
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bursar.providers.emulator", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="listen on 127.0.0.1 (0 = any; the address is printed)")
    where.add_argument("--fd", type=int, help="listen on an inherited socket")
    bill = parser.add_mutually_exclusive_group(required=True)
    bill.add_argument("--bill", help="file to which each charge is appended as a JSON line")
    bill.add_argument("--no-bill", action="store_true", help="keep no bill (benchmarks)")
    parser.add_argument("--seed", type=int, default=0, help="fixes the generated answers")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds added to every answer")
    parser.add_argument("--require-key", default="", help="answer 401 to any other credential")
    return parser.parse_args(arguments)


async def _serve(options: argparse.Namespace, desk: Desk) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.fd is not None:
        listener = socket.socket(fileno=os.dup(options.fd))
        listener.setblocking(False)
        _end_with_parent(loop, stop)
    else:
        listener = socket.create_server(("127.0.0.1", options.port), backlog=4096)
    server = await loop.create_server(lambda: Connection(desk), sock=listener, backlog=4096)
    if options.fd is None:
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
    await stop.wait()
    server.close()


def _end_with_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """A parent that hands over a socket holds our standard input as a pipe: its end is the parent's end."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        loop.add_reader(0, lambda: None if os.read(0, 4096) else stop.set())


if __name__ == "__main__":
    sys.exit(main())
