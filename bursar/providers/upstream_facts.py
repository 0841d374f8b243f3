"""What the data path must know of a provider API besides its bodies: paths, headers, and what a status means."""

from collections.abc import Iterable

import msgspec

# Statuses by which a provider says that it did not run the request, so nothing was billed. 408, 409 and the 5xx are
# not among them: the work may have been done.
DEFINITE_REFUSALS = frozenset(
    {400, 401, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 421, 422, 429, 431, 451, 529}
)

# Never among any allow-list: credentials and what selects another account, cookies, hop-by-hop fields. Nor an
# idempotency key: tenants share a provider's account, and one could ask for another's answer by it.
_COMMON_REQUEST = frozenset({"accept", "user-agent"})
# A body is UTF-8 as it was read here, whatever its sender calls it: a server that went by `charset` would read another.
_COMMON_FIXED = (("content-type", "application/json"),)
_COMMON_RESPONSE = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry", "content-language"})


class UpstreamFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Constants of one dialect. Header names in lower case; paths come behind a provider's base URL."""

    paths: dict[str, str]  # route -> path
    auth: str  # how the key is sent unless configured otherwise: "bearer" | "x-api-key"
    fixed_headers: tuple[tuple[str, str], ...]  # sent with this value, whatever the caller says
    request_headers: frozenset[str]  # of the caller's, that go upstream
    response_headers: frozenset[str]  # of the upstream's, that come back: not its rate limits, ours are sent
    key_errors: frozenset[str]  # words in an error body by which the provider says that its key is bad

    def definite_refusal(self, status: int) -> bool:
        """Whether the status alone proves that nothing was run and nothing billed."""
        return status in DEFINITE_REFUSALS

    def bills_refusal(self, status: int, body: bytes) -> bool:
        """Whether a refusal is billed for the input all the same: Azure's content filter has read it by then.

        Reference: https://learn.microsoft.com/azure/ai-services/openai/how-to/manage-costs (HTTP error response codes).
        """
        return status == 400 and "content_filter" in error_words(body)

    def rejects_key(self, status: int, body: bytes) -> bool:
        """Whether an answer says that the provider key itself is not accepted (not merely this call)."""
        if status == 401:
            return True
        return status in (400, 403) and not self.key_errors.isdisjoint(error_words(body))


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None
    status: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


_error = msgspec.json.Decoder(_ErrorBody)


def error_words(body: bytes) -> tuple[str, ...]:
    """The machine words of a provider's error body ({"error": {"type", "code"}}); none when it is not one."""
    try:
        error = _error.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(str(word) for word in (error.type, error.code, error.status) if word)


def fixed_headers(*fields: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (*_COMMON_FIXED, *fields)


def request_headers(*names: str) -> frozenset[str]:
    return _COMMON_REQUEST | frozenset(names)


def response_headers(names: Iterable[str]) -> frozenset[str]:
    return _COMMON_RESPONSE | frozenset(names)
