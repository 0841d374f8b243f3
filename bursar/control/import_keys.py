"""Provider keys that lie in an environment, a dotenv file or a CSV sheet, and where in the vault they would go. Pure.

What a key is of is told by its shape, else by the name of its variable. No text of a key stands in anything that is
shown: a candidate has it as a Secret only.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping

import msgspec

from bursar.core.errors import Refusal
from bursar.core.key_shapes import look, provider_named, shown
from bursar.core.provider_keys import check_address, check_tags, is_tag_name
from bursar.core.secret import Secret
from bursar.core.strict import Fault, Faults

MOST_ROWS = 10_000
_NAMED = re.compile(r"([A-Z][A-Z0-9_]*?)_API_(?:KEY|TOKEN)(?:_[A-Z0-9_]+)?", re.ASCII)
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*?)\s*\Z", re.ASCII)
_COMMENT = re.compile(r"\s+#.*\Z")
_PART = re.compile(r"[^A-Za-z0-9._:@+%-]+", re.ASCII)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A key that could be sealed. `line`: where it has to be deleted afterwards; 0 = it is of the environment."""

    name: str
    address: str
    value: Secret
    kind: str  # by its shape, never its text: "sk-proj-***", or "by its name"
    tags: dict[str, str] = {}
    line: int = 0


def from_environment(env: Mapping[str, str], environment: str) -> list[Candidate]:
    found = (_candidate(name, value, 0, environment) for name, value in sorted(env.items()))
    return _apart(one for one in found if one is not None)


def from_dotenv(text: str, environment: str) -> list[Candidate]:
    """Lines of NAME=value, with or without `export` and quotes. Raises Faults for lines that are neither."""
    found: list[Candidate] = []
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            faults.append(_fault(number, "unreadable", "is no NAME=value", "Comment it out with #"))
            continue
        one = _candidate(match[1], _unquoted(match[2]), number, environment)
        if one is not None:
            found.append(one)
    if faults:
        raise Faults(faults)
    return _apart(found)


def from_value(name: str, value: str, environment: str) -> Candidate | None:
    """One value, told by its shape, else by its variable's name; None where neither tells, and for Bursar's own."""
    return _candidate(name, value, 0, environment)


def from_csv(text: str) -> list[Candidate]:
    """A head `address,value[,TAG...]` and a key a line. Raises Faults with every fault, its path being the line."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    faults: list[Fault] = []
    found: list[Candidate] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        _check_head(names)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(found) >= MOST_ROWS:
                faults.append(_fault(reader.line_num, "too_long", f"the sheet has more than {MOST_ROWS} rows"))
                break
            one = _row(reader.line_num, names, cells, faults)
            if one is not None:
                found.append(one)
    except csv.Error as error:
        faults.append(_fault(reader.line_num, "malformed", f"the line is no CSV: {error}"))
    if faults:
        raise Faults(faults)
    return found


def _check_head(names: list[str]) -> None:
    """Raises Faults: with a wrong head no row means anything, and a value must not be taken for a tag."""
    faults = []
    if names[:2] != ["address", "value"]:
        faults.append(_fault(1, "bad_value", "the first columns are not `address` and `value`", "address,value,TAG"))
    faults += [
        _fault(1, "bad_value", "a column after them is no name of a tag") for n in names[2:] if not is_tag_name(n)
    ]
    if len(set(names)) < len(names):
        faults.append(_fault(1, "duplicate_key", "a column occurs twice", "keep one of them"))
    if faults:
        raise Faults(faults)


def _row(line: int, names: list[str], cells: list[str], faults: list[Fault]) -> Candidate | None:
    if len(cells) != len(names):
        hint = "put a cell that holds a comma in double quotes"
        faults.append(_fault(line, "bad_value", f"has {len(cells)} cells, the head has {len(names)}", hint))
        return None
    address, value, *rest = (cell.strip() for cell in cells)
    tags = {name: cell for name, cell in zip(names[2:], rest, strict=True) if cell}
    if not value:
        faults.append(_fault(line, "missing", "has no value"))
    elif value in address or any(value in text for text in tags.values()):
        faults.append(_fault(line, "invalid_secret", "has its value in the address or a tag, which are not sealed"))
        return None
    try:
        check_address(address)
        check_tags(tags)
    except Refusal as refusal:
        faults.append(_fault(line, refusal.word, refusal.message, refusal.hint))
    return Candidate(
        name=address, address=address, value=Secret(value), kind=_kind(value) or "unknown", tags=tags, line=line
    )


def _candidate(name: str, value: str, line: int, environment: str) -> Candidate | None:
    """None where neither shape nor name tell of a provider's key, and for Bursar's own."""
    raw = value.encode("utf-8", "surrogatepass")
    shapes = [found for found in look(raw) if (found.start, found.end) == (0, len(raw))]
    named = _NAMED.fullmatch(name)
    if any(found.shape.owner == "Bursar" for found in shapes) or not value or not (shapes or named):
        return None
    provider = ""
    if named is not None:
        provider = named[1].lower().replace("_", "-")
    if shapes and len({found.shape.owner for found in shapes}) == 1:
        provider = provider_named(shapes[0].shape.owner)
    address = f"{provider}/*/api_key/{environment}/*"
    return Candidate(name=name, address=address, value=Secret(value), kind=_kind(value) or "by its name", line=line)


def _kind(value: str) -> str:
    raw = value.encode("utf-8", "surrogatepass")
    return shown(raw) if look(raw) else ""


def _apart(candidates: Iterator[Candidate] | list[Candidate]) -> list[Candidate]:
    """Several keys of one provider get addresses of their own, after their variables."""
    found = list(candidates)
    seen: set[str] = set()
    apart = []
    for one in found:
        address = one.address
        if address in seen:
            provider, model, kind, environment, team = address.split("/")
            address = f"{provider}/{model}/{kind}/{environment}-{_PART.sub('-', one.name.lower())}/{team}"
        seen.add(address)
        apart.append(msgspec.structs.replace(one, address=address))
    return apart


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] in "'\"" and text[-1] == text[0]:
        return text[1:-1]
    return _COMMENT.sub("", text)


def _fault(line: int, word: str, message: str, hint: str = "") -> Fault:
    return Fault(f"line {line}", word, message, hint)
