"""The official `openai` SDK, unmodified: a file of calls, run as a batch, and its results."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import Books, price_of, until

MODEL = "gpt-4o-mini"
WAIT_S = 60


@pytest.fixture(scope="module")
def client(broker: Broker) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{broker.url}/v1", api_key=broker.demo_key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def tenants(broker: Broker) -> Tenants:
    return Tenants(broker)


def line(number: int, said: str = "Hello", url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 1200 + said}], "max_tokens": 50, **body}
    return {"custom_id": f"call-{number}", "method": "POST", "url": url, "body": asked}


def content(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def upload(client: OpenAI, *lines: dict[str, Any]) -> str:
    return client.files.create(file=("calls.jsonl", content(*lines)), purpose="batch").id


def begin(client: OpenAI, file_id: str, script: str = "", endpoint: Any = "/v1/chat/completions") -> Any:
    metadata = {"emulator": script} if script else {"what": "nightly"}
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h", metadata=metadata)


def ended(client: OpenAI, batch_id: str) -> Any:
    until(lambda: client.batches.retrieve(batch_id).status not in ("validating", "in_progress"), WAIT_S, "its end")
    return client.batches.retrieve(batch_id)


def rows(client: OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]


def test_a_batch_is_run_listed_read_and_booked_line_by_line(client: OpenAI, broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "5"})
    ours, stranger = client.with_options(api_key=key.text), client.with_options(api_key=tenants.key().text)
    inputs = [301, 302, 303]
    said = [line(n, f'[[emulator {{"input": {n}, "output": 7}}]]') for n in inputs]
    made = begin(ours, upload(ours, *said))
    assert (made.object, made.endpoint, made.metadata) == ("batch", "/v1/chat/completions", {"what": "nightly"})
    over = ended(ours, made.id)
    assert (over.status, over.request_counts.completed) == ("completed", 3)
    answers = rows(ours, over.output_file_id)
    assert [row["custom_id"] for row in answers] == ["call-301", "call-302", "call-303"]
    assert [row["response"]["body"]["usage"]["prompt_tokens"] for row in answers] == inputs
    assert [row.id for row in ours.batches.list()] == [made.id]
    assert over.output_file_id in [row.id for row in ours.files.list(purpose="batch_output")]
    assert list(stranger.batches.list()) == []
    for ask, name in (
        (stranger.batches.retrieve, made.id),
        (stranger.batches.cancel, made.id),
        (stranger.files.content, over.output_file_id),
        (ours.batches.retrieve, "batch_none"),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            ask(name)
        assert refused.value.code == "unknown_id"
    books = Books(broker.data)
    (row,) = books.settled(key.id, seconds=WAIT_S)
    bill = books.billed(inputs, len(inputs))
    assert row.exact
    assert (row.cost, row.input_tokens, row.output_tokens) == (sum(map(price_of, bill)), sum(inputs), 21)
    assert row.cost <= row.held


def test_a_batch_that_is_cancelled_pays_for_what_was_run(client: OpenAI, broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "5"})
    ours = client.with_options(api_key=key.text)
    inputs = range(401, 801)
    file_id = upload(ours, *(line(n, f'[[emulator {{"input": {n}, "output": 7}}]]') for n in inputs))
    made = begin(ours, file_id, '{"seconds": 200}')
    until(lambda: ours.batches.retrieve(made.id).request_counts.completed > 1, WAIT_S, "some lines")
    assert ours.batches.cancel(made.id).status == "cancelled"
    (row,) = Books(broker.data).settled(key.id, seconds=WAIT_S)
    bill = Books(broker.data).charges(inputs)
    assert 1 < len(bill) < len(inputs)
    assert (row.exact, row.cost) == (True, sum(map(price_of, bill)))


def test_embeddings_completions_and_responses_go_in_batches(client: OpenAI, broker: Broker, tenants: Tenants) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/embeddings": {"model": "text-embedding-3-small", "input": "x" * 600},
        "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Once", "max_tokens": 9},
        "/v1/responses": {"model": MODEL, "input": "Hello", "max_output_tokens": 64},
    }
    for endpoint, body in bodies.items():
        key = tenants.key(budget={"limit_usd": "5"})
        ours = client.with_options(api_key=key.text)
        asked = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
        made = begin(ours, upload(ours, asked), endpoint=endpoint)
        assert ended(ours, made.id).request_counts.completed == 1
        (row,) = Books(broker.data).settled(key.id, seconds=WAIT_S)
        assert row.exact, endpoint
        assert 0 < row.cost <= row.held, endpoint


def test_a_batch_outlives_a_killed_gateway_and_is_corrected(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    tenants = Tenants(broker)
    key = tenants.key(budget={"limit_usd": "5"})
    with OpenAI(base_url=f"{broker.url}/v1", api_key=key.text, max_retries=0) as client:
        inputs = range(401, 801)
        said = [line(n, f'[[emulator {{"input": {n}, "output": 7}}]]') for n in inputs]
        made = begin(client, upload(client, *said), '{"seconds": 200}')
        broker.wait_replaced("gateway", broker.kill("gateway"))
        broker.wait_ready()
        books = Books(broker.data)
        (row,) = books.settled(key.id, seconds=WAIT_S)
        assert (row.outcome, row.cost) == ("unreconciled", row.held)
        until(lambda: client.batches.retrieve(made.id).request_counts.completed > 1, WAIT_S, "some lines")
        assert client.batches.cancel(made.id).status == "cancelled"
        until(lambda: books.proven().counts.corrections == 1, WAIT_S, "the correction")
        cost = sum(map(price_of, books.charges(inputs)))
        posted = lambda: Decimal(tenants.balance(key.budgets[0])["posted_usd"])  # noqa: E731
        until(lambda: posted() == Decimal(cost) / 10**12, WAIT_S, f"a balance of {cost} pico-USD")
        assert [row.id for row in client.batches.list()] == [made.id]


def test_a_stop_in_the_middle_leaves_the_books_whole(make_broker: Callable[..., Broker]) -> None:
    """The emulator forgets its batches with it: nobody will ever say what this one cost."""
    broker = make_broker().start()
    key = Tenants(broker).key(budget={"limit_usd": "5"})
    with OpenAI(base_url=f"{broker.url}/v1", api_key=key.text, max_retries=0) as client:
        begin(client, upload(client, *(line(n) for n in range(20))), '{"seconds": 600}')
    assert broker.stop() == 0
    broker.start()
    books = Books(broker.data)
    (row,) = books.settled(key.id, seconds=WAIT_S)
    assert (row.outcome, row.cost) == ("unreconciled", row.held)
    log = broker.data / "made-ids.log"
    until(lambda: b'"gone":["","job"' in log.read_bytes(), WAIT_S, "the end of the job")
    assert books.proven().counts.corrections == 0


def test_a_refusal_names_the_lines_and_explains_itself(client: OpenAI, broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "5"})
    ours = client.with_options(api_key=key.text)
    uncapped = line(2)
    del uncapped["body"]["max_tokens"]
    file_id = upload(ours, line(1), uncapped, line(3, model="gpt-unheard-of"))
    with pytest.raises(openai.BadRequestError) as refused:
        begin(ours, file_id)
    assert refused.value.code == "unbounded_request"
    assert "line 2: The output is not capped" in str(refused.value)
    assert "line 3" in str(refused.value)
    request_id = refused.value.request_id
    answer = lambda: broker.admin("GET", f"/v1/admin/decisions/{request_id}")  # noqa: E731
    until(lambda: answer().status_code == 200, WAIT_S, "the decision's record")
    assert "unbounded_request" in answer().text
    assert Books(broker.data).attempts(key.id) == []


def test_what_it_was_for_is_in_the_usage(client: OpenAI, broker: Broker, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "5"})
    ours = client.with_options(api_key=key.text)
    begin(ours, upload(ours, line(1), line(2)))
    Books(broker.data).settled(key.id, seconds=WAIT_S)

    def told() -> list[Any]:
        answer = broker.admin("GET", "/v1/admin/usage", params={"by": "key", "then": "purpose"})
        assert answer.status_code == 200, answer.text
        return [row for row in answer.json()["items"] if key.id in str(row) and "batch" in str(row)]

    until(told, WAIT_S, "the read model")
