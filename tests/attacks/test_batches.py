"""Batches under attack: more than was held, twice at once, results that lie."""

import asyncio
from typing import Any

import msgspec
import pytest

from bursar.core.batches import encode_job, read_job
from bursar.core.directory import Delta
from bursar.gateway.batch_jobs import CLAIM_S
from bursar.gateway.node import BatchRoom
from tests.gateway.answers import MODEL, ceiling_of, chat, plain
from tests.gateway.fakes import FakeResponse
from tests.gateway.ground import PLENTY, Stand, budget
from tests.gateway.test_batches import (
    KEY,
    MakeStand,
    _at_once,
    batch,
    create,
    file_of,
    line,
    over,
    own_file,
    posted,
)

__all__ = ["_at_once"]


ASKED = {"input_file_id": "file-in", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.fixture
def stand(make_stand: MakeStand) -> Stand:
    return make_stand(provider_keys=[KEY], budgets=[budget(PLENTY)])


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"null",
        b"[]",
        b'{"usage":null}',
        b'{"usage":{"prompt_tokens":-5,"completion_tokens":1}}',
        b'{"usage":{"prompt_tokens":0,"completion_tokens":1e400}}',
        b'{"usage":{"prompt_tokens":0,"completion_tokens":"1"}}',
        b'{"usage":{"prompt_tokens":99999999999999999999999,"completion_tokens":1}}',
        b'{"usage":{"prompt_tokens":true,"completion_tokens":1}}',
        b'{"usage":{}}',
        b'{"usage":[]}',
        b'{"usage":{"prompt_tokens":1}}',
        b'{"usage":{"completion_tokens":1}}',
        b"[" * 5000,
    ],
)
async def test_results_that_lie_never_come_cheaper(stand: Stand, body: bytes | None) -> None:
    raw = b'{"response":{"status_code":200%s}}' % (b"" if body is None else b',"body":' + body)
    told = batch("completed", output_file_id="file-out", request_counts={"total": 1, "completed": 1, "failed": 0})
    got = await posted(stand, 1, told, file_of(raw))
    assert got.cost_pico == ceiling_of(chat(max_tokens=100), 100)


async def test_counts_that_are_not_told(stand: Stand) -> None:
    told = batch("cancelled", request_counts={})
    got = await posted(stand, 2, told)
    assert got.cost_pico == 2 * ceiling_of(chat(max_tokens=100), 100)


async def test_no_more_files_are_read_at_once_than_may(stand: Stand) -> None:
    """Twenty that come together, and wait for the register together."""
    await own_file(stand)
    gate, never, find = asyncio.Event(), asyncio.Event(), stand.made_ids.find

    async def waiting(*asked: Any) -> Any:
        await gate.wait()
        return await find(*asked)

    async def reading(*_: Any) -> Any:
        await never.wait()

    stand.made_ids.find = waiting  # type: ignore[method-assign]
    stand.upstream.ask = reading  # type: ignore[method-assign]
    exchanges = [stand.exchange("/v1/batches", ASKED) for _ in range(20)]
    tasks = [asyncio.ensure_future(stand.pipeline.serve(one)) for one in exchanges]
    gate.set()
    async with asyncio.timeout(30):
        while sum(task.done() for task in tasks) < 16:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert stand.node.batches.reading == 4
    assert {one.word for one in exchanges if one.status} == {"overloaded"}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert stand.node.batches.reading == 0


@pytest.mark.parametrize("subject", ["key", "model"])
async def test_a_budget_that_came_while_the_file_was_read_is_not_passed(stand: Stand, subject: str) -> None:
    await own_file(stand)
    ask = stand.upstream.ask

    async def asked(*what: Any) -> Any:
        response = await ask(*what)
        name = next(iter(stand.node.tenants.keys)) if subject == "key" else MODEL
        late = budget(1, "late", subject, name)
        stand.node.tenants.change(Delta(version=stand.node.tenants.version + 1, budgets=[late]))
        return response

    stand.upstream.ask = asked  # type: ignore[method-assign]
    stand.upstream.will(file_of(line()))
    exchange = stand.exchange("/v1/batches", ASKED)
    await stand.pipeline.serve(exchange)
    assert exchange.word == "overloaded"
    assert len(stand.upstream.sent) == 1
    stand.upstream.ask = ask  # type: ignore[method-assign]
    again = stand.exchange("/v1/batches", ASKED)
    stand.upstream.will(file_of(line()))
    await stand.pipeline.serve(again)
    assert again.word == "can_never_fit"
    stand.at_rest()


@pytest.mark.parametrize("when", ["before a look", "while it looks"])
async def test_a_hold_whose_job_another_node_settled_is_not_held_for_ever(stand: Stand, when: str) -> None:
    """Another took this process for dead, and found the end of the batch first: it corrects what is booked here."""
    stand.node.batches = BatchRoom(alone=False)
    gate = asyncio.Event()

    class Waits(FakeResponse):
        async def read(self, limit: int) -> bytes:
            await gate.wait()
            return await super().read(limit)

    told = batch("in_progress" if when == "before a look" else "failed")
    await create(stand, file_of(line()), plain(batch()), Waits([msgspec.json.encode(told)], 200, {}))
    (record,) = await stand.made_ids.listed("", "job", most=9)
    job = read_job(record.about)
    assert job is not None
    settled = msgspec.structs.replace(job, by="another", settled="another", until=job.until + 10**15)
    assert await stand.made_ids.swap(record, msgspec.structs.replace(record, about=encode_job(settled)))
    stand.clock.advance(CLAIM_S)
    gate.set()
    await over(stand)
    stand.at_rest()
    assert stand.balance() == (job.ceiling, 0)
    await stand.journal.correct(job.hold, -job.ceiling, "batch")
    assert stand.balance() == (0, 0)
