"""A sheet of tags: every fault is told at once, with its line; what is parsed is what was written."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.control.tag_sheet import parse_tags
from bursar.core.strict import Faults

HEAD = "address,billing_owner,purpose,allowed_models\n"


def faults_of(text: str) -> dict[str, list[str]]:
    with pytest.raises(Faults) as refused:
        parse_tags(text)
    found: dict[str, list[str]] = {}
    for fault in refused.value.faults:
        found.setdefault(fault.path, []).append(fault.word)
    return found


def test_rows_cells_and_removals() -> None:
    sheet = (
        "\ufeff"
        + HEAD
        + 'openai/*/api_key/prod/alpha, ann ,inference,"gpt-4o,gpt-4o-mini"\r\n\n'
        + "anthropic/*/api_key/prod/*,bob,-,\nopenai/*/api_key/dev/*,,,\n"
    )
    rows = parse_tags(sheet)
    assert [(row.line, row.key, row.tags) for row in rows] == [
        (
            2,
            "openai/*/api_key/prod/alpha",
            {"billing_owner": "ann", "purpose": "inference", "allowed_models": "gpt-4o,gpt-4o-mini"},
        ),
        (4, "anthropic/*/api_key/prod/*", {"billing_owner": "bob", "purpose": None}),
    ]


def test_all_faults_at_once_with_their_lines() -> None:
    sheet = (
        HEAD
        + "openai/*/api_key/prod/alpha,ann,inference,*\n"  # fine
        + "openai,ann,inference,*\n"  # no address
        + "openai/*/api_key/prod/beta,ann,Inference!,*\n"  # a malformed tag
        + "openai/*/api_key/prod/gamma,ann\n"  # cells are missing
        + "openai/*/api_key/prod/alpha,bob,inference,*\n"  # twice
    )
    assert faults_of(sheet) == {
        "line 3": ["invalid_address"],
        "line 4": ["invalid_tags"],
        "line 5": ["bad_value"],
        "line 6": ["duplicate_key"],
    }


@pytest.mark.parametrize(
    "text", ["", "name,owner\n", "address,Owner\n", "address,a,a\n", "billing_owner,address\n", "address,\n"]
)
def test_wrong_columns_are_told_and_no_row_is_read(text: str) -> None:
    assert set(faults_of(text + "x\ny\n")) == {"line 1"}


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for sheet in (text, HEAD + text):
        try:
            parse_tags(sheet)
        except Faults as faults:
            assert all(fault.path.startswith("line ") for fault in faults.faults)  # noqa: PT017


@given(st.lists(st.text("abc ,\"'", min_size=1, max_size=8).filter(lambda t: t.strip() not in ("", "-")), max_size=5))
def test_what_was_written_is_read(values: list[str]) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "note"])
    for number, value in enumerate(values):
        writer.writerow([f"sec_{number}", value])
    rows = parse_tags(out.getvalue())
    assert [row.tags for row in rows] == [{"note": value.strip()} for value in values]
