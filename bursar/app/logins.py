"""Builds the door of the admin API from the settings, and the login of people where there is one."""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import NamedTuple

from bursar.app.fetching import Fetcher
from bursar.config import AdminListener, Config, Oidc
from bursar.config.login import redirect_url_of
from bursar.control.admin_login import Logins, LoginTerms
from bursar.control.admin_sessions import Recorder, Sessions
from bursar.control.admins import Admins
from bursar.control.issuer_keys import IssuerKeys
from bursar.control.oidc_provider import OidcProvider
from bursar.core.directory import TrustRule
from bursar.core.errors import Refusal
from bursar.core.roles import Caller
from bursar.core.secret import Secret
from bursar.faces.admin_door import LOOPBACK_NAMES, Door
from bursar.ports import Clock, Entropy


class Login(NamedTuple):
    """The sessions of people, and the way into them; None = nobody logs in."""

    sessions: Sessions
    logins: Logins | None


def build_door(
    listen: AdminListener,
    token: Secret,
    clock: Clock,
    admins: Admins,
    sessions: Sessions,
    tell: Callable[[int, str], Awaitable[None]],
) -> Door:
    """A listener on all addresses answers to any name."""

    def recognise(text: str) -> Caller | None:
        return admins.recognise(text) or sessions.recognise(text)

    hosts = None if listen.host not in ("127.0.0.1", "::1", "localhost") else {*LOOPBACK_NAMES, *listen.hosts}
    return Door(token, clock, hosts, recognise=recognise, tell=tell)


def build_logins(
    config: Config,
    env: MutableMapping[str, str],
    audit: Recorder,
    fetch: Fetcher,
    clock: Clock,
    entropy: Entropy,
    pepper: bytes,
) -> Login:
    """The client's secret is taken out of `env`.

    Raises Refusal(login_off) when the secret that the settings name cannot be had.
    """
    sessions = Sessions(audit, clock, entropy, pepper)
    oidc = config.admin.oidc
    if oidc is None:
        return Login(sessions, None)
    rule = TrustRule(
        id="login",
        team_id="",
        issuer=oidc.issuer,
        audience=oidc.client_id,
        match={},
        algorithms=oidc.algorithms,
        allow_private=oidc.allow_private,
    )
    terms = LoginTerms(
        redirect_url=redirect_url_of(config),
        scopes=oidc.scopes,
        claim=oidc.claim,
        roles=oidc.roles,
        session_s=oidc.session,
    )
    provider = OidcProvider(rule, _secret(oidc, env), IssuerKeys(fetch, clock), fetch, fetch.post, clock)
    return Login(sessions, Logins(terms, provider, sessions, audit, clock, entropy))


def _secret(oidc: Oidc, env: MutableMapping[str, str]) -> Secret | None:
    found = ""
    if oidc.client_secret_env:
        found = env.pop(oidc.client_secret_env, "").strip()
        if not found:
            raise _unfit(f"{oidc.client_secret_env} is not set", "Set the variable, or name a client_secret_file")
    elif oidc.client_secret_file:
        try:
            found = Path(oidc.client_secret_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problem = f"{oidc.client_secret_file} cannot be read: {type(error).__name__}"
            raise _unfit(problem, "Correct it") from None
        if not found:
            raise _unfit(f"{oidc.client_secret_file} is empty", "Write the client's secret into it")
    return Secret(found) if found else None


def _unfit(problem: str, hint: str) -> Refusal:
    return Refusal("login_off", f"admin.oidc: {problem}", hint)
