"""From configured providers to ones the gateway can call: dialects, addresses, deadlines, and the wire's client."""

from collections.abc import Coroutine
from urllib.parse import urlsplit

import msgspec

from bursar import config
from bursar.core.calls import DialectName
from bursar.gateway.node import Provider
from bursar.ports import Dialect, UpstreamResponse
from bursar.wire.client import Client, Origin, Timeouts

# The built-in openai provider's base URL ends in /v1, anthropic's does not: as their own SDKs have it.
_EMULATOR_PATHS: dict[DialectName, str] = {"openai": "/v1", "anthropic": ""}


class Door(msgspec.Struct, frozen=True):
    """The wire's address of a provider."""

    origin: Origin
    timeouts: Timeouts


class Upstreams:
    """`bursar.gateway.node.Upstream` on the wire's client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def request(
        self, provider: Provider, route: str, headers: bytes, body: bytes
    ) -> Coroutine[None, None, UpstreamResponse]:
        door = provider.door
        assert isinstance(door, Door)
        return self._client.request(door.origin, "POST", provider.targets[route], headers, body, door.timeouts)

    def ask(
        self, provider: Provider, method: str, target: str, headers: bytes, body: bytes
    ) -> Coroutine[None, None, UpstreamResponse]:
        door = provider.door
        assert isinstance(door, Door)
        return self._client.request(door.origin, method, target, headers, body, door.timeouts)


def build_providers(settings: config.Config, dialects: dict[DialectName, Dialect], emulator_url: str) -> list[Provider]:
    """Every enabled provider, each with its twin at the emulator, which only the emulator's own keys can reach."""
    return [
        _build(name, provider, dialects[provider.dialect], emulator_url)
        for name, provider in settings.providers.items()
        if provider.enabled
    ]


def _build(name: str, provider: config.Provider, dialect: Dialect, emulator_url: str) -> Provider:
    headers = tuple((field.lower(), value) for field, value in provider.headers.items())
    real = _at(name, provider, dialect, provider.base_url, allow_private=provider.allow_private)
    twin = None
    if emulator_url:
        base_url = emulator_url + _EMULATOR_PATHS[provider.dialect]
        twin = _at(name, provider, dialect, base_url, allow_private=True)
    return msgspec.structs.replace(real, headers=headers, twin=twin)


def _at(name: str, provider: config.Provider, dialect: Dialect, base_url: str, *, allow_private: bool) -> Provider:
    url = urlsplit(base_url)
    assert url.hostname is not None  # checked with the configuration
    port = url.port or (443 if url.scheme == "https" else 80)
    deadlines = provider.timeouts
    timeouts = Timeouts(
        connect=deadlines.connect,
        first_byte=deadlines.head,
        body=deadlines.first_byte,
        between_bytes=deadlines.between_bytes,
        total=deadlines.total,
    )
    return Provider(
        name=name,
        dialect=dialect,
        door=Door(Origin(url.scheme, url.hostname, port, allow_private), timeouts),
        targets={route: url.path.rstrip("/") + path for route, path in dialect.upstream.paths.items()},
        auth=provider.auth,
        quirks=frozenset(provider.quirks),
        models=provider.models,
        prices=provider.prices or name,
        deployments=provider.deployments,
    )
