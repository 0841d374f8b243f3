"""OpenAI's batches: POST /v1/batches, the lines of its files, and what is told of one.

Reference: https://platform.openai.com/docs/api-reference/batch.
"""

import msgspec

from bursar.core.batches import BatchLine, BatchRequest, BatchState, LineResult
from bursar.core.errors import Refusal
from bursar.providers.strict_json import Fields, fields_of, given, names, read_body, text, unknown_keys, wrong_kind

ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}
WINDOW = "24h"  # the only one that there is: another could have another price
_REQUEST = names("input_file_id endpoint completion_window metadata output_expires_after")
_LINE = names("custom_id method url body")
_MOST_SHOWN = 2_048  # bytes of the metadata that is kept for lists
_OVER = frozenset({"completed", "expired", "cancelled"})


class _Counts(msgspec.Struct):
    total: int = 0
    completed: int | None = None
    failed: int = 0


class _Batch(msgspec.Struct):
    """https://platform.openai.com/docs/api-reference/batch/object, what is shown in a list."""

    id: str
    endpoint: str
    input_file_id: str
    status: str
    object: str = ""
    completion_window: str = WINDOW
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int = 0  # s, as all that follow
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: _Counts | None = None
    metadata: dict[str, str] | None = None


class _Response(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    code: str | None = None


class _Result(msgspec.Struct):
    response: _Response | None = None
    error: _Error | None = None


_batch = msgspec.json.Decoder(_Batch).decode
_result = msgspec.json.Decoder(_Result).decode
_encode = msgspec.json.Encoder().encode


class Batches:
    """`bursar.ports.BatchForms`."""

    def request(self, body: bytes) -> BatchRequest:
        """Written anew from what was read. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        fields = read_body(body)
        _refuse_unknown(fields, _REQUEST, "A batch")
        file_id, endpoint = text(fields, "input_file_id"), text(fields, "endpoint")
        if not file_id:
            raise wrong_kind("input_file_id", "the id of a file that was uploaded for the purpose `batch`")
        if endpoint not in ENDPOINTS:
            raise wrong_kind("endpoint", f"one of {', '.join(ENDPOINTS)}")
        if text(fields, "completion_window") != WINDOW:
            raise wrong_kind("completion_window", WINDOW)
        for name in ("metadata", "output_expires_after"):
            if (raw := given(fields, name)) is not None:
                fields_of(raw, name)
        return BatchRequest(file_id, endpoint, ENDPOINTS[endpoint], _encode(fields))

    def line(self, raw: bytes) -> BatchLine:
        """Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        fields = read_body(raw)
        _refuse_unknown(fields, _LINE, "A line of a batch")
        if not text(fields, "custom_id"):
            raise wrong_kind("custom_id", "a text")
        if text(fields, "method") != "POST":
            raise wrong_kind("method", "POST")
        if (body := given(fields, "body")) is None:
            raise wrong_kind("body", "an object")
        return BatchLine(text(fields, "url") or "", bytes(body))

    def state(self, body: bytes) -> BatchState | None:
        try:
            batch = _batch(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if batch.object != "batch":
            return None
        files = tuple(file for file in (batch.output_file_id, batch.error_file_id) if file)
        over = batch.status in _OVER or (batch.status == "failed" and bool(files))
        if batch.metadata is not None and len(_encode(batch.metadata)) > _MOST_SHOWN:
            batch.metadata = None
        return BatchState(
            id=batch.id,
            input_file=batch.input_file_id,
            status="over" if over else "never_ran" if batch.status == "failed" else "running",
            whole=batch.status == "completed",
            completed=_completed(batch.request_counts),
            files=files,
            shown=_encode(batch),
        )

    def result(self, raw: bytes) -> LineResult | None:
        try:
            said = _result(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        code = "" if said.error is None else said.error.code or ""
        if said.response is None:
            return LineResult(None, 0, code)
        status = said.response.status_code
        return LineResult(bytes(said.response.body) if 200 <= status < 300 else None, status, code)


def _completed(counts: _Counts | None) -> int | None:
    """None: not told, or not to be believed."""
    if counts is None or counts.completed is None or counts.completed < 0:
        return None
    return counts.completed


def _refuse_unknown(fields: Fields, known: frozenset[str], what: str) -> None:
    """A field that nobody here knows could change what is billed."""
    for name in unknown_keys(fields, known, ""):
        raise Refusal("invalid_field", f"{what} has no field `{name}`", f"Known are: {', '.join(sorted(known))}")
