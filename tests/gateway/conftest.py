from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.control.verify_ledger import verify
from tests.gateway.ground import Stand


@pytest.fixture
def make_stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    """Stands that are proven afterwards: each journal replays, adds up and keeps every hard budget."""
    made: list[Stand] = []

    def make(**settings: Any) -> Stand:
        made.append(Stand(tmp_path / f"journal-{len(made)}", **settings))
        return made[-1]

    yield make
    for stand in made:
        stand.close()
        report = verify(stand.folder)
        assert report.problem is None, report.problem
        assert report.open_holds == 0
