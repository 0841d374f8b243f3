"""Faults in the settings of secret stores. Opens nothing."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from bursar.config import AwsStore, Cache, Config, Leased, MountedStore, VaultLogin, VaultStore
from bursar.core.errors import Refusal
from bursar.core.layout import check_template
from bursar.core.provider_keys import ADDRESS_PARTS, EMBEDDED, check_address, check_tags
from bursar.core.strict import Fault, suggest

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/@-]+", re.ASCII)

Pathed = VaultStore | AwsStore | MountedStore


def secrets_faults(config: Config) -> Iterator[Fault]:
    secrets = config.secrets
    if not secrets.refresh > 0:
        yield Fault("secrets.refresh", "bad_value", "must be above zero", "write for example 10s")
    yield from _names(config)
    for name, vault in secrets.vault.items():
        yield from _vault(f"secrets.vault.{name}", vault)
    for name, aws in secrets.aws.items():
        yield from _pathed(f"secrets.aws.{name}", aws)
        yield from _cache(f"secrets.aws.{name}.cache", aws.cache)
        if aws.endpoint:
            yield from _url(f"secrets.aws.{name}.endpoint", aws.endpoint)
    for name, mounted in secrets.mounted.items():
        yield from _pathed(f"secrets.mounted.{name}", mounted)
        if not mounted.folder:
            yield Fault(f"secrets.mounted.{name}.folder", "bad_value", "is empty", "name the mounted directory")
    for name, environment in secrets.environment.items():
        for variable, key in environment.variables.items():
            here = f"secrets.environment.{name}.variables.{variable}"
            if not _VARIABLE.fullmatch(variable):
                yield Fault(here, "bad_value", "is not the name of a variable", "write for example OPENAI_API_KEY")
            yield from _entry(here, key.address, key.tags)


def _names(config: Config) -> Iterator[Fault]:
    secrets = config.secrets
    taken = {EMBEDDED: "the node's own store"}
    for kind in ("vault", "aws", "mounted", "environment"):
        for name in getattr(secrets, kind):
            here = f"secrets.{kind}.{name}"
            if not _NAME.fullmatch(name):
                yield Fault(here, "bad_value", "is not a name for a store", "use a-z, 0-9, `_` and `-`")
            if name in taken:
                yield Fault(here, "bad_value", f"is also the name of {taken[name]}", "choose another")
            taken[name] = here
    if secrets.default not in taken:
        yield Fault("secrets.default", "bad_value", "names no store", suggest(secrets.default, taken))
    elif secrets.default in secrets.mounted or secrets.default in secrets.environment:
        yield Fault("secrets.default", "bad_value", "can only be read", "new entries need a store that can be written")


def _vault(path: str, vault: VaultStore) -> Iterator[Fault]:
    yield from _url(f"{path}.url", vault.url)
    yield from _pathed(path, vault)
    yield from _cache(f"{path}.cache", vault.cache)
    if not _PLAIN_PATH.fullmatch(vault.mount) or vault.mount.strip("/") != vault.mount:
        yield Fault(f"{path}.mount", "bad_value", "is no mount path", "write for example secret")
    if not vault.value_field:
        yield Fault(f"{path}.value_field", "bad_value", "is empty", "name the field that holds the key")
    yield from _login(f"{path}.login", vault.login)
    for index, leased in enumerate(vault.leased):
        yield from _leased(f"{path}.leased[{index}]", leased)


def _login(path: str, login: VaultLogin) -> Iterator[Fault]:
    if login.method != "token" and not login.role:
        what = "role id" if login.method == "approle" else "role"
        yield Fault(f"{path}.role", "missing", "is required", f"give the {what} of this node")
    if login.method == "token" and (login.role or login.mount):
        yield Fault(f"{path}.method", "bad_value", "a token has neither role nor mount", "write method: approle, ...")
    if login.wrapped and login.method not in ("token", "approle"):
        yield Fault(f"{path}.wrapped", "bad_value", "a JWT does not come wrapped", "remove it")
    if not login.file and not _VARIABLE.fullmatch(login.env):
        yield Fault(f"{path}.env", "bad_value", "is not the name of a variable", "write for example VAULT_TOKEN")


def _leased(path: str, leased: Leased) -> Iterator[Fault]:
    if not _PLAIN_PATH.fullmatch(leased.path):
        yield Fault(f"{path}.path", "bad_value", "is no path", "write for example openai/creds/inference")
    yield from _entry(path, leased.address, leased.tags)


def _entry(path: str, address: str, tags: dict[str, str]) -> Iterator[Fault]:
    try:
        check_address(address)
    except Refusal as refusal:
        yield Fault(f"{path}.address", "bad_value", refusal.message, refusal.hint)
    yield from _tags(f"{path}.tags", tags)


def _pathed(path: str, store: Pathed) -> Iterator[Fault]:
    if wrong := check_template(store.path, writable=not isinstance(store, MountedStore)):
        yield Fault(f"{path}.path", "bad_value", wrong, "write for example bursar/{provider}/{team}")
    for name, part in store.address.items():
        if name not in ADDRESS_PARTS:
            yield Fault(f"{path}.address.{name}", "unknown_key", "is no part of an address", ", ".join(ADDRESS_PARTS))
        elif "{" + name + "}" in store.path:
            yield Fault(f"{path}.address.{name}", "bad_value", "is given by the path already", "keep one of them")
        elif not part:
            yield Fault(f"{path}.address.{name}", "bad_value", "is empty", "write * where it does not narrow")
    yield from _tags(f"{path}.tags", store.tags)


def _tags(path: str, tags: dict[str, str]) -> Iterator[Fault]:
    try:
        check_tags(tags)
    except Refusal as refusal:
        yield Fault(path, "bad_value", refusal.message, refusal.hint)


def _cache(path: str, cache: Cache) -> Iterator[Fault]:
    if cache.negative_ttl > cache.ttl:
        yield Fault(f"{path}.negative_ttl", "bad_value", "is longer than ttl", "refusals should be forgotten sooner")


def _url(path: str, text: str) -> Iterator[Fault]:
    try:
        url = urlsplit(text)
        fine = (url.port is None or url.port > 0) and url.scheme in ("http", "https") and bool(url.hostname)
    except ValueError:
        fine = False
        url = urlsplit("")
    if not fine:
        yield Fault(path, "bad_value", "is not an http(s) address", "write for example https://vault.example.com:8200")
        return
    if url.username or url.password or url.query or url.fragment:
        yield Fault(path, "bad_value", "holds more than an address", "remove user, password, query and fragment")
    if url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield Fault(path, "bad_value", "would send secrets in clear", "use https; http goes to this machine only")
