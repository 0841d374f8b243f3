"""What the supervisor hands to a child process: one JSON document on its standard input, which then stays open.

The end of that input tells the child that its supervisor is gone. Readiness travels back as one JSON line on a pipe.
"""

import os
import sys

import msgspec

from bursar.config import Config


class NodeSpec(msgspec.Struct, kw_only=True):
    """Everything a child needs to know before it can ask anybody."""

    config: Config
    data: str  # the data folder, absolute
    node: str  # this node's name
    identity: str = ""  # of the data folder: tells this node from another of its name
    data_fds: list[int] = []  # listening sockets, already bound by the supervisor
    admin_fds: list[int] = []
    metrics_fds: list[int] = []
    ready_fd: int = -1
    emulator_url: str = ""  # where the built-in emulator listens, should it be needed
    seal_env: bool = False


class Ready(msgspec.Struct, kw_only=True):
    """A child's one line: it serves. Control adds what the banner shows."""

    name: str
    demo_key: str = ""  # at the very first start only
    emulator: bool = False  # no provider key is stored: the emulator must answer
    sealed: list[str] = []  # provider keys taken from the environment and sealed
    unsealed: list[str] = []  # names of provider keys seen in the environment and left alone
    flagged: int = 0  # provider keys without a billing owner
    problem: str = ""  # why it cannot start; the process exits after saying so


def read_spec() -> NodeSpec:
    """The spec from standard input (up to its first newline: the pipe stays open afterwards)."""
    return msgspec.json.decode(sys.stdin.buffer.readline(), type=NodeSpec)


def say_ready(fd: int, ready: Ready) -> None:
    os.write(fd, msgspec.json.encode(ready) + b"\n")
    os.close(fd)
