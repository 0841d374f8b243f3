"""A mounted directory as a store: one file a key, as Kubernetes, the CSI driver or an agent of a vault puts it there.

Kubernetes (and the CSI driver) change all files at once: they write a new folder and swap the symlink ``..data``. Every
look resolves that link once and stays in that folder, so that a value and its tags are of one generation. A version is
the millisecond of the file's last change (ctime): a new file is a new version, and there is no older one to be had.

`text`: the file is the key; its tags lie in ``NAME.tags.json`` beside it. `json`: one object; `value_field` is the key,
the other fields are tags, as in a Vault secret.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from bursar.core.errors import Refusal
from bursar.core.layout import Layout, derived_id
from bursar.core.provider_keys import SecretEntry, SecretVersion
from bursar.core.secret import Secret
from bursar.secrets.read_only import ReadOnly
from bursar.secrets.values import found_value

Format = Literal["text", "json"]
_TAGS = ".tags.json"
_MOST_BYTES = 256 * 1024
_MOST_FILES = 10_000
_MS = 1_000_000  # ns
_TRIES = 20

T = TypeVar("T")


class _Found(NamedTuple):
    entry: SecretEntry
    value: Secret | Refusal


class MountedStore(ReadOnly):
    """Files are read off the loop: the folder may be a network's."""

    where = "what is mounted"

    def __init__(
        self, name: str, folder: Path, layout: Layout, *, kind: Format = "text", value_field: str = "value"
    ) -> None:
        super().__init__(name)
        self._folder = folder
        self._layout = layout
        self._kind = kind
        self._value_field = value_field
        self._places: dict[str, str] = {}  # id -> path within the folder

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        found = await asyncio.to_thread(self._find, secret_id)
        if version not in (None, found.entry.version):
            raise self._unknown(secret_id)
        if isinstance(found.value, Refusal):
            raise found.value
        return found.value

    async def entry(self, secret_id: str) -> SecretEntry:
        return (await asyncio.to_thread(self._find, secret_id)).entry

    async def entries(self) -> list[SecretEntry]:
        found = await asyncio.to_thread(self._all)
        return sorted((one.entry for one in found), key=lambda entry: (entry.address, entry.id))

    async def find(self, value: Secret) -> SecretEntry | None:
        found = await asyncio.to_thread(self._all)
        return next((one.entry for one in found if one.value == value), None)

    # ---- off the loop

    def _generation(self) -> Path:
        """The folder that holds the files of one moment. A link that leads nowhere is being swapped: look again."""
        link, why = self._folder / "..data", ""
        for _ in range(_TRIES):
            try:
                return (link if link.is_symlink() else self._folder).resolve(strict=True)
            except OSError as error:
                why = error.strerror or type(error).__name__
            if not link.is_symlink():
                break
        message = f"The folder of the secret store {self.name} cannot be read: {why}"
        raise Refusal("secrets_unavailable", message, "See that it is mounted")

    def _steady(self, read: Callable[[Path], T]) -> T:
        """What `read` finds in one generation: done again when it was swapped meanwhile, and perhaps cleared away.

        Without this a value could be seen without the tags that bind it.
        """
        for _ in range(_TRIES):
            root = self._generation()
            found = read(root)
            if self._generation() == root:
                return found
        message = f"The folder of the secret store {self.name} changes faster than it can be read"
        raise Refusal("secrets_unavailable", message, "See what writes there")

    def _all(self) -> list[_Found]:
        def read(root: Path) -> dict[str, _Found]:
            found = {place: self._read(root, place) for place in _places(root, self._layout)}
            return {place: one for place, one in found.items() if one is not None}

        found = self._steady(read)
        self._places = {one.entry.id: place for place, one in found.items()}
        return list(found.values())

    def _find(self, secret_id: str) -> _Found:
        for look_again in (False, True):
            if look_again or secret_id not in self._places:
                self._all()
            place = self._places.get(secret_id)
            found = None if place is None else self._steady(partial(self._read, place=place))
            if found is not None:
                return found
        raise self._unknown(secret_id)

    def _read(self, root: Path, place: str) -> _Found | None:
        """A file's entry and value; None when it is gone, or lies outside the folder."""
        file = root / place
        raw = _content(file, self._folder.resolve())
        if raw is None:
            return None
        data, changed = raw
        tags, value, fault = self._parted(file, place, data)
        address, tags, misfit = self._layout.read(place, tags)
        version = changed // _MS
        entry = SecretEntry(
            id=derived_id(self.name, place),
            address=address,
            tags=tags,
            version=version,
            versions=(SecretVersion(version=version, state="current", created_at=changed),),
            created_at=changed,
            updated_at=changed,
            store=self.name,
            fault=fault or misfit,
        )
        return _Found(entry, value)

    def _parted(
        self, file: Path, place: str, data: "_Bytes"
    ) -> tuple[dict[str, object] | dict[str, str], Secret | Refusal, str]:
        """Fields beside the value, the value (or why it is none), and the word of what is wrong."""
        fields: Mapping[str, object] = {}
        raw: object = data.text
        fault = ""
        if self._kind == "json":
            whole = _object(data.raw)
            raw = None if whole is None else whole.pop(self._value_field, None)
            fields = whole or {}
        else:
            beside = _content(file.with_name(file.name + _TAGS), self._folder.resolve())
            told = {} if beside is None else _object(beside[0].raw)
            fields, fault = (told, "") if told is not None else ({}, "invalid_tags")
        try:
            return dict(fields), found_value(raw, f"{place} in {self.name}"), fault
        except Refusal as refusal:
            return dict(fields), refusal, refusal.word


class _Bytes:
    """A file's content, out of a repr's reach."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @property
    def text(self) -> str | None:
        try:
            return self.raw.decode()
        except UnicodeDecodeError:
            return None


def _places(root: Path, layout: Layout) -> Iterator[str]:
    """Files of the layout, hidden ones and tags left out."""
    seen = 0
    for folder, folders, names in os.walk(root, onerror=None):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            seen += 1
            if name.startswith(".") or name.endswith(_TAGS) or seen > _MOST_FILES:
                continue
            place = os.path.relpath(os.path.join(folder, name), root)  # noqa: PTH118 - os.walk speaks in texts
            if layout.parts_of(place) is not None:
                yield place


def _content(file: Path, within: Path) -> tuple[_Bytes, int] | None:
    """(content, instant of the last change in ns); None when it is not there, no file, or a link that leads out."""
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(within):
            return None
        with real.open("rb") as opened:
            data = opened.read(_MOST_BYTES)
            return _Bytes(data), os.fstat(opened.fileno()).st_ctime_ns
    except OSError:
        return None


def _object(raw: bytes) -> dict[str, object] | None:
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
