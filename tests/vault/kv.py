"""The KV secrets engine, version 2, as its documentation describes it (and version 1, to be mistaken for it)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.vault.answers import Answer, Ask, VaultError, ok

_WRITE = {"data", "options", "version"}
_SETTINGS = {"max_versions", "cas_required", "delete_version_after", "custom_metadata"}


def stamp(seconds: float) -> str:
    """RFC 3339 with nanoseconds, as Vault prints instants."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


@dataclass
class Version:
    data: dict[str, Any] | None
    created: float
    deleted: float | None = None
    destroyed: bool = False

    def facts(self) -> dict[str, Any]:
        return {
            "created_time": stamp(self.created),
            "deletion_time": "" if self.deleted is None else stamp(self.deleted),
            "destroyed": self.destroyed,
        }


@dataclass
class Key:
    created: float
    updated: float
    versions: dict[int, Version] = field(default_factory=dict)
    current: int = 0
    oldest: int = 0
    max_versions: int = 0
    cas_required: bool = False
    custom: dict[str, str] | None = None


class Kv2:
    kind, version = "kv", "2"

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.keys: dict[str, Key] = {}
        self.max_versions, self.cas_required = 0, False

    def exists(self, path: str) -> bool:
        return path.partition("/")[2] in self.keys

    def handle(self, ask: Ask, path: str) -> Answer:
        part, _, key = path.partition("/")
        routes = {
            ("GET", "data"): self._read,
            ("POST", "data"): self._write,
            ("PATCH", "data"): self._patch,
            ("DELETE", "data"): self._delete_latest,
            ("POST", "delete"): self._delete,
            ("POST", "undelete"): self._undelete,
            ("POST", "destroy"): self._destroy,
            ("LIST", "metadata"): self._list,
            ("GET", "metadata"): self._metadata,
            ("POST", "metadata"): self._set_metadata,
            ("PATCH", "metadata"): self._patch_metadata,
            ("DELETE", "metadata"): self._forget,
            ("GET", "config"): self._config,
            ("POST", "config"): self._set_config,
        }
        route = routes.get((ask.method, part))
        if route is None:
            if part in {"data", "metadata", "delete", "undelete", "destroy", "config"}:
                raise VaultError(405, "unsupported operation")
            warning = (
                "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints"
            )
            return Answer(404, {"errors": [], "warnings": [warning]})
        return route(ask, key)

    # ---- values

    def _read(self, ask: Ask, path: str) -> Answer:
        key = self._key(path)
        number = int(ask.query.get("version", "0")) or key.current
        version = key.versions.get(number)
        if version is None:
            raise VaultError(404)
        metadata = {"version": number, **version.facts(), "custom_metadata": key.custom}
        gone = version.destroyed or (version.deleted is not None and version.deleted <= self._now())
        return ok({"data": None if gone else version.data, "metadata": metadata}, status=404 if gone else 200)

    def _write(self, ask: Ask, path: str) -> Answer:
        if unknown := set(ask.body) - _WRITE:
            raise VaultError(400, f"fields that the documentation does not have: {sorted(unknown)}")
        if not isinstance(ask.body.get("data"), dict):
            raise VaultError(400, "no data provided")
        self._check_and_set(ask.body.get("options") or {}, self.keys.get(path))
        return self._add(path, ask.body["data"])

    def _patch(self, ask: Ask, path: str) -> Answer:
        if ask.media_type != "application/merge-patch+json":
            raise VaultError(415, "PATCH requires Content-Type of application/merge-patch+json")
        key = self._key(path)
        self._check_and_set(ask.body.get("options") or {}, key)
        version = key.versions.get(key.current)
        if version is None or version.data is None or version.deleted is not None:
            raise VaultError(404)
        merged = {**version.data, **ask.body["data"]}
        return self._add(path, {name: value for name, value in merged.items() if value is not None})

    def _check_and_set(self, options: dict[str, Any], key: Key | None) -> None:
        current = key.current if key else 0
        if "cas" in options:
            if int(options["cas"]) != current:
                raise VaultError(400, "check-and-set parameter did not match the current version")
        elif self.cas_required or (key and key.cas_required):
            raise VaultError(400, "check-and-set parameter required for this call")

    def _add(self, path: str, data: dict[str, Any]) -> Answer:
        now = self._now()
        key = self.keys.setdefault(path, Key(now, now))
        key.current += 1
        key.updated = now
        key.versions[key.current] = Version(dict(data), now)
        key.oldest = key.oldest or 1
        for number in sorted(key.versions)[: -(key.max_versions or self.max_versions or 10)]:
            del key.versions[number]
            key.oldest = number + 1
        return ok({"version": key.current, **key.versions[key.current].facts(), "custom_metadata": key.custom})

    # ---- the three ways to be gone

    def _delete_latest(self, ask: Ask, path: str) -> Answer:
        key = self.keys.get(path)
        if key and (version := key.versions.get(key.current)) and version.deleted is None and not version.destroyed:
            version.deleted = self._now()
        return Answer(204)

    def _chosen(self, ask: Ask, path: str) -> list[Version]:
        numbers = ask.body.get("versions")
        if not numbers:
            raise VaultError(400, "no version number provided")
        key = self.keys.get(path)
        return [key.versions[int(n)] for n in numbers if int(n) in key.versions] if key else []

    def _delete(self, ask: Ask, path: str) -> Answer:
        for version in self._chosen(ask, path):
            if version.deleted is None and not version.destroyed:
                version.deleted = self._now()
        return Answer(204)

    def _undelete(self, ask: Ask, path: str) -> Answer:
        for version in self._chosen(ask, path):
            if not version.destroyed:
                version.deleted = None
        return Answer(204)

    def _destroy(self, ask: Ask, path: str) -> Answer:
        for version in self._chosen(ask, path):
            version.destroyed, version.data = True, None
        return Answer(204)

    # ---- metadata

    def _key(self, path: str) -> Key:
        if path not in self.keys:
            raise VaultError(404)
        return self.keys[path]

    def _list(self, ask: Ask, path: str) -> Answer:
        folder = path.rstrip("/") + "/" if path.strip("/") else ""
        below = {name.removeprefix(folder) for name in self.keys if name.startswith(folder)}
        found = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in below})
        if not found:
            raise VaultError(404)
        return ok({"keys": found})

    def _metadata(self, ask: Ask, path: str) -> Answer:
        key = self._key(path)
        return ok(
            {
                "versions": {str(number): version.facts() for number, version in key.versions.items()},
                "current_version": key.current,
                "oldest_version": key.oldest,
                "created_time": stamp(key.created),
                "updated_time": stamp(key.updated),
                "max_versions": key.max_versions,
                "cas_required": key.cas_required,
                "delete_version_after": "0s",
                "custom_metadata": key.custom,
            }
        )

    def _set_metadata(self, ask: Ask, path: str) -> Answer:
        if unknown := set(ask.body) - _SETTINGS:
            raise VaultError(400, f"fields that the documentation does not have: {sorted(unknown)}")
        custom = _checked_custom(ask.body["custom_metadata"]) if "custom_metadata" in ask.body else None
        now = self._now()
        key = self.keys.setdefault(path, Key(now, now))
        key.max_versions = int(ask.body.get("max_versions", key.max_versions))
        key.cas_required = bool(ask.body.get("cas_required", key.cas_required))
        if custom is not None:
            key.custom = custom
        return Answer(204)

    def _patch_metadata(self, ask: Ask, path: str) -> Answer:
        if ask.media_type != "application/merge-patch+json":
            raise VaultError(415, "PATCH requires Content-Type of application/merge-patch+json")
        key = self._key(path)
        given = ask.body.get("custom_metadata") or {}
        _checked_custom({name: value for name, value in given.items() if value is not None})
        merged = {**(key.custom or {}), **given}
        key.custom = {name: value for name, value in merged.items() if value is not None}
        return Answer(204)

    def _forget(self, ask: Ask, path: str) -> Answer:
        self.keys.pop(path, None)
        return Answer(204)

    def _config(self, ask: Ask, path: str) -> Answer:
        return ok({"cas_required": self.cas_required, "max_versions": self.max_versions, "delete_version_after": "0s"})

    def _set_config(self, ask: Ask, path: str) -> Answer:
        self.cas_required = bool(ask.body.get("cas_required", self.cas_required))
        self.max_versions = int(ask.body.get("max_versions", self.max_versions))
        return Answer(204)


def _checked_custom(given: dict[str, Any]) -> dict[str, str]:
    failed = "custom_metadata validation failed"
    if len(given) > 64:
        raise VaultError(400, f"{failed}: payload must contain at most 64 keys, provided {len(given)}")
    for name, value in given.items():
        if not isinstance(value, str):
            raise VaultError(400, f"{failed}: value for key {name!r} is no text")
        if not 0 < len(name.encode()) <= 128 or not 0 < len(value.encode()) <= 512:
            raise VaultError(400, f"{failed}: length of key or value of {name!r}")
        if not name.isprintable() or not value.isprintable():
            raise VaultError(400, f"{failed}: key {name!r} contains unprintable characters")
    return dict(given)


class Kv1:
    """What stands there when somebody forgot `-version=2`."""

    kind, version = "kv", "1"

    def __init__(self) -> None:
        self.data: dict[str, dict[str, Any]] = {}

    def exists(self, path: str) -> bool:
        return path in self.data

    def handle(self, ask: Ask, path: str) -> Answer:
        if ask.method == "POST":
            self.data[path] = ask.body
            return Answer(204)
        if ask.method == "LIST" or path not in self.data:
            raise VaultError(404)
        return ok(self.data[path])
