"""docs/cli.md against the code: exit codes and the words of refusal are those of the program."""

import re
from pathlib import Path

from bursar.core.errors import RULES
from bursar.faces import cli_terminal

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()


def test_every_word_of_refusal_is_listed_as_it_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (yes|no) \| (.+) \|$", PAGE, re.MULTILINE)
    listed = {word: (int(status), retry == "yes", title) for word, status, retry, title in rows}
    assert listed == {word: (rule.status, rule.retry, rule.title) for word, rule in RULES.items()}


def test_every_exit_code_is_listed() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d) \| ", PAGE, re.MULTILINE)}
    codes = ("OK", "REFUSED", "USAGE", "NOT_REACHABLE", "NOT_VERIFIED", "CONFIG_FAULTS")
    assert listed == {getattr(cli_terminal, name) for name in codes}
