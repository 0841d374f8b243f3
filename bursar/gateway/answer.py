"""Answers that Bursar itself gives: a refusal in the caller's own dialect, and the headers it adds to every answer.

Header shapes: OpenAI `x-ratelimit-*` (reset as a Go duration), Anthropic `anthropic-ratelimit-*` (reset as RFC 3339),
IETF draft-ietf-httpapi-ratelimit-headers-11 (`RateLimit-Policy`, `RateLimit`; requests only, tokens have no unit
there), `Retry-After` in whole seconds (RFC 9110 §10.2.3).
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from bursar.core.calls import DialectName
from bursar.core.errors import Refusal


class LimitView(NamedTuple):
    """How one limit stands after this call: whole units, seconds until it is full again."""

    name: str  # "requests" | "tokens" | "input-tokens" | "output-tokens"
    limit: int
    remaining: int
    reset: float
    period: int  # seconds the limit is counted over


def refusal_body(refusal: Refusal, dialect: DialectName, request_id: str) -> bytes:
    """The error body the dialect's SDKs parse, with the stable word in `code` and the numbers in `bursar`."""
    text = f"{refusal.message}. {refusal.hint}" if refusal.hint else refusal.message
    detail = {"word": refusal.word, "request_id": request_id, "facts": refusal.facts}
    body: dict[str, object]
    if dialect == "anthropic":
        error = {"type": refusal.rule.anthropic_type, "message": text, "code": refusal.word}
        body = {"type": "error", "error": error, "request_id": request_id, "bursar": detail}
    else:
        error = {"message": text, "type": refusal.rule.openai_type, "param": None, "code": refusal.word}  # type: ignore[dict-item]
        body = {"error": error, "bursar": detail}
    return msgspec.json.encode(body)


def refusal_headers(refusal: Refusal, dialect: DialectName, request_id: str) -> list[tuple[str, str]]:
    """Header fields of a refusal. The SDKs retry 409, 429 and every 5xx unless `x-should-retry` says no."""
    rule = refusal.rule
    fields = [("content-type", "application/json"), ("x-bursar-word", refusal.word)]
    if request_id:
        fields += id_fields(dialect, request_id)
    fields.append(("x-should-retry", "true" if rule.retry else "false"))
    if refusal.retry_after is not None and rule.retry:
        fields.append(("retry-after", str(max(1, math.ceil(refusal.retry_after)))))
    if refusal.word == "method_not_allowed":
        fields.append(("allow", str(refusal.facts["allow"])))
    if rule.status == 401:
        fields.append(("www-authenticate", 'Bearer realm="bursar"'))
    return fields


def header_lines(fields: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in fields)


def id_fields(dialect: DialectName, request_id: str) -> list[tuple[str, str]]:
    """Our id under our own name and under the name the dialect's SDK reads (`_request_id`)."""
    theirs = "request-id" if dialect == "anthropic" else "x-request-id"
    return [("x-bursar-request-id", request_id), (theirs, request_id)]


def limit_headers(dialect: DialectName, views: Sequence[LimitView], now_ns: int) -> str:
    """How the tightest limit of each unit stands, in the caller's dialect and in the IETF's words."""
    if not views:
        return ""
    dialect_lines = _anthropic_limits(views, now_ns) if dialect == "anthropic" else _openai_limits(views)
    return dialect_lines + _ietf_limits(views)


def _openai_limits(views: Sequence[LimitView]) -> str:
    return "".join(
        f"x-ratelimit-limit-{v.name}: {v.limit}\r\nx-ratelimit-remaining-{v.name}: {v.remaining}\r\n"
        f"x-ratelimit-reset-{v.name}: {go_duration(v.reset)}\r\n"
        for v in views
    )


def _anthropic_limits(views: Sequence[LimitView], now_ns: int) -> str:
    return "".join(
        f"anthropic-ratelimit-{v.name}-limit: {v.limit}\r\nanthropic-ratelimit-{v.name}-remaining: {v.remaining}\r\n"
        f"anthropic-ratelimit-{v.name}-reset: {_rfc3339(now_ns, v.reset)}\r\n"
        for v in views
    )


def _ietf_limits(views: Sequence[LimitView]) -> str:
    for v in views:
        if v.name == "requests":
            return (
                f'ratelimit-policy: "requests";q={v.limit};w={v.period}\r\n'
                f'ratelimit: "requests";r={v.remaining};t={math.ceil(v.reset)}\r\n'
            )
    return ""


def go_duration(seconds: float) -> str:
    """`12ms`, `1s`, `6m0s`: how OpenAI writes a reset (Go's time.Duration.String, milliseconds at the finest)."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _rfc3339(now_ns: int, reset: float) -> str:
    at = datetime.fromtimestamp(now_ns // 10**9, UTC) + timedelta(seconds=math.ceil(reset))
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
