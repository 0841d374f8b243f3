"""The Azure paths: which exist, whose name counts, and that nothing strange in path or query gets through."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.gateway.routes import find_route, ids_in, plain_path


def word_of(path: str, method: str = "POST") -> str:
    with pytest.raises(Refusal) as raised:
        find_route(method, path)
    return raised.value.word


@pytest.mark.parametrize(
    ("path", "name", "deployment"),
    [
        ("/openai/deployments/chat-prod/chat/completions", "chat", "chat-prod"),
        ("/openai/deployments/gpt-3.5_x/completions", "completions", "gpt-3.5_x"),
        ("/openai/deployments/e/embeddings", "embeddings", "e"),
        ("/openai/v1/chat/completions", "chat", ""),
        ("/openai/v1/embeddings", "embeddings", ""),
        ("/openai/v1/responses", "responses", ""),
        ("/openai/responses", "responses", ""),
    ],
)
def test_what_is_there(path: str, name: str, deployment: str) -> None:
    route = find_route("POST", path)
    assert (route.name, route.azure, route.deployment, route.dialect) == (name, True, deployment, "openai")
    assert word_of(path, "GET") == "method_not_allowed"


@pytest.mark.parametrize("prefix", ["/openai/v1", "/openai"])
@pytest.mark.parametrize(
    ("method", "rest", "kind"),
    [
        ("GET", "/models", "models"),
        ("GET", "/responses/resp_1", "owned"),
        ("DELETE", "/responses/resp_1", "owned"),
        ("POST", "/responses/resp_1/cancel", "owned"),
        ("GET", "/responses/resp_1/input_items", "owned"),
        ("POST", "/conversations", "owned"),
        ("GET", "/conversations/conv_1/items/msg_1", "owned"),
        ("POST", "/files", "files"),
        ("GET", "/files/file-1/content", "owned"),
    ],
)
def test_what_is_kept_at_azure_is_kept_here(prefix: str, method: str, rest: str, kind: str) -> None:
    route, plain = find_route(method, prefix + rest), find_route(method, f"/v1{rest}")
    assert route.kind == kind
    assert route == plain._replace(azure=True)
    assert ids_in(plain_path(prefix + rest)) == ids_in(f"/v1{rest}")


@pytest.mark.parametrize(
    "path",
    [
        "/openai/deployments//chat/completions",
        "/openai/deployments/a/b/chat/completions",
        "/openai/deployments/a%2Fb/chat/completions",
        "/openai/deployments/../v1/chat/completions",
        "/openai/deployments/.hidden/chat/completions",
        "/openai/deployments/a/chat/completions/",
        "/openai/deployments/a/messages",
        "/openai/deployments/a/models",
        "/openai/deployments/a",
        "/openai/v1/messages",
        "/openai/v1/messages/count_tokens",
        "/openai/v1/estimate",
        "/openai/v1/estimate/responses",
        "/openai/v1/oauth/token",
        "/openai/v1/v1/responses",
        "/openai/v1/responses/resp_1/other",
        "/openai/deployments/a/responses",
        "/openai/v1//chat/completions",
        "/openai/chat/completions",
        "/openai/",
        "/OpenAI/v1/chat/completions",
    ],
)
def test_what_is_not(path: str) -> None:
    assert word_of(path) == "not_found"


@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_a_deployment_is_one_part_of_the_path(text: str) -> None:
    path = f"/openai/deployments/{text}/embeddings"
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text, re.ASCII):
        assert find_route("POST", path).deployment == text
    else:
        assert word_of(path) == "not_found"
