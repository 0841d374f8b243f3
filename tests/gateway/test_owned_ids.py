"""What a provider keeps belongs to the team that made it: field/gateways.md, ids of others over a shared account."""

from collections.abc import Callable
from typing import Any

import pytest

from bursar.core.made_ids import MadeId
from tests.gateway.answers import chat, completion, message, plain, usage
from tests.gateway.fakes import FakeExchange
from tests.gateway.ground import ANTHROPIC_KEY, TWO_KEYS, Stand, provider_key

MakeStand = Callable[..., Stand]
HOUR = 3600 * 10**9


def made(stand: Stand, made_id: str, **changes: Any) -> MadeId:
    now = stand.clock.now()
    values = {"team": "team-1", "kind": "file", "id": made_id, "key": "k", "provider": "openai", "secret": "pk-openai"}
    return MadeId(**(values | {"made_at": now, "expires_at": now + HOUR} | changes))


def with_file(*ids: str) -> dict[str, Any]:
    parts = [{"type": "file", "file": {"file_id": one}} for one in ids]
    return chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Read"}, *parts]}])


def told(exchange: FakeExchange) -> tuple[int, Any]:
    """Status and words of an answer, without what names the request itself."""
    answer = exchange.json
    answer["bursar"].pop("request_id")
    return exchange.status, answer


async def test_a_file_of_the_team_goes_to_the_provider_key_that_made_it(make_stand: MakeStand) -> None:
    for key_id in ("pk-a", "pk-b"):
        stand = make_stand(provider_keys=TWO_KEYS)
        await stand.made_ids.keep([made(stand, "file-1", secret=key_id)])
        exchange = await stand.ask(completion("Hi", usage(10, 2)), body=with_file("file-1"))
        assert exchange.status == 200
        assert stand.releases.asked == [(key_id, 1)]


async def test_foreign_unknown_expired_and_impossible_ids_are_told_alike_and_sent_nowhere(
    make_stand: MakeStand,
) -> None:
    stand = make_stand()
    await stand.made_ids.keep(
        [made(stand, "file-theirs", team="team-2"), made(stand, "file-old"), made(stand, "resp_1")]
    )
    stand.clock.advance(3601)
    await stand.made_ids.keep([made(stand, "file-wrongkind", kind="batch")])
    ids = ("file-theirs", "file-old", "file-none", "file-wrongkind", "", "../models", "a?b", "f" * 300)
    answers = [told(await stand.ask(body=with_file(one))) for one in ids]
    assert answers[0][0] == 404
    assert answers[0][1]["error"]["code"] == "unknown_id"
    assert all(answer == answers[0] for answer in answers)
    assert stand.upstream.sent == []


async def test_one_foreign_id_beside_an_own_one_is_enough(make_stand: MakeStand) -> None:
    stand = make_stand()
    await stand.made_ids.keep([made(stand, "file-1"), made(stand, "file-theirs", team="team-2")])
    exchange = await stand.ask(body=with_file("file-1", "file-theirs"))
    assert exchange.status == 404
    assert stand.upstream.sent == []


async def test_ids_of_two_accounts_cannot_be_served_together(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=TWO_KEYS)
    await stand.made_ids.keep([made(stand, "file-a", secret="pk-a"), made(stand, "file-b", secret="pk-b")])
    exchange = await stand.ask(body=with_file("file-a", "file-b"))
    assert (exchange.status, exchange.json["error"]["code"]) == (400, "invalid_field")


async def test_a_provider_key_that_may_not_serve_the_model_is_no_way_round(make_stand: MakeStand) -> None:
    keys = (provider_key("pk-a", "openai/other-*/api/prod/*"), provider_key("pk-b", "openai/*/api/prod/*"))
    stand = make_stand(provider_keys=keys)
    await stand.made_ids.keep([made(stand, "file-1", secret="pk-a")])
    exchange = await stand.ask(body=with_file("file-1"))
    assert (exchange.status, exchange.json["error"]["code"]) == (503, "no_provider_key")
    assert stand.upstream.sent == []


async def test_a_provider_key_that_was_replaced_is_followed_by_one_of_the_same_provider(make_stand: MakeStand) -> None:
    stand = make_stand()
    await stand.made_ids.keep([made(stand, "file-1", secret="pk-before")])
    assert (await stand.ask(completion("Hi", usage(10, 2)), body=with_file("file-1"))).status == 200


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ({"type": "document", "source": {"type": "file", "file_id": "file-none"}}, 404),
        ({"type": "document", "source": {"type": "file", "file_id": "file-1"}}, 200),
        ({"type": "container_upload", "file_id": "file-none"}, 404),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "code_execution_output", "file_id": "f"}]},
            200,
        ),
    ],
)
async def test_files_of_anthropic_are_owned_as_well(make_stand: MakeStand, part: dict[str, Any], status: int) -> None:
    stand = make_stand()
    await stand.made_ids.keep([made(stand, "file-1", provider="anthropic", secret=ANTHROPIC_KEY.id)])
    answers = [plain({"type": "message", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}})]
    body = message(messages=[{"role": "user", "content": [part]}])
    exchange = await stand.ask(*answers[: status == 200], path="/v1/messages", body=body)
    assert exchange.status == status


async def test_a_store_that_cannot_be_read_refuses_only_those_who_need_it(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.made_ids._path = stand.folder / "nowhere" / "made-ids.log"
    exchange = await stand.ask(body=with_file("file-1"))
    assert (exchange.status, exchange.json["error"]["code"]) == (503, "ids_unavailable")
    assert (await stand.ask(completion("Hi", usage(10, 2)))).status == 200
