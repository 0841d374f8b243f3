"""Files and batches when the provider stalls, breaks off or lies, the caller leaves, or the gateway is killed."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest

from bursar.providers.emulator import Charge
from tests.e2e.broker import Broker
from tests.e2e.tenants import MadeKey, Tenants
from tests.faults.books import Attempt, Books, price_of, until
from tests.faults.caller import raw_request, script, send

CHAT = "/v1/chat/completions"
WAIT_S = 60


class Team:
    """One key with a hard budget of its own, and what it asks of a broker."""

    def __init__(self, broker: Broker, key: MadeKey) -> None:
        self.key = key
        self._client = httpx.Client(
            base_url=broker.url, headers={"authorization": f"Bearer {key.text}"}, timeout=WAIT_S
        )

    def upload(self, content: bytes, purpose: str = "batch") -> httpx.Response:
        return self._client.post("/v1/files", data={"purpose": purpose}, files={"file": ("a.jsonl", content)})

    def file(self, content: bytes, purpose: str = "batch") -> str:
        answer = self.upload(content, purpose)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def get(self, path: str) -> httpx.Response:
        return self._client.get(path)

    def asked(self, file_id: str, **said: Any) -> dict[str, Any]:
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        return {**body, "metadata": {"emulator": json.dumps(said)}} if said else body

    def batch(self, file_id: str, **said: Any) -> httpx.Response:
        return self._client.post("/v1/batches", json=self.asked(file_id, **said))


@pytest.fixture
def team(impatient: Broker, tenants: Tenants) -> Callable[[], Team]:
    return lambda: Team(impatient, tenants.key(budget={"limit_usd": "5"}))


def lines(inputs: Sequence[int], **said: Any) -> bytes:
    """A chat each, which counts so many input tokens."""
    found = []
    for number in inputs:
        directive = script(**{"input": number, "output": 40, **said})[:-2].replace("]]", "]\\u005d")
        text = "x" * 1200 + directive + "]]"
        body = {"model": "gpt-4o-mini", "max_tokens": 100, "messages": [{"role": "user", "content": text}]}
        found.append(json.dumps({"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": body}))
    return "\n".join(found).encode()


def scripted(on: str, made_id: str = "", **said: Any) -> bytes:
    return b"[[emulator-file %b]]\n" % json.dumps({"on": on, "id": made_id, "script": said}).encode()


def covered(books: Books, key: MadeKey, inputs: Sequence[int], exact: bool) -> tuple[Attempt, list[Charge]]:
    """What was booked, and what was billed: never less, and to the pico where it is said to be exact."""
    (row,) = books.settled(key.id, seconds=WAIT_S)
    bill = books.charges(inputs)
    cost = sum(map(price_of, bill))
    assert row.exact is exact, row
    assert (row.cost == cost) if exact else (cost <= row.cost <= row.held), (row, bill)
    assert row.overage == 0
    return row, bill


# ---- files

BROKEN: list[dict[str, Any]] = [
    {"stall": "head"},
    {"stall": "mid_stream"},
    {"disconnect": "before_head"},
    {"disconnect": "mid_head"},
    {"disconnect": "mid_stream"},
    {"status": 500},
]


@pytest.mark.parametrize("said", BROKEN)
def test_an_upload_that_fails_gives_nobody_a_file(team: Callable[[], Team], said: dict[str, Any]) -> None:
    ours = team()
    answer = ours.upload(scripted("upload", **said), "user_data")
    assert answer.status_code >= 500
    assert ours.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize("said", BROKEN)
def test_content_that_breaks_off_does_so_visibly(team: Callable[[], Team], said: dict[str, Any]) -> None:
    ours = team()
    made = ours.file(scripted("content", **said), "user_data")
    try:
        assert ours.get(f"/v1/files/{made}/content").status_code >= 500
    except httpx.TransportError:
        assert "mid_stream" in said.values()
    assert ours.get(f"/v1/files/{made}").json()["id"] == made


@pytest.mark.parametrize("on", ["show", "delete"])
@pytest.mark.parametrize("said", BROKEN)
def test_what_fails_is_told(team: Callable[[], Team], on: str, said: dict[str, Any]) -> None:
    ours = team()
    made = ours.file(scripted(on, **said), "user_data")
    ask = ours.get if on == "show" else ours._client.delete
    assert ask(f"/v1/files/{made}").status_code >= 500


def test_a_lie_about_an_id_gives_nobody_anothers_file(team: Callable[[], Team]) -> None:
    ours, theirs = team(), team()
    for lie in ("../models", "a/b", "a b", "x" * 300):
        assert ours.upload(scripted("upload", lie), "user_data").json()["error"]["code"] == "upstream_broken"
    made = ours.file(b"ours", "user_data")
    assert theirs.upload(scripted("upload", "file-made-up"), "user_data").json()["id"] == "file-made-up"
    assert theirs.get("/v1/files/file-made-up").status_code == 404
    assert ours.get(f"/v1/files/{made}/content").content == b"ours"
    assert ours.get("/v1/files/file-made-up").json()["error"]["code"] == "unknown_id"


# ---- batches


@pytest.mark.parametrize("lie", ["negative", "huge", "missing", "zero", "text"])
def test_lies_about_the_usage_of_lines(
    team: Callable[[], Team], books: Books, numbers: Iterator[int], lie: str
) -> None:
    ours = team()
    good, bad = [next(numbers)], [next(numbers), next(numbers)]
    made = ours.batch(ours.file(lines(good) + b"\n" + lines(bad, usage=lie)))
    assert made.status_code == 200, made.text
    _, bill = covered(books, ours.key, [*good, *bad], exact=False)
    assert len(bill) == 3


ENDS: list[tuple[dict[str, Any], bool, int]] = [  # what the batch does; is that exact; lines that are billed
    ({}, True, 4),
    ({"end": "expired", "after": 1}, True, 1),
    ({"end": "failed"}, True, 0),
    ({"lose": 2}, False, 4),
    ({"lose": 4}, False, 4),
    ({"lose": 1, "counts": "missing"}, False, 4),
    ({"lose": 1, "counts": "zero"}, False, 4),
    ({"counts": "zero"}, True, 4),
    ({"end": "expired", "after": 3, "counts": "missing"}, True, 3),
    ({"away": 3}, True, 4),
    ({"input_file": "file-other"}, False, 4),
]


@pytest.mark.parametrize(("said", "exact", "billed"), ENDS)
def test_ends_of_batches_and_lies_about_them(
    team: Callable[[], Team], books: Books, numbers: Iterator[int], said: dict[str, Any], exact: bool, billed: int
) -> None:
    ours = team()
    inputs = [next(numbers) for _ in range(4)]
    ours.batch(ours.file(lines(inputs)), **said)
    _, bill = covered(books, ours.key, inputs, exact)
    assert len(bill) == billed


def test_lines_that_fail_and_are_billed_all_the_same(
    team: Callable[[], Team], books: Books, numbers: Iterator[int]
) -> None:
    ours = team()
    inputs = [next(numbers) for _ in range(2)]
    ours.batch(ours.file(lines(inputs, status=500, bill_error=True)))
    assert len(covered(books, ours.key, inputs, exact=False)[1]) == 2
    ours = team()
    refused = [next(numbers) for _ in range(2)]
    ours.batch(ours.file(lines(refused, status=400)))
    assert covered(books, ours.key, refused, exact=True)[0].cost == 0


@pytest.mark.parametrize("said", BROKEN)
def test_a_batch_that_nobody_was_told_of_costs_its_ceiling(
    team: Callable[[], Team], books: Books, numbers: Iterator[int], said: dict[str, Any]
) -> None:
    ours = team()
    inputs = [next(numbers) for _ in range(2)]
    assert ours.batch(ours.file(lines(inputs)), create=said).status_code >= 500
    row, bill = covered(books, ours.key, inputs, exact=False)
    assert (row.cost, len(bill)) == (row.held, 2)
    assert ours.get("/v1/batches").json()["data"] == []


@pytest.mark.parametrize("said", BROKEN)
def test_an_input_file_that_cannot_be_read_begins_nothing(
    team: Callable[[], Team], books: Books, said: dict[str, Any]
) -> None:
    ours = team()
    assert ours.batch(ours.file(scripted("content", **said))).status_code >= 500
    assert books.attempts(ours.key.id) == []


def test_result_files_that_break_off_are_read_again_or_counted_at_their_worst(
    team: Callable[[], Team], books: Books, numbers: Iterator[int]
) -> None:
    """An answer of the model's that says how its own result file is to be shown: it breaks off, for ever."""
    ours = team()
    inputs = [next(numbers)]
    text = scripted("content", disconnect="mid_stream").decode().strip()
    made = ours.batch(ours.file(lines(inputs, text=text))).json()["id"]
    until(lambda: ours.get(f"/v1/batches/{made}").json()["status"] == "completed", WAIT_S, "its end")
    file_id = ours.get(f"/v1/batches/{made}").json()["output_file_id"]
    with pytest.raises(httpx.TransportError):
        ours.get(f"/v1/files/{file_id}/content")
    (row,) = books.attempts(ours.key.id)
    assert row.state == "HELD"
    ours._client.delete(f"/v1/files/{file_id}")
    covered(books, ours.key, inputs, exact=False)


async def test_a_caller_who_leaves_finds_the_batch_in_the_list(
    impatient: Broker, team: Callable[[], Team], books: Books, numbers: Iterator[int]
) -> None:
    ours = team()
    inputs = [next(numbers) for _ in range(3)]
    file_id = await asyncio.to_thread(ours.file, lines(inputs))
    body = json.dumps(ours.asked(file_id, create={"latency_ms": 100})).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", impatient.data_port)
    writer.write(raw_request("/v1/batches", ours.key.text, body))
    await asyncio.to_thread(books.billed, inputs, 3)  # it was made, and its answer takes a moment
    writer.transport.abort()
    await asyncio.to_thread(covered, books, ours.key, inputs, exact=True)
    (row,) = (await asyncio.to_thread(ours.get, "/v1/batches")).json()["data"]
    assert row["input_file_id"] == file_id


async def test_a_gateway_killed_while_it_asks_books_the_ceiling(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker().start()
    ours, books = Team(broker, Tenants(broker).key(budget={"limit_usd": "5"})), Books(broker.data)
    inputs = [301, 302]
    file_id = await asyncio.to_thread(ours.file, lines(inputs))
    body = json.dumps(ours.asked(file_id, create={"stall": "head"})).encode()
    waiting = asyncio.create_task(send(broker.data_port, raw_request("/v1/batches", ours.key.text, body)))
    await asyncio.to_thread(books.billed, inputs, 2)
    assert [row.state for row in books.attempts(ours.key.id)] == ["HELD"]
    broker.wait_replaced("gateway", broker.kill("gateway"))
    assert (await waiting).status == 0
    (row,) = await asyncio.to_thread(books.settled, ours.key.id)
    assert (row.outcome, row.cost) == ("unreconciled", row.held)
    assert row.cost >= sum(map(price_of, books.charges(inputs)))
    assert books.proven().open_holds == 0
