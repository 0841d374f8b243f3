"""From `bursar.yaml` and the environment to one checked `Config`.

Order: defaults < file < environment. All faults are reported at once with their paths, and an unknown key is refused.
Checkable offline: `load` opens no file but the one it is given, and no connection.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bursar.config import BUILTIN_PROVIDERS, Config
from bursar.config.checks import check
from bursar.config.sources import Source, apply_environment, read_flow, read_yaml
from bursar.core.strict import Fault, Faults, read_what_fits


class ConfigFaults(Faults):
    """Everything that is wrong with the configuration. `source` is the file, "" when there is none."""

    def __init__(self, faults: list[Fault], source: str = "") -> None:
        super().__init__(faults)
        self.source = source


def load(path: str | os.PathLike[str] | None, env: Mapping[str, str]) -> Config:
    """Read, merge and check. `path` None = no file. Raises ConfigFaults with every fault found."""
    source = read_yaml(Path(path)) if path is not None else Source()
    tree = _over_builtin_providers(source.data)
    faults = source.faults + apply_environment(tree, env, Config, source.variables)
    config, misfits = read_what_fits(Config, tree, read_flow)
    faults += misfits
    if config is not None:
        wrong = {fault.path for fault in misfits}
        faults += [fault for fault in check(config) if not _touches(fault.path, wrong)]
        if not faults:
            return config
    raise ConfigFaults([_located(fault, source) for fault in faults], str(path or ""))


def _touches(path: str, wrong: set[str]) -> bool:
    """Whether a rule speaks about a field that is already known to be wrong: it saw only the default."""
    return any(path == other or other.startswith((path + ".", path + "[")) for other in wrong)


def _over_builtin_providers(data: Mapping[str, Any]) -> dict[str, Any]:
    """The file's tree with the built-in providers below it: a named built-in is merged field by field."""
    given = data.get("providers") or {}
    if not isinstance(given, Mapping):
        return dict(data)
    merged: dict[str, Any] = {name: dict(fields) for name, fields in BUILTIN_PROVIDERS.items()}
    for name, fields in given.items():
        base = merged.get(name, {})
        merged[name] = {**base, **(fields or {})} if isinstance(fields, Mapping | None) else fields
    return {**data, "providers": merged}


def _located(fault: Fault, source: Source) -> Fault:
    """The fault with the variable or the line at which it, or the nearest parent that is written down, stands."""
    path = fault.path
    while path and path not in source.variables and path not in source.lines:
        path = path.rpartition("[" if path.endswith("]") else ".")[0]
    if not path or fault.word == "duplicate_key":
        return fault
    place = source.variables.get(path) or f"line {source.lines[path]}"
    return msgspec.structs.replace(fault, message=f"{fault.message} ({place})")
