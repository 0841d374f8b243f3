"""A fault of Bursar's own, wherever it happens: counted as what it is, and nothing is left open by it."""

from pathlib import Path
from typing import Any

import pytest

from bursar.core.errors import Refusal
from bursar.gateway import answer, attempt
from tests.gateway.answers import chat, completion
from tests.gateway.ground import PLENTY, Stand, budget


class Fault(Exception):
    """Nothing in Bursar raises or expects it."""


def failing(*_: Any, **__: Any) -> Any:
    raise Fault


@pytest.mark.parametrize("where", ["understand", "guard", "rewrite", "read_usage", "answer_headers"])
async def test_a_fault_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    stand = Stand(tmp_path / "journal", budgets=[budget(PLENTY)])
    dialect = type(stand.node.dialects["openai"])
    if where == "guard":
        stand.node.screens = [type("Screen", (), {"name": "s", "look": failing})()]
    elif where == "answer_headers":
        monkeypatch.setattr(attempt, where, failing)
    else:
        monkeypatch.setattr(dialect, where, failing)
    stand.upstream.will(completion())
    with pytest.raises(Fault):
        await stand.pipeline.serve(stand.exchange(body=chat(max_tokens=50)))
    stand.at_rest()
    (outcome,) = [series[-2:] for series in stand.node.counters.series("bursar_requests_total")]
    assert outcome[1] == "internal_error"
    posted, held = stand.balance()
    assert held == 0
    assert (posted > 0) == (where in ("read_usage", "answer_headers")), "what may have been billed is booked"
    stand.close()


def test_the_word_is_in_the_table() -> None:
    refusal = Refusal("internal_error", "The request was not answered")
    assert refusal.rule.status == 500
    assert b"internal_error" in answer.refusal_body(refusal, "openai", "")
