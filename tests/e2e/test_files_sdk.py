"""The official `openai` SDK, unmodified: files, whose they are, and calls that name them."""

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants

MODEL = "gpt-4o-mini"
CONTENT = bytes(range(256)) * 400 + b"\r\n--\r\n"


@pytest.fixture(scope="module")
def client(broker: Broker) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{broker.url}/v1", api_key=broker.demo_key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def tenants(broker: Broker) -> Tenants:
    return Tenants(broker)


def asking(file_id: str) -> Any:
    part = {"type": "file", "file": {"file_id": file_id}}
    return [{"role": "user", "content": [{"type": "text", "text": "Read"}, part]}]


def test_a_file_is_uploaded_listed_shown_read_and_deleted(client: OpenAI) -> None:
    made = client.files.create(file=("a é.bin", CONTENT), purpose="user_data")
    assert (made.bytes, made.purpose, made.status) == (len(CONTENT), "user_data", "processed")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == CONTENT
    assert [row.id for row in client.files.list(purpose="user_data")] == [made.id]
    assert client.files.delete(made.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            gone(made.id)
        assert refused.value.code == "unknown_id"
    assert list(client.files.list()) == []


def test_a_team_sees_its_own_files_and_nobody_elses(client: OpenAI, tenants: Tenants) -> None:
    key = tenants.key()
    ours, colleague = (client.with_options(api_key=one.text) for one in (key, tenants.key(team=key.team)))
    stranger = client.with_options(api_key=tenants.key().text)
    made = [ours.files.create(file=(f"{n}.txt", b"text"), purpose="user_data").id for n in range(5)]
    assert [row.id for row in colleague.files.list(limit=2)] == made[::-1]
    assert [row.id for row in colleague.files.list(limit=2, order="asc", after=made[1])] == made[2:]
    assert list(stranger.files.list()) == []
    for ask in (stranger.files.retrieve, stranger.files.delete, stranger.files.content):
        with pytest.raises(openai.NotFoundError):
            ask(made[0])
    assert colleague.files.retrieve(made[0]).filename == "0.txt"


def test_a_call_that_names_a_file_works_for_its_team_alone(client: OpenAI, tenants: Tenants) -> None:
    stranger = client.with_options(api_key=tenants.key().text)
    made = client.files.create(file=("a.txt", b"text"), purpose="user_data")
    assert client.chat.completions.create(model=MODEL, messages=asking(made.id), max_tokens=8).choices
    for other, file_id in ((stranger, made.id), (client, "file-none")):
        with pytest.raises(openai.NotFoundError) as refused:
            other.chat.completions.create(model=MODEL, messages=asking(file_id), max_tokens=8)
        assert refused.value.code == "unknown_id"
    client.files.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=MODEL, messages=asking(made.id), max_tokens=8)


def test_purposes_and_bad_forms(client: OpenAI, broker: Broker, tenants: Tenants) -> None:
    narrow = client.with_options(api_key=tenants.key(policy={"purposes": ["inference"]}).text)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        narrow.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert refused.value.code == "purpose_not_allowed"
    wrong: Any = "batch_output"
    with pytest.raises(openai.BadRequestError) as bad:
        client.files.create(file=("a", b""), purpose=wrong)
    assert bad.value.code == "invalid_field"
    with httpx.Client(headers={"authorization": f"Bearer {broker.demo_key}"}) as raw:
        assert (
            raw.post(f"{broker.url}/v1/files", json={"purpose": "batch"}).json()["error"]["code"] == "malformed_request"
        )
        told = raw.post(f"{broker.url}/v1/messages/batches", json={}).json()
        assert told["error"]["code"] == "not_found"
        assert "/v1/messages" in told["error"]["message"]


def test_a_file_outlives_a_killed_gateway(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    with OpenAI(base_url=f"{broker.url}/v1", api_key=broker.demo_key, max_retries=0) as client:
        made = client.files.create(file=("a.txt", b"text"), purpose="user_data")
        old = broker.kill("gateway")
        broker.wait_replaced("gateway", old)
        broker.wait_ready()
        assert [row.id for row in client.files.list()] == [made.id]
        assert client.files.content(made.id).read() == b"text"


def test_anthropics_files_are_refused_in_its_own_words_with_what_to_do_instead(broker: Broker) -> None:
    """The beta lies at the same path: nothing of it may look as if it worked."""
    with anthropic.Anthropic(base_url=broker.url, api_key=broker.demo_key, max_retries=0) as client:
        asks: list[Callable[[], object]] = [
            lambda: client.beta.files.upload(file=("a.txt", b"text", "text/plain")),
            client.beta.files.list,
            lambda: client.beta.files.retrieve_metadata("file_1"),
            lambda: client.beta.files.download("file_1"),
            lambda: client.beta.files.delete("file_1"),
        ]
        for ask in asks:
            with pytest.raises(anthropic.NotFoundError) as refused:
                ask()
            assert isinstance(refused.value.body, dict)
            assert refused.value.body["type"] == "error"
            assert "Send the content in the message itself" in refused.value.body["error"]["message"]
