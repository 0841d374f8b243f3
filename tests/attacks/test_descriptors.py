"""Whoever opens connections until none is left finds that the last ones were not for callers."""

import subprocess
import sys

import pytest

ASK = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from bursar.app.descriptors import most_connections
print(most_connections({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "connections"),
    [
        (1024, 1024, 20_000, 1024 - 256),
        (256, 8000, 20_000, 7000),  # the soft limit is raised first: shells and services start with a low one
        (256, 8000, 500, 500),
        (100, 100, 500, 1),
    ],
)
def test_descriptors_are_kept_for_providers_and_the_journal(
    soft: int, hard: int, wanted: int, connections: int
) -> None:
    code = ASK.format(soft=soft, hard=hard, wanted=wanted)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(connections), str(hard)]
