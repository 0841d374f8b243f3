"""Answers that Bursar itself gives: a refusal in the caller's own dialect, and the headers it adds to every answer.

Header shapes: OpenAI `x-ratelimit-*` (reset as a Go duration), Anthropic `anthropic-ratelimit-*` (reset as RFC 3339),
IETF draft-ietf-httpapi-ratelimit-headers-11 (`RateLimit-Policy`, `RateLimit`; requests only, tokens have no unit
there), `Retry-After` in whole seconds (RFC 9110 §10.2.3).
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil

import msgspec

from bursar.core.calls import DialectName
from bursar.core.errors import Refusal
from bursar.core.limits import Key, Stand
from bursar.core.policy import CallBounds, Shown

_EXPLAINED = frozenset(
    {
        "key_disabled",
        "key_expired",
        "network_not_allowed",
        "user_required",
        "model_not_allowed",
        "purpose_not_allowed",
        "max_tokens_exceeded",
        "prompt_too_large",
        "unpriced_model",
        "unbounded_request",
        "rate_limited",
        "concurrency_limited",
        "budget_exhausted",
        "held_by_requests_in_flight",
        "can_never_fit",
        "no_provider_key",
    }
)
"""Words behind which there are rules with numbers, and somebody who can lift them."""

_OF_THE_MODEL = frozenset({"model_not_allowed", "model_not_found", "unpriced_model", "deployment_unknown"})
"""Words whose `param` at OpenAI would be the model."""


def refusal_body(refusal: Refusal, dialect: DialectName, request_id: str) -> bytes:
    """The error body the dialect's SDKs parse, with the stable word in `code` and the numbers in `bursar`."""
    text = f"{refusal.message}. {refusal.hint}" if refusal.hint else refusal.message
    if request_id and refusal.word in _EXPLAINED:
        text = f"{text.rstrip('.')}. Why: bursar explain {request_id}"
    detail = {"word": refusal.word, "request_id": request_id, "facts": refusal.facts}
    body: dict[str, object]
    if dialect == "anthropic":
        error = {"type": refusal.rule.anthropic_type, "message": text, "code": refusal.word}
        body = {"type": "error", "error": error, "request_id": request_id, "bursar": detail}
    else:
        field = refusal.facts.get("field") or ("model" if refusal.word in _OF_THE_MODEL else None)
        error = {"message": text, "type": refusal.rule.openai_type, "param": field, "code": refusal.word}  # type: ignore[dict-item]
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
        fields.append(("retry-after", str(max(1, ceil(refusal.retry_after)))))
    if refusal.word == "method_not_allowed":
        fields.append(("allow", str(refusal.facts["allow"])))
    if rule.status == 401:
        fields.append(("www-authenticate", 'Bearer realm="bursar"'))
    return fields


def id_lines(dialect: DialectName, request_id: str) -> str:
    """`id_fields` as lines."""
    theirs = "request-id" if dialect == "anthropic" else "x-request-id"
    return f"x-bursar-request-id: {request_id}\r\n{theirs}: {request_id}\r\n"


def header_lines(fields: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in fields)


def id_fields(dialect: DialectName, request_id: str) -> list[tuple[str, str]]:
    """Our id under our own name and under the name the dialect's SDK reads (`_request_id`)."""
    theirs = "request-id" if dialect == "anthropic" else "x-request-id"
    return [("x-bursar-request-id", request_id), (theirs, request_id)]


def limit_headers(dialect: DialectName, bounds: CallBounds, stands: Sequence[Stand], now: Callable[[], int]) -> str:
    """How the tightest limit of each unit stands, in the caller's dialect and in the IETF's words.

    `stands`: one of each of `bounds.groups`. `now`: nanoseconds.
    """
    forms = bounds.told.get(dialect)
    if not isinstance(forms, dict):
        forms = bounds.told[dialect] = _forms(dialect, bounds.shown)
    lines = ""
    for bound, left, reset in stands:
        before, between, behind, counted = forms[bound.key]
        remaining = left if left < bound.amount else bound.amount  # what a burst allows beyond the rate is not promised
        told = _rfc3339(now(), reset) if dialect == "anthropic" else go_duration(reset) if reset else "0ms"
        lines += f"{before}{remaining}{between}{told}{behind}"
        if counted:
            lines += f"{remaining};t={ceil(reset)}\r\n"
    return lines


_Form = tuple[str, str, str, bool]  # up to what is left, up to the reset, what follows that; whether IETF counts it


def _forms(dialect: DialectName, shown: Sequence[Shown]) -> dict[Key, _Form]:
    """What is the same in every answer."""
    return {
        bound.key: _form(dialect, unit, bound.amount, bound.per_seconds) for unit, bounds in shown for bound in bounds
    }


def _form(dialect: DialectName, unit: str, amount: int, per_seconds: int) -> _Form:
    ietf = f'ratelimit-policy: "requests";q={amount};w={per_seconds}\r\nratelimit: "requests";r='
    counted = unit == "requests"
    end = f"\r\n{ietf if counted else ''}"
    if dialect == "anthropic":
        name = f"anthropic-ratelimit-{unit}"
        return f"{name}-limit: {amount}\r\n{name}-remaining: ", f"\r\n{name}-reset: ", end, counted
    return (
        f"x-ratelimit-limit-{unit}: {amount}\r\nx-ratelimit-remaining-{unit}: ",
        f"\r\nx-ratelimit-reset-{unit}: ",
        end,
        counted,
    )


def go_duration(seconds: float) -> str:
    """`12ms`, `1s`, `6m0s`: how OpenAI writes a reset (Go's time.Duration.String, milliseconds at the finest)."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms" if seconds else "0ms"
    whole = ceil(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _rfc3339(now_ns: int, reset: float) -> str:
    at = datetime.fromtimestamp(now_ns // 10**9, UTC) + timedelta(seconds=ceil(reset))
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
