"""Which secret stores this node has: the sealed one, and those of the configuration, each with its cache."""

import asyncio
import contextlib
import importlib
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from bursar.app.places import secret_variables
from bursar.app.web import WireWeb, check_proxy
from bursar.config import AwsStore as AwsSettings
from bursar.config import Cache, Config, VaultLogin
from bursar.config import VaultStore as VaultSettings
from bursar.control.policy_export import Place
from bursar.core.errors import Refusal
from bursar.core.layout import Layout
from bursar.core.secret import Secret
from bursar.ports import Clock, SecretStore
from bursar.secrets.cache import CachedStore, CachePolicy
from bursar.secrets.environment import EnvironmentStore, Variable
from bursar.secrets.mounted import MountedStore
from bursar.secrets.stores import Stores
from bursar.secrets.values import Fingerprint
from bursar.secrets.vault import VaultPlace, VaultStore
from bursar.secrets.vault_api import VaultApi
from bursar.secrets.vault_leases import DynamicSecret, DynamicSecrets
from bursar.secrets.vault_login import VaultClient
from bursar.secrets.vault_login import VaultLogin as Login

_LEAVE_S = 3.0


class Opened(NamedTuple):
    """The stores, and the ways to them, to be closed at the end."""

    stores: Stores
    webs: list[WireWeb]

    async def close(self) -> None:
        """Give back leases and logins, as far as that is quick; they end by themselves as well."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self.stores.close()
        for web in self.webs:
            await web.close()


def policy_places(config: Config) -> dict[str, list[Place]]:
    """Where the stores that have policies of their own keep our entries, for `bursar policy export`."""
    secrets = config.secrets
    return {
        "vault": [Place(n, v.mount, "", Layout(path=v.path, address=v.address)) for n, v in secrets.vault.items()],
        "aws": [Place(n, "", a.region, Layout(path=a.path, address=a.address)) for n, a in secrets.aws.items()],
    }


def open_stores(
    config: Config, own: SecretStore, env: MutableMapping[str, str], clock: Clock, fingerprint: Fingerprint
) -> Opened:
    """`own` is the node's sealed store. Opens no connection. Raises Refusal(not_installed).

    What `env` holds of tokens and keys is taken out of it: nothing else of control needs it.
    """
    secrets, webs = config.secrets, list[WireWeb]()
    stores: list[SecretStore] = [own]
    for name, vault in secrets.vault.items():
        web = WireWeb(vault.ca_file or env.get("SSL_CERT_FILE", ""), *_proxy(env))
        webs.append(web)
        stores.append(_cached(_vault(name, vault, web, env, clock, fingerprint), clock, vault.cache))
    for name, aws in secrets.aws.items():
        stores.append(_cached(_aws(name, aws, fingerprint), clock, aws.cache))
    for name, mounted in secrets.mounted.items():
        layout = Layout(path=mounted.path, address=mounted.address, tags=mounted.tags)
        folder = Path(mounted.folder)
        stores.append(MountedStore(name, folder, layout, kind=mounted.format, value_field=mounted.value_field))
    for name, environment in secrets.environment.items():
        variables = {
            variable: Variable(address=key.address, tags=key.tags) for variable, key in environment.variables.items()
        }
        stores.append(EnvironmentStore(name, variables, env, clock))
    for variable in secret_variables(secrets):
        env.pop(variable, None)
    return Opened(Stores(stores, secrets.default), webs)


def _vault(
    name: str, settings: VaultSettings, web: WireWeb, env: MutableMapping[str, str], clock: Clock, mark: Fingerprint
) -> VaultStore:
    api = VaultApi(web, name, settings.url, settings.namespace, settings.timeout)
    given = settings.login
    login = Login(
        api,
        clock,
        _bootstrap(name, given, env),
        method=given.method,
        mount=given.mount,
        role=given.role,
        wrapped=given.wrapped,
    )
    client = VaultClient(api, login)
    leased = [
        DynamicSecret(path=one.path, address=one.address, field=one.field, tags=one.tags) for one in settings.leased
    ]
    place = VaultPlace(
        mount=settings.mount,
        layout=Layout(path=settings.path, address=settings.address, tags=settings.tags),
        value_field=settings.value_field,
        tags_in=settings.tags_in,
    )
    return VaultStore(client, place, clock, mark, DynamicSecrets(client, leased, clock))


def _bootstrap(store: str, login: VaultLogin, env: MutableMapping[str, str]) -> Callable[[], Secret]:
    """What this node shows to be let in: from a file at each login, or from the environment as it was at the start."""
    if login.file:
        return lambda: _from_file(store, Path(login.file))
    given = Secret(env.get(login.env, "").strip())

    def from_environment() -> Secret:
        if not given.reveal():
            message = f"The variable {login.env}, by which this node logs in to {store}, is not set"
            raise Refusal("store_login_failed", message, "Set it, or name a file")
        return given

    return from_environment


def _from_file(store: str, path: Path) -> Secret:
    hint = "See secrets.vault.*.login.file, and that this user may read it"
    try:
        text = Secret(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        message = f"The file by which this node logs in to {store} cannot be read: {why}"
        raise Refusal("store_login_failed", message, hint) from None
    if not text.reveal():
        raise Refusal("store_login_failed", f"The file by which this node logs in to {store} is empty", hint)
    return text


def _aws(name: str, settings: AwsSettings, mark: Fingerprint) -> SecretStore:
    try:
        module: Any = importlib.import_module("bursar.secrets.aws")  # boto3 is an extra, and slow to load
    except ModuleNotFoundError:
        hint = "pip install 'bursar[aws]'"
        raise Refusal("not_installed", f"The secret store {name} needs what is not installed", hint) from None
    place = module.AwsPlace(
        region=settings.region,
        endpoint=settings.endpoint,
        profile=settings.profile,
        layout=Layout(path=settings.path, address=settings.address, tags=settings.tags),
        value_field=settings.value_field,
        seconds=settings.timeout,
    )
    made: SecretStore = module.AwsStore(name, place, mark)
    return made


def _cached(store: SecretStore, clock: Clock, cache: Cache) -> CachedStore:
    return CachedStore(store, clock, CachePolicy(ttl=cache.ttl, negative_ttl=cache.negative_ttl, stale=cache.stale))


def _proxy(env: MutableMapping[str, str]) -> tuple[str | None, str]:
    proxy = env.get("HTTPS_PROXY") or env.get("https_proxy") or None
    if proxy is not None:
        check_proxy(proxy)
    return proxy, env.get("NO_PROXY") or env.get("no_proxy") or ""
