"""Control's short calls to the operator's own systems, on the wire's client (`bursar.ports.Web`)."""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.secret import Secret
from bursar.ports import WebAnswer
from bursar.wire.client import Client, ClientConfig
from bursar.wire.dial import Origin, Proxy, Timeouts

_MOST_BYTES = 4 * 2**20


class WireWeb:
    """`ca_file`: PEM bundle instead of certifi's. The systems of an operator may lie in private networks."""

    def __init__(self, ca_file: str = "", proxy: str | None = None, no_proxy: str = "") -> None:
        config = ClientConfig(ca_file=ca_file or None, proxy=proxy, no_proxy=no_proxy, max_idle_per_origin=8)
        self._client = Client(config)

    async def call(
        self, method: str, url: str, headers: Sequence[tuple[str, str | Secret]], body: bytes | Secret, seconds: float
    ) -> WebAnswer:
        """One request and its whole answer. Raises UpstreamFault."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UpstreamFault("address", "not an http(s) address", sent=False)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(seconds):  # the client's own deadlines are coarse: made for long answers
                response = await self._client.request(
                    Origin(parts.scheme, parts.hostname, port, allow_private=True),
                    method,
                    (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
                    [(name, value.reveal() if isinstance(value, Secret) else value) for name, value in headers],
                    body.reveal().encode() if isinstance(body, Secret) else body,
                    Timeouts(connect=seconds, write=seconds, first_byte=seconds, body=seconds, total=seconds),
                )
                return WebAnswer(response.status, response.headers, await response.read(_MOST_BYTES))
        except TimeoutError:
            raise UpstreamFault("timeout_total", "no whole answer in time", sent=True) from None

    async def close(self) -> None:
        await self._client.close()


def check_proxy(proxy: str) -> None:
    """Raises Refusal(secrets_unavailable): its text may hold a password, so that is all that is told."""
    try:
        Proxy.parse(proxy)
    except ValueError:
        message = "HTTPS_PROXY, by which secret stores are reached, cannot be used"
        raise Refusal("secrets_unavailable", message, "Write http://[user:password@]host:port") from None
