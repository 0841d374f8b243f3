"""What passes in both directions besides the body: header lines, by allow-list. What is not named does not pass.

The caller's credential never goes up, the provider's never comes down, and the provider's rate limits are replaced by
Bursar's own.
"""

import msgspec

from bursar.core.calls import Call, Edits
from bursar.core.secret import Secret
from bursar.gateway.answer import id_lines
from bursar.gateway.flight import Flight
from bursar.gateway.node import Option, Provider
from bursar.ports import Dialect, Exchange, UpstreamResponse

_ID_NAMES = ("request-id", "x-request-id")  # ours goes down under these


def edits_for(option: Option, call: Call, edits: Edits) -> Edits:
    """The policy's edits, fitted to one provider: its name for the model, its quirks.

    What every attempt sets anew is changed in place; what a quirk changes must not follow to the next provider.
    """
    quirks = option.provider.quirks
    edits.model = option.upstream_model if option.upstream_model != call.model else None
    edits.include_usage = call.stream and call.dialect == "openai" and "no_stream_options" not in quirks
    if quirks:
        field = _wanted_field(option)
        if field and (edits.max_tokens is not None or call.max_tokens_field not in ("", field)):
            most = call.max_tokens if edits.max_tokens is None else edits.max_tokens
            return msgspec.structs.replace(edits, max_tokens=most, max_tokens_field=field)
    return edits


def _wanted_field(option: Option) -> str:
    if "max_tokens_only" in option.provider.quirks:
        return "max_tokens"
    return "max_completion_tokens" if "max_completion_tokens_only" in option.provider.quirks else ""


def _callers_lines(exchange: Exchange, dialect: Dialect) -> str:
    """What passes of the caller's own headers, by the dialect's allow-list."""
    lines = exchange.memo.get(dialect.name)
    if not isinstance(lines, str):
        allowed = dialect.upstream.request_headers
        lines = "".join([f"{name}: {text}\r\n" for name, text in exchange.headers.items() if name in allowed])
        exchange.memo[dialect.name] = lines
    return lines


def upstream_headers(
    provider: Provider, exchange: Exchange | None, value: Secret | None, media_type: str = ""
) -> bytes:
    """The lines to send up; without an exchange those of a request of our own. `media_type`: of a body that is no JSON.

    This file is the one place of the data path where a provider key is opened.
    """
    facts = provider.dialect.upstream
    lines = "" if exchange is None else _callers_lines(exchange, provider.dialect)
    for name, text in facts.fixed_headers:
        if not provider.headers or all(name != own for own, _ in provider.headers):
            lines += f"{name}: {media_type if media_type and name == 'content-type' else text}\r\n"
    for name, text in provider.headers:
        lines += f"{name}: {text}\r\n"
    if value is not None and provider.auth == "bearer":
        lines += f"authorization: Bearer {value.reveal()}\r\n"
    elif value is not None:
        lines += f"{provider.auth}: {value.reveal()}\r\n"
    return lines.encode("latin-1")


def without_key(body: bytes, value: Secret | None) -> bytes:
    """An upstream's error without the provider key: some servers show the request's headers when they fail."""
    return body if value is None else body.replace(value.reveal().encode("latin-1"), b"[provider key]")


def answer_headers(flight: Flight, provider: Provider, response: UpstreamResponse) -> bytes:
    """The lines to send down: the provider's that may pass, our id, what policy did, how the limits stand."""
    allowed = provider.dialect.upstream.response_headers
    lines = ""
    for name, text in response.headers.items():
        if name in allowed and name not in _ID_NAMES:
            lines += f"{name}: {text}\r\n"
    lines += flight.headers + flight.limit_lines + id_lines(flight.dialect, flight.request_id)
    return lines.encode("latin-1")
