"""The official `AzureOpenAI` client, unmodified: deployments mapped to models, an `api-key` that is a Bursar key."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AzureOpenAI, OpenAI

from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants
from tests.faults.books import Books
from tests.providers.emulated import Emulated

VERSION = "2024-10-21"


def said(prompt: str = "Hello", **script: Any) -> list[Any]:
    return [{"role": "user", "content": f"{prompt} [[emulator {json.dumps(script)}]]"}]


@pytest.fixture(scope="module")
def tenants(broker: Broker) -> Tenants:
    made = Tenants(broker)
    for name, model in (
        ("chat-prod", "gpt-4o-mini"),
        ("vectors", "text-embedding-3-small"),
        ("old", "gpt-3.5-turbo-instruct"),
    ):
        made.post("/deployments", name=name, model=model)
    return made


@pytest.fixture(scope="module")
def key(tenants: Tenants) -> MadeKey:
    return tenants.key(budget={"limit_usd": "1"})


@pytest.fixture(scope="module")
def client(broker: Broker, key: MadeKey) -> Iterator[AzureOpenAI]:
    with AzureOpenAI(azure_endpoint=broker.url, api_key=key.text, api_version=VERSION, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Emulated]]:
    """A broker in front of an emulator that tells what has reached it."""
    provider = Emulated(tmp_path_factory.mktemp("provider"))
    at_it = {"base_url": f"{provider.url}/v1", "allow_private": True, "auth": "none"}
    broker = Broker(tmp_path_factory.mktemp("watched"), config={"providers": {"openai": at_it}})
    try:
        Tenants(broker.start()).post("/deployments", name="chat-prod", model="gpt-4o-mini")
        yield broker, provider
    finally:
        broker.close()
        provider.stop()


def test_chat_plain_and_streamed(client: AzureOpenAI) -> None:
    answer = client.chat.completions.create(model="chat-prod", messages=said(output=9))
    assert answer.model == "gpt-4o-mini"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9
    chunks = list(client.chat.completions.create(model="chat-prod", messages=said(output=9), stream=True))
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks)) == 36


def test_completions_and_embeddings(client: AzureOpenAI) -> None:
    assert client.completions.create(model="old", prompt="x", max_tokens=5).choices[0].text
    assert len(client.embeddings.create(model="vectors", input=["a", "b"], dimensions=8).data) == 2


def test_the_deployment_of_the_client_goes_before_the_model_of_the_call(broker: Broker, key: MadeKey) -> None:
    with AzureOpenAI(
        azure_endpoint=broker.url, azure_deployment="chat-prod", api_key=key.text, api_version=VERSION
    ) as bound:
        answer = bound.chat.completions.create(model="gpt-5-pro", messages=said())
    assert answer.model == "gpt-4o-mini"


def test_a_bearer_token_does_as_well(broker: Broker, key: MadeKey) -> None:
    with AzureOpenAI(
        azure_endpoint=broker.url, azure_ad_token_provider=lambda: key.text, api_version=VERSION, max_retries=0
    ) as client:
        assert client.chat.completions.create(model="chat-prod", messages=said()).choices


def test_the_newer_paths_name_the_deployment_in_the_body(broker: Broker, key: MadeKey) -> None:
    with OpenAI(base_url=f"{broker.url}/openai/v1/", api_key=key.text, max_retries=0) as client:
        assert client.chat.completions.create(model="chat-prod", messages=said()).model == "gpt-4o-mini"
        assert client.embeddings.create(model="vectors", input="x").data
        with pytest.raises(openai.NotFoundError) as raised:
            client.chat.completions.create(model="gpt-4o-mini", messages=said())
    assert raised.value.code == "deployment_unknown"


@pytest.mark.parametrize("newer", [False, True], ids=["api-version", "v1"])
def test_responses_models_and_files_as_the_clients_ask_for_them(broker: Broker, key: MadeKey, newer: bool) -> None:
    """Neither client has a deployment in the paths of these: the body names it, and the list tells the names."""
    client: OpenAI = (
        OpenAI(base_url=f"{broker.url}/openai/v1/", api_key=key.text, max_retries=0)
        if newer
        else AzureOpenAI(azure_endpoint=broker.url, api_key=key.text, api_version=VERSION, max_retries=0)
    )
    with client:
        made = client.responses.create(model="chat-prod", input="Hello", max_output_tokens=64)
        assert (made.model, made.status) == ("gpt-4o-mini", "completed")
        assert client.responses.retrieve(made.id).id == made.id
        assert client.responses.input_items.list(made.id).data
        again = client.responses.create(model="chat-prod", input="And?", previous_response_id=made.id)
        assert again.previous_response_id == made.id
        events = list(client.responses.create(model="chat-prod", input="Hello", stream=True))
        assert events[-1].type == "response.completed"
        client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError) as gone:
            client.responses.retrieve(made.id)
        assert gone.value.code == "unknown_id"
        with pytest.raises(openai.NotFoundError) as unmapped:
            client.responses.create(model="gpt-4o-mini", input="Hello")
        assert unmapped.value.code == "deployment_unknown"
        talk = client.conversations.create(items=[{"type": "message", "role": "user", "content": "Hi"}])
        assert client.conversations.retrieve(talk.id).id == talk.id
        assert [model.id for model in client.models.list()] == ["chat-prod", "old", "vectors"]
        file = client.files.create(file=("a.txt", b"text"), purpose="user_data")
        assert [row.id for row in client.files.list()] == [file.id]
        assert client.files.content(file.id).read() == b"text"
        assert client.files.delete(file.id).deleted


def test_an_unmapped_deployment_is_refused_in_clear_words(client: AzureOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="chat-test", messages=said())
    assert raised.value.code == "deployment_unknown"
    assert "bursar models map chat-test MODEL" in raised.value.message


def test_a_team_may_have_names_of_its_own(broker: Broker, tenants: Tenants) -> None:
    ours, theirs = tenants.key(), tenants.key()
    made = tenants.post("/deployments", name="chat-prod", model="gpt-4o", team=ours.team)
    for key, model in ((ours, "gpt-4o"), (theirs, "gpt-4o-mini")):
        with AzureOpenAI(azure_endpoint=broker.url, api_key=key.text, api_version=VERSION) as client:
            assert client.chat.completions.create(model="chat-prod", messages=said()).model == model
    assert broker.admin("DELETE", f"/v1/admin/deployments/{made['id']}").status_code == 204
    with AzureOpenAI(azure_endpoint=broker.url, api_key=ours.text, api_version=VERSION) as client:
        assert client.chat.completions.create(model="chat-prod", messages=said()).model == "gpt-4o-mini"


def test_the_policy_is_that_of_the_model(broker: Broker, tenants: Tenants) -> None:
    narrow = tenants.key(policy={"models": ["gpt-4o"]})
    with (
        AzureOpenAI(azure_endpoint=broker.url, api_key=narrow.text, api_version=VERSION, max_retries=0) as client,
        pytest.raises(openai.PermissionDeniedError) as raised,
    ):
        client.chat.completions.create(model="chat-prod", messages=said())
    assert raised.value.code == "model_not_allowed"


def test_errors_are_the_clients_own(broker: Broker, client: AzureOpenAI) -> None:
    with (
        AzureOpenAI(azure_endpoint=broker.url, api_key="bsr_nobody", api_version=VERSION, max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(model="chat-prod", messages=said())
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="chat-prod", messages=said(), max_tokens=-1)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="chat-prod", messages=said(status=429))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?api-version=2024-10-21&api-version=1999-01-01",
        "?api-key=sk-other&model=gpt-5-pro&deployment=other",
        "?api-version=" + "x" * 5000,
        "?%00%0d%0aHost:%20evil&&&==&;../..//#",
    ],
)
def test_no_query_confuses_and_none_goes_up(watched: tuple[Broker, Emulated], query: str) -> None:
    broker, provider = watched
    url = f"{broker.url}/openai/deployments/chat-prod/chat/completions"
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}  # no model: the path names it
    answer = httpx.post(url + query.replace("#", ""), json=body, headers={"api-key": broker.demo_key}, timeout=10)
    assert answer.status_code == 200, answer.text
    sent = provider.report()["last"]
    assert sent["url"] == "/v1/chat/completions"
    assert json.loads(sent["body"])["model"] == "gpt-4o-mini"
    assert broker.demo_key not in str(sent)


def test_a_key_in_the_query_is_no_key(broker: Broker, key: MadeKey) -> None:
    url = f"{broker.url}/openai/deployments/chat-prod/chat/completions?api-key={key.text}"
    assert httpx.post(url, json={"messages": []}, timeout=10).status_code == 401


def test_it_is_booked_like_any_other_call(broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "1"})
    with AzureOpenAI(azure_endpoint=broker.url, api_key=key.text, api_version=VERSION) as client:
        client.chat.completions.create(model="chat-prod", messages=said(output=7), max_tokens=20)
    (row,) = Books(broker.data).settled(key.id)
    assert (row.model, row.exact, row.output_tokens) == ("gpt-4o-mini", True, 7)
