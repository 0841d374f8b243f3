"""Files and folders of manifests: read and merged into one, each object with the file in which it stands."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bursar.control.hands_off import mark_id
from bursar.control.manifest_plan import Given
from bursar.control.manifest_shapes import SECTIONS
from bursar.control.manifest_yaml import read_file
from bursar.core.strict import Fault, Faults, suggest

_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_FILES = 10_000


class FileFaults(Faults):
    """Everything that is wrong with the files; each message ends with the place."""

    of = "the files have"

    def __init__(self, faults: list[Fault], rest: "Merged | None" = None) -> None:
        super().__init__(faults)
        self.rest = rest  # what could be read all the same


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What the files say together. `places`: section and name -> the file."""

    given: Given
    places: dict[tuple[str, str], Path]


def read_files(paths: Sequence[Path], *, prune: bool = False) -> Merged:
    """Raises FileFaults with everything that is wrong with their form."""
    merging = _Merging()
    for path in paths:
        for file, shown in _below(path, merging):
            merging.take(file, shown)
    given = Given(documents=merging.documents, sources=tuple(sorted(merging.sources)), files=merging.files, prune=prune)
    merged = Merged(given=given, places=merging.places)
    if merging.faults:
        raise FileFaults(merging.faults, merged)
    return merged


def located(merged: Merged, faults: Iterable[Fault]) -> FileFaults:
    """Faults of what the files say, each with its file and line."""
    lines: dict[Path, dict[str, int]] = {}
    told = []
    for fault in faults:
        section, _, rest = fault.path.partition(".")
        names = [name for at, name in merged.places if at == section and (rest == name or rest.startswith(f"{name}."))]
        file = merged.places.get((section, max(names, key=len))) if names else None
        if file is None:
            told.append(fault)
            continue
        if file not in lines:
            lines[file] = read_file(file, lines=True).lines
        path = fault.path
        while path and path not in lines[file]:
            path = path.rpartition("[" if path.endswith("]") else ".")[0]
        place = f"{file}:{lines[file][path]}" if path else str(file)
        told.append(msgspec.structs.replace(fault, message=f"{fault.message} ({place})"))
    return FileFaults(told)


def _below(path: Path, merging: "_Merging") -> Iterable[tuple[Path, str]]:
    """Files of a folder in the order of their names, hidden ones left out; with the name that a mark remembers."""
    if not path.is_dir():
        return [(path, path.name)]
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix in _SUFFIXES and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        merging.fault(
            path, Fault("", "missing", "holds no .yaml, .yml or .json file", "Name the folder with the files")
        )
    return [(file, file.relative_to(path).as_posix()) for file in found[:_MOST_FILES]]


class _Merging:
    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.sources: set[str] = set()
        self.files: dict[str, str] = {}
        self.places: dict[tuple[str, str], Path] = {}
        self.faults: list[Fault] = []

    def take(self, file: Path, shown: str) -> None:
        read = read_file(file)
        for fault in read.faults:
            self.fault(file, fault)
        if read.data is None:
            return
        if not isinstance(read.data, dict):
            self.fault(file, Fault("", "wrong_kind", "is no mapping of sections", f"known: {', '.join(SECTIONS)}"))
            return
        source = read.data.pop("managed_by", None)
        if source is not None and not isinstance(source, str):
            self.fault(file, Fault("managed_by", "wrong_kind", "is git, or git:NAME"))
            source = None
        if source is not None:
            self.sources.add(source)
        for section, entries in read.data.items():
            self._section(file, shown, source, section, entries)

    def _section(self, file: Path, shown: str, source: str | None, section: str, entries: Any) -> None:
        if section not in SECTIONS:
            hint = suggest(section, [*SECTIONS, "managed_by"])
            self.fault(file, Fault(section, "unknown_key", "no objects are called so", hint))
            return
        if entries is None:
            return
        if not isinstance(entries, dict):
            self.fault(file, Fault(section, "wrong_kind", "is no mapping of names to objects"))
            return
        into = self.documents.setdefault(section, {})
        for name, said in entries.items():
            if name in into:
                first = self.places[section, name]
                self.fault(file, Fault(f"{section}.{name}", "duplicate_key", f"stands in {first} as well", "Keep one"))
                continue
            own = said.get("managed_by", source) if isinstance(said, dict) else None
            if source is not None and isinstance(said, dict):
                said.setdefault("managed_by", source)
            if isinstance(own, str):
                self.sources.add(own)
                self.files[mark_id(SECTIONS[section], name)] = shown
            into[name] = said
            self.places[section, name] = file

    def fault(self, file: Path, fault: Fault) -> None:
        self.faults.append(msgspec.structs.replace(fault, message=f"{fault.message} ({file})"))
