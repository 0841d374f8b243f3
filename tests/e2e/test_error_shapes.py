"""Every word of refusal as the official SDKs read it: their class, their fields, their kinds of error.

Bodies and headers are those that the data port sends (`bursar.gateway.answer`), over HTTP, into the SDKs as they are.
"""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import anthropic
import openai
import pytest
from anthropic.types import ErrorResponse
from openai.types.shared import ErrorObject

from bursar.core.calls import DialectName
from bursar.core.errors import RULES, Refusal
from bursar.gateway.answer import refusal_body, refusal_headers

REQUEST_ID = "req-0123456789"
OPENAI_CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    429: openai.RateLimitError,
}
ANTHROPIC_CLASSES: dict[int, type[anthropic.APIStatusError]] = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    409: anthropic.ConflictError,
    429: anthropic.RateLimitError,
}
DOCUMENTED_ONLY = {"request_too_large"}  # https://docs.anthropic.com/en/api/errors has it; the SDK, a class alone
FIELDS = {"method_not_allowed": {"allow": "GET"}, "invalid_field": {"field": "max_tokens"}}


def refusal(word: str) -> Refusal:
    return Refusal(word, "What is wrong", "What to do next", retry_after=1, facts=FIELDS.get(word, {}))


class Refusing(BaseHTTPRequestHandler):
    """Answers /DIALECT/WORD/... with that word."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        _, said, word, *_ = self.path.split("/")
        dialect: DialectName = "anthropic" if said == "anthropic" else "openai"
        body = refusal_body(refusal(word), dialect, REQUEST_ID)
        self.send_response(RULES[word].status)
        for name, value in refusal_headers(refusal(word), dialect, REQUEST_ID):
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A test's output is its own."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("word", RULES)
def test_openai_reads_class_code_param_and_type(url: str, word: str) -> None:
    rule = RULES[word]
    with (
        openai.OpenAI(base_url=f"{url}/openai/{word}", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model="m", messages=[])
    error = caught.value
    expected = OPENAI_CLASSES.get(rule.status, openai.InternalServerError if rule.status >= 500 else None)
    assert type(error) is (expected or openai.APIStatusError)
    assert (error.code, error.type, error.request_id) == (word, rule.openai_type, REQUEST_ID)
    assert error.param in (None, "model", "max_tokens")
    assert "What is wrong. What to do next" in error.message
    shape = ErrorObject.model_validate(error.body, strict=True)
    assert set(error.body) == {"message", "type", "param", "code"}  # type: ignore[call-overload]
    assert shape.code == word


@pytest.mark.parametrize("word", RULES)
def test_anthropic_reads_class_and_one_of_its_own_kinds(url: str, word: str) -> None:
    rule = RULES[word]
    with (
        anthropic.Anthropic(base_url=f"{url}/anthropic/{word}", api_key="x", max_retries=0) as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        client.messages.create(model="m", max_tokens=1, messages=[])
    error = caught.value
    if rule.status in ANTHROPIC_CLASSES:
        assert type(error) is ANTHROPIC_CLASSES[rule.status]
    told = dict(error.body)  # type: ignore[call-overload]
    assert told["error"]["type"] == rule.anthropic_type
    if rule.anthropic_type in DOCUMENTED_ONLY:
        told["error"] = {**told["error"], "type": "invalid_request_error"}
    shape = ErrorResponse.model_validate(told)  # its `type` must be one that the SDK has a model of
    assert (shape.request_id, error.request_id) == (REQUEST_ID, REQUEST_ID)
    assert "What is wrong. What to do next" in shape.error.message
    assert error.response.headers["x-bursar-word"] == word
    assert error.response.headers["x-should-retry"] == ("true" if rule.retry else "false")
