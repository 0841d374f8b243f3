"""Fetches the documents of outside issuers for control: https, one try, no redirects, bounded in size and time."""

from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from bursar.control.issuer_keys import MAX_DOCUMENT
from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.secret import Secret
from bursar.wire.address import is_loopback
from bursar.wire.client import Client, Origin, Timeouts

_ACCEPT = [("accept", "application/json")]
_TIMEOUTS = Timeouts(connect=3, write=3, first_byte=4, body=4, between_bytes=3, total=6)


class Fetcher:
    """`bursar.control.issuer_keys.Fetch` on the wire's client. `http_loopback`: this machine may do without TLS."""

    def __init__(self, client: Client, *, http_loopback: bool, timeouts: Timeouts = _TIMEOUTS) -> None:
        self._client = client
        self._timeouts = timeouts
        self._http_loopback = http_loopback

    async def __call__(self, url: str, *, private: bool) -> bytes:
        origin, target = self._place(url, private)
        try:
            answer = await self._client.request(origin, "GET", target, _ACCEPT, b"", self._timeouts)
            if answer.status != 200:
                answer.abort()
                raise _unavailable(origin, f"answers {answer.status}")
            return await answer.read(MAX_DOCUMENT)
        except UpstreamFault as fault:
            raise _unavailable(origin, f"cannot be read ({fault.kind})") from None

    async def post(
        self, url: str, form: Mapping[str, Secret | str], authorization: Secret | None, *, private: bool
    ) -> tuple[int, bytes]:
        """`bursar.control.oidc_provider.Post`."""
        origin, target = self._place(url, private)
        headers = [*_ACCEPT, ("content-type", "application/x-www-form-urlencoded")]
        if authorization is not None:
            headers.append(("authorization", authorization.reveal()))
        plain = {name: value.reveal() if isinstance(value, Secret) else value for name, value in form.items()}
        try:
            answer = await self._client.request(
                origin, "POST", target, headers, urlencode(plain).encode(), self._timeouts
            )
            return answer.status, await answer.read(MAX_DOCUMENT)
        except UpstreamFault as fault:
            raise _unavailable(origin, f"cannot be read ({fault.kind})") from None

    def _place(self, url: str, private: bool) -> tuple[Origin, str]:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host = ""
        here = host == "localhost" or is_loopback(host)
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and here and self._http_loopback)):
            hint = "Only https is asked; an issuer on this machine also by http with tokens.http_loopback"
            raise Refusal("subject_keys_unavailable", "The address of the issuer's keys is not https", hint)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        usual = 443 if parts.scheme == "https" else 80
        allowed = private or (here and self._http_loopback)
        return Origin(parts.scheme, host, port or usual, allowed), target


def _unavailable(origin: Origin, problem: str) -> Refusal:
    hint = "See whether its address is right and reachable from here"
    return Refusal("subject_keys_unavailable", f"The issuer at {origin.authority} {problem}", hint, retry_after=30)
