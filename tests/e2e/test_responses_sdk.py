"""The official `openai` SDK, unmodified: responses and conversations, whose they are, and what they cost."""

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from bursar.providers.emulator import read_bill
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books, price_of, until

MODEL = "gpt-4o-mini"
LONG = "x" * 1300  # more bytes than the tokens that the provider is told to count


def said(prompt: str = "Once upon a time", **script: Any) -> str:
    return f"{prompt} [[emulator {json.dumps(script)}]]"


@pytest.fixture(scope="module")
def client(broker: Broker) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{broker.url}/v1", api_key=broker.demo_key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def tenants(broker: Broker) -> Tenants:
    return Tenants(broker)


@pytest.fixture(scope="module")
def stranger(client: OpenAI, tenants: Tenants) -> OpenAI:
    """A key of another team."""
    return client.with_options(api_key=tenants.key(budget={"limit_usd": "5.00"}).text)


def test_a_response_is_made_shown_built_upon_and_deleted(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=said(output=12), max_output_tokens=64)
    assert first.status == "completed"
    assert len(first.output_text) == 48
    assert first.usage is not None
    assert first.usage.output_tokens == 12
    assert client.responses.retrieve(first.id).output_text == first.output_text
    items = client.responses.input_items.list(first.id)
    assert [item.type for item in items] == ["message"]
    second = client.responses.create(model=MODEL, input="And then?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens - 20
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.retrieve(second.id)
    assert gone.value.code == "unknown_id"


def test_a_streamed_response_in_typed_events(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input=said(output=9)) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") == 9
    assert len(final.output_text) == 36
    assert client.responses.retrieve(final.id).output_text == final.output_text


class Answer(BaseModel):
    name: str
    age: int


def test_structured_output_and_tools(client: OpenAI) -> None:
    parsed = client.responses.parse(model=MODEL, input="Who?", text_format=Answer)
    assert parsed.output_parsed == Answer(name="text", age=7)
    tool: Any = {
        "type": "function",
        "name": "look",
        "strict": True,
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
    }
    called = client.responses.create(model=MODEL, input="Look", tools=[tool], tool_choice="required")
    call: Any = called.output[-1]
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "look", {"where": "text"})
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "nothing"}
    done = client.responses.create(model=MODEL, input=[output], previous_response_id=called.id)
    assert done.status == "completed"


def test_reasoning_is_handed_back_by_its_id(client: OpenAI, stranger: OpenAI) -> None:
    first = client.responses.create(model="gpt-5-mini", input="Think", reasoning={"effort": "low"})
    thought: Any = first.output[0]
    assert thought.type == "reasoning"
    again: Any = [{"type": "reasoning", "id": thought.id, "summary": []}, {"role": "user", "content": "Go on"}]
    assert client.responses.create(model="gpt-5-mini", input=again).status == "completed"
    with pytest.raises(openai.NotFoundError):
        stranger.responses.create(model="gpt-5-mini", input=again, max_output_tokens=500)
    reference: Any = [{"type": "item_reference", "id": first.output[-1].id}]
    assert client.responses.create(model="gpt-5-mini", input=reference).status == "completed"
    with pytest.raises(openai.NotFoundError):
        stranger.responses.create(model="gpt-5-mini", input=reference, max_output_tokens=500)


def test_conversations(client: OpenAI, stranger: OpenAI) -> None:
    item: Any = {"type": "message", "role": "user", "content": "Hello"}
    conversation = client.conversations.create(items=[item], metadata={"a": "b"})
    answer = client.responses.create(model=MODEL, input="More", conversation=conversation.id)
    assert answer.status == "completed"
    items = list(client.conversations.items.list(conversation.id))
    assert len(items) == 3
    added = client.conversations.items.create(conversation.id, items=[item])
    one: Any = added.data[0]
    assert client.conversations.items.retrieve(one.id, conversation_id=conversation.id).type == "message"
    client.conversations.items.delete(one.id, conversation_id=conversation.id)
    assert client.conversations.update(conversation.id, metadata={"c": "d"}).metadata == {"c": "d"}
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.retrieve(conversation.id)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.create(model=MODEL, input="More", conversation=conversation.id, max_output_tokens=16)
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_what_another_team_made_is_answered_like_what_nobody_made_and_costs_no_call(
    client: OpenAI, stranger: OpenAI, broker: Broker
) -> None:
    made = client.responses.create(model=MODEL, input="Mine")
    before = len(broker.bill())
    told = []
    for made_id in (made.id, "resp_nobody", "resp-%2e%2e%2fmodels", "x" * 300):
        for ask in (
            lambda one=made_id: stranger.responses.retrieve(one),
            lambda one=made_id: stranger.responses.delete(one),
            lambda one=made_id: stranger.responses.cancel(one),
            lambda one=made_id: stranger.responses.input_items.list(one),
            lambda one=made_id: stranger.responses.create(
                model=MODEL, input="x", previous_response_id=one, max_output_tokens=16
            ),
        ):
            with pytest.raises(openai.NotFoundError) as refused:
                ask()
            body: Any = refused.value.response.json()
            told.append((refused.value.status_code, body["error"]))
    assert all(one == told[0] for one in told)
    assert len(broker.bill()) == before
    assert client.responses.retrieve(made.id).id == made.id


def test_what_is_not_stored_has_no_id_that_lasts(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="Mine", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_money_is_settled_to_the_pico(client: OpenAI, broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "1"})
    ours, books = client.with_options(api_key=key.text), Books(broker.data)
    ours.responses.create(model=MODEL, input=said(LONG, input=1234, output=20, cached=100), max_output_tokens=30)
    made = ours.responses.create(model=MODEL, input=said(LONG, input=1235, output=500), max_output_tokens=40)
    assert made.status == "incomplete"
    list(ours.responses.create(model=MODEL, input=said(LONG, input=1236, output=9), max_output_tokens=40, stream=True))
    follow_on = said("And then?", input=1237, output=9)
    ours.responses.create(model=MODEL, input=follow_on, previous_response_id=made.id, max_output_tokens=40)
    rows = {row.input_tokens: row for row in books.settled(key.id, 4)}
    charges = {charge.input: charge for charge in read_bill(books.bill_path) if charge.input in rows}
    assert set(rows) == set(charges) == {1234, 1235, 1236, 1237}
    for tokens, row in rows.items():
        assert row.exact
        assert row.overage == 0
        assert row.cost == price_of(charges[tokens]) <= row.held
    assert rows[1237].held > 20 * rows[1234].held, "what it builds upon may be as long as the context window"


def test_a_stream_is_cut_at_its_allowance(client: OpenAI) -> None:
    prompt = said(output=5000, ignore_max_tokens=True)
    events = list(client.responses.create(model=MODEL, input=prompt, max_output_tokens=16, stream=True))
    last: Any = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert sum(len(event.delta) for event in events if event.type == "response.output_text.delta") < 16 * 8 + 600


def test_the_cap_of_a_policy_goes_out_in_the_right_field(client: OpenAI, tenants: Tenants) -> None:
    ours = client.with_options(api_key=tenants.key(policy={"max_tokens_cap": 20}).text)
    for cap in ({}, {"max_output_tokens": 300}):
        made = ours.responses.create(model=MODEL, input=said(output=100), **cap)
        assert made.max_output_tokens == 20
        assert made.usage is not None
        assert made.usage.output_tokens == 20


def test_searches_need_a_cap_under_a_hard_budget_and_policy_can_give_one(client: OpenAI, tenants: Tenants) -> None:
    search: Any = [{"type": "web_search"}]
    ours = client.with_options(api_key=tenants.key(budget={"limit_usd": "100"}).text)
    with pytest.raises(openai.BadRequestError) as refused:
        ours.responses.create(model=MODEL, input="Look", tools=search, max_output_tokens=16)
    assert refused.value.code == "unbounded_request"


def test_background_is_refused_under_a_hard_budget_and_booked_when_it_ends_without(
    client: OpenAI, broker: Broker, tenants: Tenants
) -> None:
    hard = client.with_options(api_key=tenants.key(budget={"limit_usd": "100"}).text)
    with pytest.raises(openai.BadRequestError) as refused:
        hard.responses.create(model=MODEL, input="x", background=True, max_output_tokens=16)
    assert refused.value.code == "unbounded_request"
    assert "background" in refused.value.message
    key = tenants.key(budget={"limit_usd": "1", "hard": False})
    soft, books = client.with_options(api_key=key.text), Books(broker.data)
    prompt = said(LONG, input=1238, output=15, background_s=0.5)
    made = soft.responses.create(model=MODEL, input=prompt, background=True, max_output_tokens=16)
    assert made.status == "queued"
    until(lambda: soft.responses.retrieve(made.id).status == "completed")
    (row,) = books.settled(key.id, 1)
    charge = next(charge for charge in read_bill(books.bill_path) if charge.input == 1238)
    assert (row.exact, row.cost) == (True, price_of(charge))


def test_ids_survive_a_killed_gateway(make_broker: Callable[..., Broker]) -> None:
    """Killed as soon as the caller has the id, in the middle of a stream too."""
    broker = make_broker().start()
    with OpenAI(base_url=f"{broker.url}/v1", api_key=broker.demo_key, max_retries=0) as client:
        whole = client.responses.create(model=MODEL, input="x")
        stream = client.responses.create(model=MODEL, input=said(output=200, chunk_ms=50), stream=True)
        created: Any = next(iter(stream))
        old = broker.kill("gateway", signal.SIGKILL)
        broker.wait_replaced("gateway", old)
        broker.wait_ready()
        for made_id in (whole.id, created.response.id):
            until(lambda one=made_id: client.responses.retrieve(one).id == one)
