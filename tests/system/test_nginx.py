"""Bursar between real servers: nginx before it, as most people deploy it, and nginx behind it as the upstream."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.e2e.broker import Broker, free_ports
from tests.system.nginx import Nginx

pytestmark = pytest.mark.system

HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}
ANSWER = (
    '{"id":"c1","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"from nginx"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}'
)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[int, str], Nginx]]:
    running: list[Nginx] = []

    def start(port: int, http: str) -> Nginx:
        running.append(Nginx(tmp_path / f"nginx-{port}", port, http))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def test_nginx_in_front_changes_nothing(make_broker: Callable[..., Broker], serve: Callable[[int, str], Nginx]) -> None:
    broker = make_broker().start()
    (port,) = free_ports(1)
    serve(
        port,
        f"upstream bursar {{ server 127.0.0.1:{broker.data_port}; keepalive 16; }}"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://bursar; proxy_http_version 1.1;"
        ' proxy_set_header Connection ""; proxy_buffering off; } }',
    )
    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=broker.demo_key, max_retries=0) as client:
        for _ in range(50):
            assert client.chat.completions.create(**HELLO).choices[0].message.content  # type: ignore[call-overload]
        chunks = list(client.chat.completions.create(**HELLO, stream=True))  # type: ignore[call-overload]
    assert len(chunks) > 1
    assert chunks[-1].choices[0].finish_reason


def test_nginx_behind_is_an_upstream_like_any_other(
    make_broker: Callable[..., Broker], serve: Callable[[int, str], Nginx]
) -> None:
    (port,) = free_ports(1)
    serve(
        port,
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 5; default_type application/json;"
        f" location / {{ return 200 '{ANSWER}'; }} }}",
    )
    provider = {"base_url": f"http://127.0.0.1:{port}/v1", "allow_private": True}
    broker = make_broker(
        config={"providers": {"openai": provider}}, env={"OPENAI_API_KEY": "sk-nginx"}, arguments=("--seal-env",)
    ).start()
    headers = {"authorization": f"Bearer {broker.demo_key}"}
    with httpx.Client(headers=headers, timeout=10) as client:
        for _ in range(40):  # nginx closes every fifth answer's connection: the pool must notice before it writes
            answer = client.post(f"{broker.url}/v1/chat/completions", json=HELLO)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == "from nginx"
