"""docs/configuration.md against the code: the printed defaults are the defaults, and no field is left out."""

import re
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
import yaml

from bursar.config import Config, Oidc, Quirk, Secrets
from bursar.config.load import load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/configuration.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "bursar.yaml"
    path.write_text(text)
    return load(path, {})


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0][:30])
def test_every_yaml_block_is_a_valid_configuration(tmp_path: Path, block: str) -> None:
    loaded(tmp_path, block)


def test_the_printed_defaults_are_the_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, BLOCKS[0]) == load(None, {})


def test_every_field_is_shown() -> None:
    shown: Any = yaml.safe_load(BLOCKS[0])
    missing = [path for path in _paths(msgspec.to_builtins(load(None, {}))) if not _has(shown, path)]
    assert missing == []


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(kind, fields) for kind, fields in get_type_hints(Secrets).items() if get_origin(fields) is dict],
)
def test_every_field_of_a_secret_store_is_shown(kind: str, fields: Any) -> None:
    text = next(block for block in BLOCKS if block.startswith("secrets:"))
    (shown,) = yaml.safe_load(text)["secrets"][kind].values()
    missing = [path for path in _fields_of(get_args(fields)[1]) if not _has(shown, path)]
    assert missing == []


def test_every_field_of_the_login_is_shown_with_its_default(tmp_path: Path) -> None:
    text = next(block for block in BLOCKS if block.startswith("admin:"))
    shown = yaml.safe_load(text)["admin"]["oidc"]
    assert set(shown) == {field.name for field in msgspec.structs.fields(Oidc)}
    given = loaded(tmp_path, text).admin.oidc
    assert given == Oidc(issuer=shown["issuer"], client_id=shown["client_id"], roles=shown["roles"])


def _fields_of(kind: type[msgspec.Struct], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for field in msgspec.structs.fields(kind):
        nested = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        found += _fields_of(field.type, (*above, field.name)) if nested else [(*above, field.name)]
    return found


def test_every_quirk_is_explained() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(get_args(Quirk))


def _paths(tree: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every leaf of the tree; of the two built-in providers the first stands for both."""
    found: list[tuple[str, ...]] = []
    for name, value in tree.items():
        here = (*above, name)
        if here[:2] == ("providers", "anthropic"):
            continue
        found += _paths(value, here) if isinstance(value, dict) and value else [here]
    return found


def _has(tree: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True
