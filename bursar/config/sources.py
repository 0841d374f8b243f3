"""Where settings come from: one YAML file, with the line of every key, and the environment.

Every field can be set as ``BURSAR_`` + its path in capitals, joined by two underscores: ``BURSAR_DATA=/srv/bursar``,
``BURSAR_LISTEN__DATA__PORT=8443``, ``BURSAR_PROVIDERS__OPENAI__MODELS='["gpt-*"]'``. In names of providers ``-`` is
written ``_``. A variable with two underscores that fits no field is a fault; one without is ours only when it names a
top-level field, because Kubernetes sets ``BURSAR_PORT_4000_TCP`` and the like by itself for a service called bursar.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml

from bursar.core.strict import EnvText, Fault, join, suggest

ENV_PREFIX = "BURSAR_"
RESERVED_ENV = frozenset(
    """BURSAR_CONFIG BURSAR_ADMIN_TOKEN BURSAR_ADMIN_URL BURSAR_PASSPHRASE BURSAR_API_KEY BURSAR_URL
    BURSAR_STORE_URL BURSAR_RATES_URL""".split()  # noqa: SIM905 - easier to read
)
"""Names with our prefix that are not fields of the tree."""

_MAX_DEPTH = 12
_PLAIN_SCALARS = {
    "tag:yaml.org,2002:null": re.compile(r"~|null|Null|NULL|"),
    "tag:yaml.org,2002:bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "tag:yaml.org,2002:int": re.compile(r"[-+]?[0-9_]+"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?[0-9_]*\.?[0-9_]+([eE][-+]?[0-9]+)?"),
}


class Source(msgspec.Struct):
    """Settings as plain data; `lines` maps a path to the line of the file (from 1) on which its key stands."""

    data: dict[str, Any] = {}
    lines: dict[str, int] = {}
    variables: dict[str, str] = {}  # path -> the variable that set it
    faults: list[Fault] = []


def read_yaml(path: Path) -> Source:
    """Parse one YAML mapping. Never raises: what is unreadable becomes a fault."""
    source = Source()
    try:
        node = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        source.faults.append(Fault("", "unreadable", f"{path}: {error.strerror or error}", "give --config FILE"))
        return source
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        source.faults.append(Fault("", "unreadable", f"{path} is not YAML: {_one_line(error)}"))
        return source
    if node is None:
        return source
    data = _Builder(source).build(node, "", 0)
    if isinstance(data, dict):
        source.data = data
    else:
        source.faults.append(Fault("", "wrong_kind", f"{path} must be a mapping of settings"))
    return source


def read_flow(text: str) -> object:
    """A list or mapping from an environment variable, in YAML flow (JSON is); the text itself when it is neither."""
    try:
        return cast(object, yaml.safe_load(text))
    except yaml.YAMLError:
        return text


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return str(error).splitlines()[0]


class _Builder:
    """Turns YAML nodes into plain data. PyYAML itself drops the lines and lets the last of two equal keys win."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, path: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            self._source.faults.append(Fault(path, "unreadable", "is nested too deeply", "an alias onto itself?"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        """As YAML 1.2 reads it: `off` and `no` are texts and 1:30 is no number, whatever YAML 1.1 says."""
        text = str(node.value)
        wanted = _PLAIN_SCALARS.get(node.tag)
        if wanted is None or not wanted.fullmatch(text):
            return text
        return self._scalars.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key_node, item in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            here = join(path, str(key))
            line = key_node.start_mark.line + 1
            if key in values:
                first = self._source.lines[here]
                self._source.faults.append(Fault(here, "duplicate_key", f"is written twice (lines {first} and {line})"))
                continue
            self._source.lines[here] = line
            values[key] = self.build(item, here, depth + 1)
        return values


def apply_environment(
    tree: dict[str, Any], env: Mapping[str, str], root: type[msgspec.Struct], variables: dict[str, str]
) -> list[Fault]:
    """Lay the variables that name a field over `tree`; faults for those that look like ours and name none.

    `variables` learns which path each of them set.
    """
    faults = []
    fields = root.__struct_fields__
    for name in sorted(env):
        if not name.startswith(ENV_PREFIX) or name in RESERVED_ENV:
            continue
        segments = [segment.lower() for segment in name.removeprefix(ENV_PREFIX).split("__")]
        if segments[0] in fields:
            placed = _place(tree, segments, EnvText(env[name]))
            if placed is None:
                faults.append(Fault(name, "wrong_kind", "names a group of settings below a single value"))
            else:
                variables[placed] = name
        elif len(segments) > 1 or difflib.get_close_matches(segments[0], fields, cutoff=0.85):
            faults.append(Fault(name, "unknown_key", "names no setting", suggest(segments[0], fields)))
    return faults


def _place(tree: dict[str, Any], segments: list[str], value: EnvText) -> str | None:
    """Set one value, making the mappings on the way -> its path. Mappings are copied: the defaults stay as they are.

    None when a parent is a plain value.
    """
    *parents, last = segments
    here, path = tree, ""
    for segment in parents:
        key = _key_in(here, segment)
        path = join(path, key)
        below = here.get(key)
        if below is not None and not isinstance(below, Mapping):
            return None
        here[key] = dict(below or {})
        here = here[key]
    key = _key_in(here, last)
    here[key] = value
    return join(path, key)


def _key_in(mapping: Mapping[str, Any], segment: str) -> str:
    """The key that an environment segment means: names of providers may hold `-` and capitals."""
    for key in mapping:
        if isinstance(key, str) and key.lower().replace("-", "_") == segment:
            return key
    return segment
