"""The Azure paths: which exist, whose name counts, and that nothing strange in path or query gets through."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.gateway.routes import find_route


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
    ],
)
def test_what_is_there(path: str, name: str, deployment: str) -> None:
    route = find_route("POST", path)
    assert (route.name, route.azure, route.deployment, route.dialect) == (name, True, deployment, "openai")
    assert word_of(path, "GET") == "method_not_allowed"


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
        "/openai/v1/models",
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
