"""The ring of this node's wrapping keys: by configuration, and by what an existing database was sealed under."""

import importlib
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bursar.app.clock import SystemClock
from bursar.app.places import keyfile_path
from bursar.app.web import WireWeb
from bursar.config import AwsKms, Config, Transit, Wrapper
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.ports import Entropy, KeyWrapper
from bursar.secrets.sealing import WrapperError
from bursar.secrets.vault_api import VaultApi
from bursar.secrets.vault_login import VaultClient, VaultLogin
from bursar.secrets.wrap import keyfile, passphrase, transit


class Ring(NamedTuple):
    """New secrets are sealed under `sealing`; those of `opening` open what was sealed before."""

    sealing: KeyWrapper
    opening: tuple[KeyWrapper, ...]


class Maker(NamedTuple):
    """What is needed to load one wrapping key. `under`: by which keys each sealed value of the database opens."""

    folder: Path
    under: frozenset[tuple[str, ...]]
    env: MutableMapping[str, str]
    entropy: Entropy


async def open_ring(
    config: Config,
    folder: Path,
    env: MutableMapping[str, str],
    entropy: Entropy,
    under: frozenset[tuple[str, ...]],
    besides: Sequence[KeyWrapper] = (),
) -> Ring:
    """`under`: by which keys each sealed value opens. `besides` are openers that are not configured, a recovery key.

    A new key is made only where nothing can be lost by it: at the first start, or where the other keys open every value
    that there is. Raises WrapperError.
    """
    maker = Maker(folder, under, env, entropy)
    former = [await _load(wrapper, maker) for wrapper in config.former_wrappers]
    opening = (*former, *besides)
    others = {wrapper.id for wrapper in opening}
    may_make = all(others.intersection(ids) for ids in maker.under)
    return Ring(await _load(config.wrapper, maker, may_make=may_make), opening)


async def _load(wrapper: Wrapper, maker: Maker, *, may_make: bool = False) -> KeyWrapper:
    if wrapper.kind == "awskms":
        assert wrapper.awskms is not None  # checked with the configuration
        return await _from_kms(wrapper.awskms)
    if wrapper.kind == "transit":
        assert wrapper.transit is not None  # checked with the configuration
        return await _from_transit(wrapper.transit, maker)
    if wrapper.kind == "passphrase":
        return _from_passphrase(wrapper.passphrase_env, maker, may_make=may_make)
    path = keyfile_path(wrapper, maker.folder)
    if may_make and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return keyfile.create(path, maker.entropy)
    return keyfile.load(path, maker.entropy)


def _from_passphrase(variable: str, maker: Maker, *, may_make: bool) -> KeyWrapper:
    given = Secret(maker.env.pop(variable, ""))
    if not given.reveal():
        raise WrapperError("wrapper_lost", f"The passphrase is missing: {variable} is not set", f"Set {variable}")
    wrong: WrapperError | None = None
    for wrapper_id in sorted({name for ids in maker.under for name in ids if name.startswith("passphrase:")}):
        try:
            return passphrase.unlock(given, wrapper_id, maker.entropy)
        except WrapperError as fault:
            wrong = fault
    if may_make:
        return passphrase.create(given, maker.entropy)
    raise wrong or WrapperError("wrapper_lost", "Nothing was sealed under a passphrase", "See: bursar check")


async def _from_transit(settings: Transit, maker: Maker) -> KeyWrapper:
    given = Secret(maker.env.get(settings.credential_env, ""))
    api = VaultApi(WireWeb(settings.ca), "of the wrapping key", settings.url, settings.namespace, settings.timeout)
    login = VaultLogin(
        api,
        SystemClock(),
        lambda: _shown(settings, given),
        method=settings.login,
        mount=settings.login_mount,
        role=settings.role,
    )
    return await transit.connect(VaultClient(api, login), settings.mount, settings.key, maker.entropy)


def _shown(settings: Transit, given: Secret) -> Secret:
    """What the login shows. Raises Refusal(store_login_failed)."""
    if not settings.credential_file:
        if given.reveal():
            return given
        message, hint = f"The variable {settings.credential_env} is not set", "Or name a credential_file"
        raise Refusal("store_login_failed", message, hint)
    try:
        return Secret(Path(settings.credential_file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        message = f"The file {settings.credential_file} cannot be read"
        raise Refusal("store_login_failed", message, "See its path and its mode") from None


async def _from_kms(settings: AwsKms) -> KeyWrapper:
    try:
        module = importlib.import_module("bursar.secrets.wrap.awskms")  # boto3 is an extra, and slow to load
    except ModuleNotFoundError as missing:
        hint = "pip install 'bursar[aws]'"
        raise WrapperError("wrapper_unavailable", f"AWS KMS needs {missing.name}", hint) from None
    made: KeyWrapper = await module.connect(settings.key, settings.region, settings.endpoint, settings.timeout)
    return made
