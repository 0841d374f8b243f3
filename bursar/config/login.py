"""Faults in the settings of the login of people. Opens nothing."""

import re
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from bursar.config import Config, Oidc
from bursar.core.strict import Fault

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+", re.ASCII)  # RFC 6749 §3.3
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ASYMMETRIC = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
)
CALLBACK = "/login/callback"


def redirect_url_of(config: Config) -> str:
    """Where the issuer sends browsers back to: as configured, else the admin listener's own address."""
    assert config.admin.oidc is not None
    if config.admin.oidc.redirect_url:
        return config.admin.oidc.redirect_url
    listen = config.listen.admin
    host = "127.0.0.1" if listen.host in ("0.0.0.0", "::") else listen.host  # noqa: S104 - named, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{listen.port}{CALLBACK}"


def login_faults(config: Config) -> Iterator[Fault]:
    oidc = config.admin.oidc
    if oidc is None:
        return
    yield from _issuer(oidc, http_loopback=config.tokens.http_loopback)
    yield from _client(oidc)
    yield from _redirect(config)
    yield from _mapping(oidc)
    if not 60 <= oidc.session <= 30 * 86_400:
        yield Fault("admin.oidc.session", "bad_value", "is not between 1m and 30d", "write 8h")


def _issuer(oidc: Oidc, *, http_loopback: bool) -> Iterator[Fault]:
    at = "admin.oidc.issuer"
    issuer = _address(oidc.issuer)
    if issuer is None or issuer.query or issuer.fragment:
        yield Fault(at, "bad_value", "is not an https address", "write it as in `iss` of its tokens")
    elif issuer.scheme == "http" and not (issuer.hostname in _LOOPBACK and http_loopback):
        hint = "use https; on this machine also http, with tokens.http_loopback: true"
        yield Fault(at, "bad_value", "would send logins in clear", hint)
    if not oidc.algorithms or not _ASYMMETRIC.issuperset(oidc.algorithms):
        said = "has one that is not taken"
        yield Fault("admin.oidc.algorithms", "bad_value", said, "write [RS256, ES256, EdDSA]")


def _client(oidc: Oidc) -> Iterator[Fault]:
    at = "admin.oidc"
    if not oidc.client_id or not oidc.client_id.isprintable():
        yield Fault(f"{at}.client_id", "bad_value", "is no client id", "write the one that the issuer gave")
    if oidc.client_secret_env and oidc.client_secret_file:
        yield Fault(f"{at}.client_secret_file", "bad_value", "stands beside client_secret_env", "keep one of the two")
    if oidc.client_secret_env and not _VARIABLE.fullmatch(oidc.client_secret_env):
        yield Fault(f"{at}.client_secret_env", "bad_value", "is not the name of a variable", "write OIDC_SECRET")
    if "openid" not in oidc.scopes or not all(_SCOPE.fullmatch(scope) for scope in oidc.scopes):
        yield Fault(f"{at}.scopes", "bad_value", "is without openid, or malformed", "write [openid, profile, email]")


def _mapping(oidc: Oidc) -> Iterator[Fault]:
    if not oidc.claim:
        yield Fault("admin.oidc.claim", "bad_value", "is empty", "name a claim of the ID token: groups")
    if not oidc.roles:
        yield Fault("admin.oidc.roles", "missing", "gives nobody a role", "write roles: {bursar-admins: admin}")


def _redirect(config: Config) -> Iterator[Fault]:
    at = "admin.oidc.redirect_url"
    url = _address(redirect_url_of(config))
    if url is None or url.query or url.fragment or url.path != CALLBACK:
        yield Fault(at, "bad_value", "is no address of the callback", f"write https://bursar.example.org{CALLBACK}")
    elif url.scheme == "http" and url.hostname not in _LOOPBACK:
        yield Fault(at, "bad_value", "would send the issuer's code in clear", "write it with https://")


def _address(text: str) -> SplitResult | None:
    try:
        url = urlsplit(text)
        fine = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and not url.username
    except ValueError:
        return None
    return url if fine else None
