"""What kinds alone cannot say: faults within one text and between fields. Opens nothing."""

import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from bursar.config import Config, Provider, Sink, Store, Transit
from bursar.config.batches import batches_faults
from bursar.config.ids import ids_faults
from bursar.config.login import login_faults
from bursar.config.observe import observe_faults
from bursar.config.secret_stores import secrets_faults
from bursar.config.store_url import faults_of_url
from bursar.core.networks import read_network
from bursar.core.strict import Fault

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_REDIS = re.compile(r"rediss?(\+sentinel)?://[^/]", re.ASCII)
_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key", "proxy-authorization", "cookie", "x-goog-api-key"})
_FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "accept-encoding"}
)


def check(config: Config) -> list[Fault]:
    """Every fault between fields, in the order of the tree."""
    return [fault for rule in _RULES for fault in rule(config)]


def check_files(config: Config) -> list[Fault]:
    """Files that the settings name and that must exist before a start. Apart from `load`: a check may run elsewhere."""
    named = []
    if config.listen.data.tls:
        pem = "give the path of a PEM file"
        named += [("listen.data.tls.cert", config.listen.data.tls.cert, pem)]
        named += [("listen.data.tls.key", config.listen.data.tls.key, pem)]
    if config.store.kind == "postgres" and config.store.url_file:
        named += [("store.url_file", config.store.url_file, "give the path of a file that holds the URL alone")]
    if config.rates.kind == "redis" and config.rates.url_file:
        named += [("rates.url_file", config.rates.url_file, "give the path of a file that holds the URL alone")]
    if config.rates.kind == "redis" and config.rates.ca_file:
        named += [("rates.ca_file", config.rates.ca_file, "give the path of a PEM file")]
    for index, sink in enumerate(config.audit.sinks):
        files = {"ca": sink.ca, "cert": sink.cert, "key": sink.key, "secret_file": sink.secret_file}
        there = "give the path of a file that exists"
        named += [(f"audit.sinks[{index}].{field}", name, there) for field, name in files.items() if name]
    oidc = config.admin.oidc
    if oidc and oidc.client_secret_file:
        named += [("admin.oidc.client_secret_file", oidc.client_secret_file, "give the path of a file that exists")]
    for name, vault in config.secrets.vault.items():
        if vault.ca_file:
            named += [(f"secrets.vault.{name}.ca_file", vault.ca_file, "give the path of a PEM bundle")]
    return [
        Fault(path, "no_such_file", f"there is no file {name}", hint)
        for path, name, hint in named
        if not Path(name).is_file()
    ]


def _ports(config: Config) -> Iterator[Fault]:
    taken: dict[int, str] = {}
    listen = config.listen
    for name, host, port in (
        ("data", listen.data.host, listen.data.port),
        ("admin", listen.admin.host, listen.admin.port),
        ("metrics", listen.metrics.host, listen.metrics.port),
    ):
        if port and port in taken:
            yield Fault(
                f"listen.{name}.port", "bad_value", f"{port} is also the port of listen.{taken[port]}", "choose another"
            )
        taken[port] = name
        if not host:
            yield Fault(f"listen.{name}.host", "bad_value", "is empty", "write 127.0.0.1, or 0.0.0.0 for all addresses")


def _spans(config: Config) -> Iterator[Fault]:
    for name in ("head_timeout", "body_timeout", "idle_timeout"):
        if not getattr(config.wire, name) > 0:
            yield Fault(f"wire.{name}", "bad_value", "must be above zero", "write for example 10s")
    if config.wire.max_body > config.wire.max_bytes_in_flight:
        yield Fault(
            "wire.max_body", "bad_value", "is larger than wire.max_bytes_in_flight", "no such body could be read"
        )


def _node(config: Config) -> Iterator[Fault]:
    if not _NAME.fullmatch(config.node):
        yield Fault("node", "bad_value", "is not a name", "use a-z, 0-9, `.`, `_` and `-`")
    if not config.data:
        yield Fault("data", "bad_value", "is empty", "name the folder in which Bursar keeps its state")


def _store(config: Config) -> Iterator[Fault]:
    store = config.store
    if store.kind == "embedded":
        for name in ("url", "url_file"):
            if getattr(store, name):
                yield Fault(f"store.{name}", "bad_value", "has no meaning with kind: embedded", "write kind: postgres")
        return
    yield from _store_url(store)
    if not _SCHEMA.fullmatch(store.schema):
        yield Fault("store.schema", "bad_value", "is not a plain name", "use a-z, 0-9 and `_`, beginning with a letter")
    for name in ("connect_timeout", "statement_timeout"):
        if not getattr(store, name) > 0:
            yield Fault(f"store.{name}", "bad_value", "must be above zero", "write for example 5s")


def _store_url(store: Store) -> Iterator[Fault]:
    if store.url and store.url_file:
        yield Fault("store.url_file", "bad_value", "is a second place for the URL", "keep one of url and url_file")
    if store.url:
        for message, hint in faults_of_url(store.url, may_hold_password=False):
            yield Fault("store.url", "bad_value", message, hint)
    elif not store.url_file and not _VARIABLE.fullmatch(store.url_env):
        yield Fault("store.url_env", "bad_value", "is not the name of a variable", "write for example BURSAR_STORE_URL")


def _rates(config: Config) -> Iterator[Fault]:
    rates = config.rates
    if rates.kind == "memory":
        for name in ("url", "url_file", "ca_file"):
            if getattr(rates, name):
                yield Fault(f"rates.{name}", "bad_value", "has no meaning with kind: memory", "write kind: redis")
        return
    if rates.url and rates.url_file:
        yield Fault("rates.url_file", "bad_value", "is a second place for the URL", "keep one of url and url_file")
    if rates.url and not _REDIS.match(rates.url):
        yield Fault("rates.url", "bad_value", "is not a URL of Redis", "write rediss://HOST:6379/0")
    elif ":" in rates.url.partition("//")[2].rpartition("@")[0] or "?" in rates.url:
        yield Fault("rates.url", "bad_value", "holds a password", "take it out, or give the URL by url_file or url_env")
    elif not rates.url and not rates.url_file and not _VARIABLE.fullmatch(rates.url_env):
        yield Fault("rates.url_env", "bad_value", "is not the name of a variable", "write for example BURSAR_RATES_URL")
    if not _NAME.fullmatch(rates.prefix):
        yield Fault("rates.prefix", "bad_value", "is not a name", "use a-z, 0-9, `.`, `_` and `-`")
    if not 0.01 <= rates.wait <= 0.25:
        yield Fault("rates.wait", "bad_value", "is not between 10ms and 250ms", "no call waits longer for its rates")


def _wrappers(config: Config) -> Iterator[Fault]:
    places = {"wrapper": config.wrapper}
    places |= {f"former_wrappers[{number}]": wrapper for number, wrapper in enumerate(config.former_wrappers)}
    for path, wrapper in places.items():
        if wrapper.kind != "keyfile" and wrapper.path:
            said = f"has no meaning with a {wrapper.kind}"
            yield Fault(f"{path}.path", "bad_value", said, "remove it, or use kind: keyfile")
        if wrapper.kind == "awskms" and (wrapper.awskms is None or not wrapper.awskms.key):
            yield Fault(f"{path}.awskms", "missing", "names no key", "write awskms: {key: alias/bursar}")
        if wrapper.kind == "transit":
            yield from _transit(f"{path}.transit", wrapper.transit)


def _transit(path: str, transit: Transit | None) -> Iterator[Fault]:
    if transit is None:
        yield Fault(path, "missing", "is not there", "write transit: {url: https://vault.example:8200, key: bursar}")
        return
    url = urlsplit(transit.url)
    if url.scheme not in {"http", "https"} or not url.hostname or url.username or url.query:
        yield Fault(f"{path}.url", "bad_value", "is no address of Vault", "write https://vault.example:8200")
    if not transit.key or not transit.mount:
        yield Fault(f"{path}.key", "bad_value", "names no key", "write mount: transit and key: bursar")
    if transit.login != "token" and not transit.role:
        yield Fault(f"{path}.role", "missing", f"is needed for a login by {transit.login}", "name the role")


def _providers(config: Config) -> Iterator[Fault]:
    for name, provider in config.providers.items():
        path = f"providers.{name}"
        if not _NAME.fullmatch(name):
            yield Fault(path, "bad_value", "is not a name for a provider", "use a-z, 0-9, `.`, `_` and `-`")
        if provider.enabled:
            yield from _base_url(path, provider)
            yield from _headers(path, provider)
            yield from _served(path, provider)


def _base_url(path: str, provider: Provider) -> Iterator[Fault]:
    where = f"{path}.base_url"
    try:
        url = urlsplit(provider.base_url)
        port_is_fine = url.port is None or url.port > 0
    except ValueError:
        port_is_fine = False
    if not port_is_fine or url.scheme not in {"http", "https"} or not url.hostname:
        yield Fault(where, "bad_value", "is not an http(s) address", "write for example https://api.openai.com/v1")
        return
    if url.username or url.password:
        yield Fault(where, "bad_value", "holds a credential", "remove it; store the key with `bursar secrets put`")
    if url.query or url.fragment:
        yield Fault(where, "bad_value", "has a query or a fragment", "end it with the path")
    if provider.allow_private:
        return
    if url.scheme == "http":
        yield Fault(where, "bad_value", "would send the provider key in clear", "use https, or set allow_private: true")
    if _is_private(url):
        yield Fault(where, "bad_value", "lies in a private network", "set allow_private: true if that is meant")


def _is_private(url: SplitResult) -> bool:
    host = url.hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".internal", ".local"))


def _headers(path: str, provider: Provider) -> Iterator[Fault]:
    for name, value in provider.headers.items():
        where = f"{path}.headers.{name}"
        if name.lower() in _CREDENTIALS:
            yield Fault(where, "bad_value", "is a credential", "store the key with `bursar secrets put` instead")
        elif name.lower() in _FRAMING or not _HEADER.fullmatch(name):
            yield Fault(where, "bad_value", "cannot be set", "remove it")
        elif not value.isprintable():
            yield Fault(where, "bad_value", "has a character that no header may hold", "write it on one line")


def _served(path: str, provider: Provider) -> Iterator[Fault]:
    if not provider.models and not provider.deployments:
        yield Fault(f"{path}.models", "missing", "names no model", 'write models: ["*"] to serve any')
    for index, pattern in enumerate(provider.models):
        if not pattern or any(c.isspace() for c in pattern):
            yield Fault(f"{path}.models[{index}]", "bad_value", "is not a model name or glob", 'write "gpt-4o*"')


def _audit(config: Config) -> Iterator[Fault]:
    """The sinks of the audit: names differ, addresses are of the right kind, a credential where one is needed."""
    seen: set[str] = set()
    for index, sink in enumerate(config.audit.sinks):
        path = f"audit.sinks[{index}]"
        if not _NAME.fullmatch(sink.name) or sink.name in seen:
            yield Fault(f"{path}.name", "bad_value", "is not a name, or taken", "use a-z, 0-9, `.`, `_` and `-`")
        seen.add(sink.name)
        if not sink.timeout > 0:
            yield Fault(f"{path}.timeout", "bad_value", "must be above zero", "write for example 5s")
        if sink.secret_env and sink.secret_file:
            yield Fault(f"{path}.secret_file", "bad_value", "stands beside secret_env", "keep one of the two")
        if bool(sink.cert) != bool(sink.key):
            yield Fault(f"{path}.cert", "bad_value", "certificate and key go together", "give both or neither")
        yield from _syslog_sink(path, sink) if sink.kind == "syslog" else _http_sink(path, sink)


def _syslog_sink(path: str, sink: Sink) -> Iterator[Fault]:
    try:
        url = urlsplit(sink.url)
        fits = url.scheme in {"tcp", "tls"} and bool(url.hostname) and bool(url.port) and url.path in {"", "/"}
    except ValueError:
        fits = False
    if not fits:
        yield Fault(f"{path}.url", "bad_value", "is no address of a syslog receiver", "write tls://siem.example:6514")
    elif url.scheme == "tcp" and (sink.ca or sink.cert):
        yield Fault(f"{path}.url", "bad_value", "has certificates and no TLS", "write tls://")
    if sink.secret_env or sink.secret_file:
        yield Fault(f"{path}.secret_env", "bad_value", "has no meaning for syslog", "use cert and key with tls://")


def _http_sink(path: str, sink: Sink) -> Iterator[Fault]:
    twin = Provider(dialect="openai", base_url=sink.url.partition("?")[0], allow_private=sink.allow_private)
    for fault in _base_url(path, twin):
        hint = fault.hint.replace("https://api.openai.com/v1", "https://siem.example/audit")
        hint = hint.replace("store the key with `bursar secrets put`", "use secret_env or secret_file")
        message = fault.message.replace("the provider key", "the audit")
        yield msgspec.structs.replace(fault, path=f"{path}.url", message=message, hint=hint)
    if sink.format != "rfc5424":
        yield Fault(f"{path}.format", "bad_value", "has a meaning for syslog only", "remove it")
    if sink.cert:
        yield Fault(f"{path}.cert", "bad_value", "has a meaning for syslog only", "remove it")
    if sink.kind == "webhook" and not (sink.secret_env or sink.secret_file):
        yield Fault(f"{path}.secret_env", "missing", "a webhook is signed", "name the variable that holds its key")


def _tokens(config: Config) -> Iterator[Fault]:
    for index, block in enumerate(config.listen.data.proxies):
        try:
            read_network(block)
        except ValueError:
            yield Fault(f"listen.data.proxies[{index}]", "bad_value", "is no CIDR block", "write 10.0.0.0/8")
    if not _HEADER.fullmatch(config.listen.data.forwarded_header):
        yield Fault("listen.data.forwarded_header", "bad_value", "is no header name", "write x-forwarded-for")
    issuer, tokens = config.tokens.issuer, config.tokens
    url = urlsplit(issuer)
    if issuer and (
        url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment or url.username
    ):
        yield Fault("tokens.issuer", "bad_value", "is not an http(s) address", "write https://bursar.example.org")
    if issuer.endswith("/"):
        yield Fault("tokens.issuer", "bad_value", "ends with a slash", "leave it out: `iss` is compared exactly")
    if not 60 <= tokens.life <= 3600:
        yield Fault("tokens.life", "bad_value", "is not between 1m and 1h", "write 15m")
    if tokens.rotate_every < 3600:
        yield Fault("tokens.rotate_every", "bad_value", "is shorter than a token may live", "write 30d")


_RULES: tuple[Callable[[Config], Iterator[Fault]], ...] = (
    _node,
    _ports,
    _spans,
    _store,
    _rates,
    _wrappers,
    secrets_faults,
    _providers,
    _audit,
    _tokens,
    login_faults,
    lambda config: ids_faults(config.ids),
    lambda config: batches_faults(config.batches),
    lambda config: observe_faults(config.observe),
)
