"""Files over a shared account, stage by stage: whose they are, what may be uploaded, and providers that fail or lie."""

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from bursar.core.directory import LimitDef, Policy
from bursar.core.errors import Refusal, UpstreamFault
from tests.gateway.answers import broken, error, plain
from tests.gateway.fakes import HANG, FakeExchange, FakeResponse
from tests.gateway.ground import TWO_KEYS, Stand, provider_key

MakeStand = Callable[..., Stand]
PATH = "/v1/files"
BATCHES = provider_key("pk-b", "openai/*/api/prod/*", purposes=("batch",))


def file(made_id: str = "file-1", **fields: Any) -> dict[str, Any]:
    values = {"id": made_id, "object": "file", "bytes": 4, "created_at": 1, "filename": "a.txt", "purpose": "user_data"}
    return values | {"status": "processed"} | fields


async def upload(stand: Stand, *answers: Any, purpose: str = "user_data", before: Any = None) -> FakeExchange:
    sent = httpx.Request("POST", "http://x", data={"purpose": purpose}, files={"file": ("a.txt", b"text")})
    stand.upstream.will(*answers)
    exchange = stand.exchange(PATH, sent.read(), headers={"content-type": sent.headers["content-type"]})
    exchange.memo.clear()
    if before is not None:
        stand.upstream.before = lambda: before(exchange)
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    return exchange


async def listed(stand: Stand, query: str = "") -> Any:
    exchange = stand.exchange(PATH, b"", method="GET")
    exchange.query = query
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    return exchange.json if exchange.status == 200 else exchange.word


async def test_an_upload_goes_up_as_it_came_and_is_the_teams_before_it_is_told(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=TWO_KEYS)
    exchange = await upload(stand, plain(file()))
    assert (exchange.status, exchange.json) == (200, file())
    (sent,) = stand.upstream.sent
    assert sent.route == "POST /files"
    assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert sent.body == await exchange.body()
    made = await stand.made_ids.find("team-1", "file", "file-1")
    assert made is not None
    assert (made.provider, made.secret) == ("openai", stand.releases.asked[0][0])
    for path, method in ((f"{PATH}/file-1", "GET"), (f"{PATH}/file-1/content", "GET"), (f"{PATH}/file-1", "DELETE")):
        assert (await stand.ask(plain(file()), path=path, method=method, body=b"")).status == 200
    assert [one.route for one in stand.upstream.sent[1:]] == [
        "GET /files/file-1",
        "GET /files/file-1/content",
        "DELETE /files/file-1",
    ]
    assert {key for key, _ in stand.releases.asked} == {made.secret}
    assert await stand.made_ids.find("team-1", "file", "file-1") is None


async def test_a_list_has_the_teams_own_in_pages_and_asks_nobody(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=(*TWO_KEYS, BATCHES))
    for number in range(5):
        await upload(stand, plain(file(f"file-{number}")))
        stand.clock.advance(1)
    await upload(stand, plain(file("file-b", purpose="batch")), purpose="batch")
    sent = len(stand.upstream.sent)
    whole = await listed(stand)
    assert [row["id"] for row in whole["data"]] == ["file-b", "file-4", "file-3", "file-2", "file-1", "file-0"]
    assert whole["data"][1] == {**file("file-4"), "expires_at": None}
    assert (whole["has_more"], whole["first_id"], whole["last_id"]) == (False, "file-b", "file-0")
    page = await listed(stand, "limit=2&purpose=user_data")
    assert ([row["id"] for row in page["data"]], page["has_more"]) == (["file-4", "file-3"], True)
    page = await listed(stand, "limit=4&order=asc&after=file-1")
    assert ([row["id"] for row in page["data"]], page["has_more"]) == (["file-2", "file-3", "file-4", "file-b"], False)
    assert (await listed(stand, "purpose=vision"))["data"] == []
    assert await listed(stand, "after=file-none") == "unknown_id"
    for wrong in ("limit=0", "limit=x", "order=up"):
        assert await listed(stand, wrong) == "invalid_field"
    assert len(stand.upstream.sent) == sent


async def test_what_a_file_is_for_must_be_allowed_to_the_key_and_to_the_provider_key(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(purposes=("inference",)), provider_keys=(*TWO_KEYS, BATCHES))
    for purpose in ("batch", "fine-tune"):
        exchange = await upload(stand, purpose=purpose)
        assert (exchange.status, exchange.word) == (403, "purpose_not_allowed")
    assert (await upload(stand, plain(file()))).status == 200
    stand = make_stand(provider_keys=TWO_KEYS)
    assert (await upload(stand, purpose="batch")).word == "no_provider_key"
    stand = make_stand(policy=Policy(purposes=("batch",)), provider_keys=(*TWO_KEYS, BATCHES))
    assert (await upload(stand, plain(file(purpose="batch")), purpose="batch")).status == 200
    assert stand.releases.asked == [("pk-b", 1)]
    assert (await stand.ask(plain(file()), path=f"{PATH}/file-1", method="GET", body=b"")).status == 200
    assert (await upload(stand)).word == "purpose_not_allowed"


async def test_uploads_and_lists_count_against_the_limits_and_need_a_key(make_stand: MakeStand) -> None:
    limit = LimitDef(unit="requests", amount=1, per_seconds=3600)
    stand = make_stand(policy=Policy(limits=(limit,)))
    assert (await upload(stand, plain(file()))).status == 200
    assert await listed(stand) == "rate_limited"
    assert (await upload(stand)).word == "rate_limited"
    exchange = stand.exchange(PATH, b"", method="GET", headers={"authorization": "Bearer bsr_x"})
    await stand.pipeline.serve(exchange)
    assert (exchange.status, exchange.body_asked) == (401, False)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (UpstreamFault("connect", sent=False), "upstream_unreachable"),
        (UpstreamFault("timeout_head", sent=True), "upstream_timeout"),
        (broken("reset"), "upstream_broken"),
        (plain(file("../models")), "upstream_broken"),
        (plain(file("")), "upstream_broken"),
        (plain(file(purpose="batch")), "upstream_broken"),
        (plain({"object": "list", "data": [file()]}), "upstream_broken"),
        (plain(file(bytes="many")), "upstream_broken"),
        (FakeResponse([b"\xff{"], 200, {}), "upstream_broken"),
        (FakeResponse([b"x" * 70_000], 200, {}), "upstream_broken"),
        (plain(file(), **{"content-encoding": "gzip"}), "upstream_broken"),
    ],
)
async def test_a_provider_that_fails_or_lies_gives_nobody_an_id(make_stand: MakeStand, answer: Any, word: str) -> None:
    stand = make_stand()
    assert (await upload(stand, answer)).word == word
    assert (await listed(stand))["data"] == []


async def test_an_error_of_the_providers_is_told_in_its_words(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = await upload(stand, error(413, "too_big"))
    assert (exchange.status, exchange.json["error"]["code"]) == (413, "too_big")
    assert (await listed(stand))["data"] == []


async def test_a_caller_who_leaves_finds_the_file_in_the_list(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = await upload(stand, plain(file()), before=lambda exchange: exchange.leave())
    assert exchange.sent == b""
    assert [row["id"] for row in (await listed(stand))["data"]] == ["file-1"]


async def test_a_file_whose_id_cannot_be_kept_is_taken_away_again(make_stand: MakeStand) -> None:
    stand = make_stand()

    async def keep(_made: object) -> None:
        raise Refusal("ids_unavailable", "Away")

    stand.made_ids.keep = keep  # type: ignore[method-assign]
    for after in (plain({"deleted": True}), UpstreamFault("reset", sent=True)):
        exchange = await upload(stand, plain(file()), after)
        assert (exchange.status, exchange.word) == (503, "ids_unavailable")
        assert b"file-1" not in exchange.sent
        assert stand.upstream.sent[-1].route == "DELETE /files/file-1"


async def test_content_is_streamed_and_breaks_visibly(make_stand: MakeStand) -> None:
    stand = make_stand()
    await upload(stand, plain(file()))
    media = {"content-type": "application/octet-stream"}
    exchange = await stand.ask(
        FakeResponse([b"ab", b"\0\xff"], 200, media), path=f"{PATH}/file-1/content", method="GET", body=b""
    )
    assert (exchange.pieces, exchange.finished, exchange.header("content-type")) == (
        [b"ab", b"\0\xff"],
        True,
        "application/octet-stream",
    )
    fault = UpstreamFault("timeout_between_bytes", sent=True)
    exchange = await stand.ask(
        FakeResponse([b"ab", fault], 200, media), path=f"{PATH}/file-1/content", method="GET", body=b""
    )
    assert (exchange.sent, exchange.aborted) == (b"ab", True)


async def test_a_caller_who_leaves_the_content_ends_the_reading(make_stand: MakeStand) -> None:
    stand = make_stand()
    await upload(stand, plain(file()))
    exchange = stand.exchange(f"{PATH}/file-1/content", b"", method="GET")
    answer = FakeResponse([b"ab", exchange.leave, HANG], 200, {})
    stand.upstream.will(answer)
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert answer.aborted


async def test_a_foreign_file_is_answered_like_none_and_asks_nobody(make_stand: MakeStand) -> None:
    stand = make_stand()
    await upload(stand, plain(file("file-theirs")))
    made = await stand.made_ids.find("team-1", "file", "file-theirs")
    assert made is not None
    await stand.made_ids.forget("team-1", "file", "file-theirs")
    await stand.made_ids.keep([msgspec.structs.replace(made, team="team-2")])
    sent = len(stand.upstream.sent)
    for made_id in ("file-theirs", "file-none", "..", "content"):
        for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
            exchange = await stand.ask(path=f"{PATH}/{made_id}{rest}", method=method, body=b"")
            assert (exchange.status, exchange.word) == (404, "unknown_id")
    assert (await listed(stand))["data"] == []
    assert len(stand.upstream.sent) == sent
