"""A sheet of tags as CSV, for many provider keys at once. Pure: text in, changes out, all faults by line.

The first line names the columns: `id` or `address`, then one column a tag. An empty cell leaves the tag as it is, `-`
removes it:

    address,billing_owner,purpose,allowed_models
    openai/*/api_key/prod/alpha,ann,inference,"gpt-4o,gpt-4o-mini"
    anthropic/*/api_key/prod/*,bob,-,
"""

import csv
import io

import msgspec

from bursar.core.errors import Refusal
from bursar.core.provider_keys import check_address, check_tags, is_tag_name
from bursar.core.strict import Fault, Faults

REMOVE = "-"
MOST_ROWS = 10_000
_NAMING = ("id", "address")


class TagRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the sheet: which provider key (by id or address), and what is to change."""

    line: int
    key: str
    tags: dict[str, str | None]


def parse_tags(text: str) -> list[TagRow]:
    """The rows that change something. Raises Faults with every fault, its path being `line 7`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    faults: list[Fault] = []
    rows: list[TagRow] = []
    try:
        head = next(reader, [])
        names = _columns(head)
        seen: dict[str, int] = {}
        for cells in reader:
            if (faults and reader.line_num == 1) or not any(cell.strip() for cell in cells):
                continue
            if len(rows) >= MOST_ROWS:
                faults.append(_fault(reader.line_num, "too_long", f"the sheet has more than {MOST_ROWS} rows"))
                break
            row = _row(reader.line_num, cells, names, seen, faults)
            if row is not None and row.tags:
                rows.append(row)
    except csv.Error as error:
        faults.append(_fault(reader.line_num, "malformed", f"the line is no CSV: {error}"))
    if faults:
        raise Faults(faults)
    return rows


def _columns(head: list[str]) -> list[str]:
    """Raises Faults: with wrong columns no row means anything."""
    names = [name.strip().removeprefix("\ufeff").strip() for name in head]
    faults = []
    if not names or names[0] not in _NAMING:
        hint = "write for example address,billing_owner"
        faults.append(_fault(1, "bad_value", "the first column is neither `id` nor `address`", hint))
    for name in names[1:]:
        if not is_tag_name(name):
            hint = "use lower-case letters, digits and _ . -"
            faults.append(_fault(1, "bad_value", f"{name[:64]!r} is no name of a tag", hint))
    if len(set(names)) < len(names):
        faults.append(_fault(1, "duplicate_key", "a column occurs twice", "keep one of them"))
    if faults:
        raise Faults(faults)
    return names


def _row(line: int, cells: list[str], names: list[str], seen: dict[str, int], faults: list[Fault]) -> TagRow | None:
    if len(cells) != len(names):
        hint = "put a cell that holds a comma in double quotes"
        faults.append(_fault(line, "bad_value", f"has {len(cells)} cells, the head has {len(names)}", hint))
        return None
    key = cells[0].strip()
    if key in seen:
        faults.append(_fault(line, "duplicate_key", f"{key} stands in line {seen[key]} already", "keep one of them"))
    seen.setdefault(key, line)
    given = {name: cell.strip() for name, cell in zip(names[1:], cells[1:], strict=True) if cell.strip()}
    try:
        if names[0] == "address":
            check_address(key)
        check_tags({name: value for name, value in given.items() if value != REMOVE})
    except Refusal as refusal:
        faults.append(_fault(line, refusal.word, refusal.message, refusal.hint))
    return TagRow(line=line, key=key, tags={name: None if value == REMOVE else value for name, value in given.items()})


def _fault(line: int, word: str, message: str, hint: str = "") -> Fault:
    return Fault(f"line {line}", word, message, hint)
