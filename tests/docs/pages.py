"""Runs what a page of documentation shows, block by block, against a live broker.

``bash`` and ``python`` blocks are run in order, each bash block in the environment that the one before left behind. A
``text`` block right after one is what it prints; `…` stands for anything. ``console``, ``yaml``, ``mermaid`` and
``json`` are for the eye. Addresses and the demo key of the page are replaced by those of the broker at hand.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.broker import ROOT, Broker

FOR_THE_EYE = {"console", "text", "yaml", "json", "mermaid"}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PLACEHOLDER = "<the key that was printed>"


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    prints: str = ""  # what the page says it prints; "" = nothing said

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page; a `text` block is taken into the runnable block it follows."""
    source = (ROOT / page).read_text()
    found: list[Block] = []
    end = 0
    for match in _BLOCK.finditer(source):
        language, text = match.groups()
        line = source.count("\n", 0, match.start()) + 1
        follows = not source[end : match.start()].strip() and found and found[-1].language not in FOR_THE_EYE
        if language == "text" and follows:
            last = found.pop()
            found.append(Block(page, last.line, last.language, last.text, text))
        else:
            found.append(Block(page, line, language, text))
        end = match.end()
    return found


class Reader:
    """Somebody who follows a page to the letter, with `bursar` on the path and one shell kept open."""

    def __init__(self, broker: Broker, folder: Path, besides: Mapping[str, str] | None = None) -> None:
        """`besides`: further addresses of the page, and what stands for them."""
        self.broker = broker
        self.besides = besides or {}
        self.folder = folder
        self.kept = folder / "environment"
        command = folder / "bin" / "bursar"
        command.parent.mkdir(parents=True)
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bursar.app.main "$@"\n')
        command.chmod(0o755)
        self.env = {
            **broker.env,
            "PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BURSAR_CONFIG": str(broker.config_file),
            "BURSAR_DATA": str(broker.data),
            "CHECKOUT": str(ROOT),
        }

    def fitted(self, text: str) -> str:
        """The page's ports and key replaced by the broker's."""
        for shown, real in (
            ("127.0.0.1:4000", f"127.0.0.1:{self.broker.data_port}"),
            ("127.0.0.1:4001", f"127.0.0.1:{self.broker.admin_port}"),
            ("127.0.0.1:4002", f"127.0.0.1:{self.broker.metrics_port}"),
            (_PLACEHOLDER, self.broker.demo_key),
            *self.besides.items(),
        ):
            text = text.replace(shown, real)
        return text

    def run(self, block: Block) -> None:
        """Run one block; raises AssertionError with the page's line when it fails or prints something else."""
        text = self.fitted(block.text)
        if block.language == "python":
            text = f"{shlex.quote(sys.executable)} -c {shlex.quote(text)}"
        before = f"set -a; [ ! -f {self.kept} ] || . {self.kept}; set -euo pipefail\n"
        command = ["bash", "-c", f"{before}{text}\nexport -p > {self.kept}\n"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60, check=False
        )
        told = f"{block.where}\n{block.text}\n--- printed:\n{done.stdout}{done.stderr}\n{self.broker.printed()[-2000:]}"
        assert done.returncode == 0, f"exit code {done.returncode} from {told}"
        assert matches(self.fitted(block.prints), done.stdout), f"printed something else: {told}"


def matches(said: str, printed: str) -> bool:
    """Whether the lines said to be printed are there, in order; `…` within a line stands for anything."""
    if not said:
        return True
    lines = iter(printed.splitlines())
    return all(any(_like(want, line) for line in lines) for want in said.splitlines() if want.strip() != "…")


def _like(want: str, line: str) -> bool:
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in want.split("…"))
    return re.fullmatch(pattern, " ".join(line.split())) is not None


def runnable(page: str) -> Iterator[Block]:
    return (block for block in blocks(page) if block.language not in FOR_THE_EYE)
