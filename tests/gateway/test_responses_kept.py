"""Responses over a shared account, stage by stage: ids are written down before they are told, and pin what follows."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from bursar.core.errors import Refusal
from bursar.core.made_ids import MadeId
from tests.gateway.answers import MODEL, broken, plain, stream
from tests.gateway.fakes import FakeExchange, FakeResponse
from tests.gateway.ground import PLENTY, TWO_KEYS, Stand, budget

MakeStand = Callable[..., Stand]
PATH = "/v1/responses"
MESSAGE = {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "Hi"}]}


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": "Hello", "max_output_tokens": 100} | fields


def response(made_id: str = "resp_1", status: str = "completed", **fields: Any) -> dict[str, Any]:
    used = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    values = {"id": made_id, "object": "response", "status": status, "output": [MESSAGE], "usage": used}
    return values | fields


def event(kind: str, **fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode({"type": f"response.{kind}", **fields}) + b"\n\n"


def events() -> list[bytes]:
    begun = response(status="in_progress", output=[], usage=None)
    return [
        event("created", response=begun),
        event("output_item.added", item={"id": "msg_1", "type": "message", "content": []}),
        event("output_text.delta", delta="Hi"),
        event("output_item.done", item=MESSAGE),
        event("completed", response=response()),
    ]


class Slow:
    """`bursar.ports.MadeIds` that takes its time, or fails."""

    def __init__(self, stand: Stand, exchange: list[FakeExchange], *, fails: bool = False) -> None:
        self._inner = stand.made_ids
        self._exchange = exchange
        self._fails = fails
        self.told_before: list[bytes] = []

    async def keep(self, made: Sequence[MadeId]) -> None:
        await asyncio.sleep(0.01)
        self.told_before += [one.id.encode() for one in made if one.id.encode() in self._exchange[0].sent]
        if self._fails:
            raise Refusal("ids_unavailable", "Away")
        await self._inner.keep(made)

    async def find(self, team: str, kind: Any, made_id: str) -> MadeId | None:
        return await self._inner.find(team, kind, made_id)

    async def forget(self, team: str, kind: Any, made_id: str) -> None:
        await self._inner.forget(team, kind, made_id)

    async def swap(self, old: MadeId, new: MadeId) -> bool:
        return await self._inner.swap(old, new)

    async def listed(
        self, team: str, kind: Any, *, most: int, after: MadeId | None = None, newest_first: bool = True
    ) -> list[MadeId]:
        return await self._inner.listed(team, kind, most=most, after=after, newest_first=newest_first)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_an_id_is_written_down_before_it_is_told(make_stand: MakeStand, streamed: bool, fails: bool) -> None:
    stand = make_stand()
    exchange = stand.exchange(PATH, ask(stream=streamed))
    store = stand.node.made_ids = Slow(stand, [exchange], fails=fails)
    stand.upstream.will(stream(*events()) if streamed else plain(response()))
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert exchange.status == 200
    assert store.told_before == []
    assert exchange.sent == (b"".join(events()) if streamed else msgspec.json.encode(response()))
    for kind, made_id in (("response", "resp_1"), ("item", "msg_1")):
        assert (await stand.made_ids.find("team-1", kind, made_id) is not None) is not fails  # type: ignore[arg-type]


async def test_what_follows_goes_to_the_account_that_made_it(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=TWO_KEYS)
    await stand.ask(plain(response()), path=PATH, body=ask())
    (made,) = [await stand.made_ids.find("team-1", "response", "resp_1")]
    assert made is not None
    for path, method, body in (
        (PATH, "POST", ask(previous_response_id="resp_1")),
        (f"{PATH}/resp_1", "GET", b""),
        (f"{PATH}/resp_1/input_items", "GET", b""),
        (f"{PATH}/resp_1/cancel", "POST", b""),
        (f"{PATH}/resp_1", "DELETE", b""),
    ):
        before = len(stand.releases.asked)
        exchange = await stand.ask(plain(response("resp_2")), path=path, method=method, body=body)
        assert exchange.status == 200
        assert {key for key, _ in stand.releases.asked[before:]} <= {made.secret}
    assert await stand.made_ids.find("team-1", "response", "resp_1") is None
    assert [sent.route for sent in stand.upstream.sent[2:]] == [
        "GET /responses/resp_1",
        "GET /responses/resp_1/input_items",
        "POST /responses/resp_1/cancel",
        "DELETE /responses/resp_1",
    ]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_nothing_goes_up_for_an_id_that_is_not_the_teams(make_stand: MakeStand, method: str) -> None:
    stand = make_stand()
    now = stand.clock.now()
    theirs = MadeId(
        team="team-2", kind="response", id="resp_9", key="k", provider="openai", made_at=now, expires_at=now + 10**12
    )
    await stand.made_ids.keep([theirs])
    for made_id in ("resp_9", "resp_8", "..", "%2e%2e", "a?b", "resp_9%00"):
        exchange = await stand.ask(path=f"{PATH}/{made_id}", method=method, body=b"")
        assert (exchange.status, exchange.json["error"]["code"]) == (404, "unknown_id")
    assert stand.upstream.sent == []
    assert await stand.made_ids.find("team-2", "response", "resp_9") is not None


async def test_a_provider_that_says_no_keeps_its_words_and_ours_stays_secret(make_stand: MakeStand) -> None:
    stand = make_stand()
    await stand.ask(plain(response()), path=PATH, body=ask())
    gone = await stand.ask(plain({"error": {"message": "gone"}}, 404), path=f"{PATH}/resp_1", method="GET", body=b"")
    assert (gone.status, gone.json) == (404, {"error": {"message": "gone"}})
    bad = await stand.ask(plain({"error": {}}, 401), path=f"{PATH}/resp_1", method="GET", body=b"")
    assert (bad.status, bad.json["error"]["code"]) == (502, "upstream_key_refused")
    broke = await stand.ask(broken("closed"), path=f"{PATH}/resp_1", method="GET", body=b"")
    assert broke.json["error"]["code"] == "upstream_broken"


async def test_a_get_costs_no_money_and_counts_as_a_request(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    await stand.ask(plain(response()), path=PATH, body=ask())
    spent = stand.journal.room(["b"])
    await stand.ask(plain(response()), path=f"{PATH}/resp_1", method="GET", body=b"")
    assert stand.journal.room(["b"]) == spent


async def test_an_encoded_answer_is_not_passed_on(make_stand: MakeStand) -> None:
    stand = make_stand()
    await stand.ask(plain(response()), path=PATH, body=ask())
    packed = FakeResponse([b"x"], 200, {"content-type": "application/json", "content-encoding": "gzip"})
    exchange = await stand.ask(packed, path=f"{PATH}/resp_1", method="GET", body=b"")
    assert exchange.json["error"]["code"] == "upstream_broken"
