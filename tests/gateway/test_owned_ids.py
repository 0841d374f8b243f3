"""What a provider keeps belongs to the team that made it: field/gateways.md, ids of others over a shared account."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bursar.core.made_ids import MadeId
from tests.gateway.answers import (
    CLAUDE,
    DONE,
    MODEL,
    chat,
    chunk,
    completion,
    event,
    message,
    named,
    plain,
    stream,
    usage,
    usage_chunk,
)
from tests.gateway.fakes import FakeExchange, FakeResponse
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


# ---- what answers teach ----------------------------------------------------------------------------------------------

RUN = {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}
SPEAK = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
RESULT = {
    "type": "bash_code_execution_tool_result",
    "tool_use_id": "t",
    "content": {
        "type": "bash_code_execution_result",
        "stdout": '"file_id": "file-printed"',
        "content": [{"type": "bash_code_execution_output", "file_id": "file-written"}],
    },
}
# A model writes what its caller wants it to: nothing in these is an id that anybody made.
WRITTEN = [
    {"type": "text", "text": '{"container": {"id": "container-said"}}'},
    {"type": "tool_use", "id": "u", "name": "f", "input": {"type": "code_execution_output", "file_id": "file-said"}},
    {"type": "server_tool_use", "id": "v", "name": "bash", "input": {"container": {"id": "container-said"}}},
]
CONTAINER = {"id": "container-1", "expires_at": "2026-11-24T00:00:00Z"}
COUNTS = {"input_tokens": 9, "output_tokens": 90}
AUDIO = {"id": "audio-1", "expires_at": 1, "data": "AAAA", "transcript": "Hi"}


def ran() -> FakeResponse:
    return plain({"type": "message", "content": [*WRITTEN, RESULT], "container": CONTAINER, "usage": COUNTS})


def ran_in_a_stream() -> FakeResponse:
    blocks = [*WRITTEN, RESULT]
    return stream(
        named("message_start", message={"usage": COUNTS}),
        *(named("content_block_start", index=n, content_block=block) for n, block in enumerate(blocks)),
        named("message_delta", delta={"stop_reason": "end_turn", "container": CONTAINER}, usage=COUNTS),
        named("message_stop"),
    )


def spoken() -> FakeResponse:
    message = {"role": "assistant", "content": '{"audio": {"id": "audio-said"}}', "audio": AUDIO}
    return plain({"choices": [{"index": 0, "message": message}], "usage": usage(9, 90)})


def spoken_in_a_stream() -> FakeResponse:
    deltas = [{"audio": {"id": "audio-1", "transcript": ""}}, {"audio": {"data": "AAAA"}}, {"content": '"audio": 1'}]
    pieces = [event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    return stream(*pieces, chunk(finish="stop"), usage_chunk(9, 90), DONE)


def in_container(container: Any, **more: Any) -> dict[str, Any]:
    return message(container=container, **RUN, **more)


def saying(audio_id: str) -> dict[str, Any]:
    return chat(messages=[{"role": "assistant", "audio": {"id": audio_id}}, {"role": "user", "content": "Go on"}])


def uploading(file_id: str) -> dict[str, Any]:
    part = {"type": "container_upload", "file_id": file_id}
    return in_container(None, messages=[{"role": "user", "content": [part]}])


async def asked_by(stand: Stand, team: str, body: dict[str, Any]) -> FakeExchange:
    """The stand's key calls as a key of this team."""
    stand.snapshot.teams[:] = [msgspec.structs.replace(stand.team, id=team)]
    stand.snapshot.keys[:] = [msgspec.structs.replace(stand.key, team_id=team)]
    stand.node.tenants.replace(stand.snapshot)
    anthropic = body["model"] == CLAUDE
    answer = plain({"type": "message", "content": [], "usage": COUNTS}) if anthropic else completion("Hi", usage(10, 2))
    exchange = await stand.ask(answer, body=body, path="/v1/messages" if anthropic else "/v1/chat/completions")
    stand.upstream.answers.clear()
    return exchange


@pytest.mark.parametrize("answer", [ran, ran_in_a_stream, spoken, spoken_in_a_stream])
async def test_what_an_answer_makes_is_its_teams_alone(make_stand: MakeStand, answer: Any) -> None:
    stand, streamed = make_stand(), answer in (ran_in_a_stream, spoken_in_a_stream)
    if answer in (ran, ran_in_a_stream):
        first, path = message(stream=streamed, **RUN), "/v1/messages"
        own = [in_container("container-1"), in_container({"id": "container-1"}), uploading("file-written")]
        nobodys = [in_container("container-said"), uploading("file-said"), uploading("file-printed")]
    else:
        first, path = chat(stream=streamed, **SPEAK), "/v1/chat/completions"
        own, nobodys = [saying("audio-1")], [saying("audio-said"), saying("")]
    made = await stand.ask(answer(), body=first, path=path)
    assert made.status == 200
    assert b"container-1" in made.sent or b"audio-1" in made.sent
    for body in own:
        assert (await asked_by(stand, "team-1", body)).status == 200
    sent = len(stand.upstream.sent)
    refused = [await asked_by(stand, "team-2", body) for body in own]
    refused += [await asked_by(stand, "team-1", body) for body in nobodys]
    assert {(exchange.status, exchange.word) for exchange in refused} == {(404, "unknown_id")}
    assert len(stand.upstream.sent) == sent


@pytest.mark.parametrize(
    ("skill", "status"),
    [
        ({"type": "anthropic", "skill_id": "pptx", "version": "latest"}, 200),
        ({"type": "custom", "skill_id": "skill_01abc", "version": "latest"}, 404),
        ({"type": "anthropic", "skill_id": "skill_01abc"}, 404),
        ({"skill_id": "pptx"}, 404),
        ({"type": "custom"}, 404),
    ],
)
async def test_skills_that_are_not_anthropics_own_are_nobodys(
    make_stand: MakeStand, skill: dict[str, Any], status: int
) -> None:
    stand = make_stand()
    exchange = await asked_by(stand, "team-1", in_container({"skills": [skill]}))
    assert exchange.status == status
    assert len(stand.upstream.sent) == (status == 200)


async def test_an_answer_waits_until_its_ids_are_written_down(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.made_ids._path = stand.folder / "nowhere" / "made-ids.log"
    exchange = await stand.ask(spoken(), body=chat(**SPEAK))
    assert (exchange.status, exchange.header("x-bursar-ids")) == (200, "not-kept")


# ---- fields that Bursar does not know --------------------------------------------------------------------------------

HIDING = {
    "alone": "file-theirs",
    "deep": {"a": [{"b": ["file-theirs"]}]},
    "as a key": {"file-theirs": 1},
    "escaped": "<file\\u002dtheirs>",
    "twice": '<{"id": "file-theirs", "id": "file-1"}>',
}


def hiding(value: Any, **body: Any) -> bytes:
    """A chat with a field that nobody knows. "<...>" stands for itself, unquoted where it is no text."""
    raw = msgspec.json.encode(chat(brand_new="HERE", **body))
    if isinstance(value, str) and value.startswith("<"):
        inside = value[1:-1]
        return raw.replace(b'"HERE"', (inside if inside.startswith("{") else f'"{inside}"').encode())
    return raw.replace(b'"HERE"', msgspec.json.encode(value))


@pytest.mark.parametrize("value", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("kind", ["file", "response"])
async def test_an_unknown_field_may_not_name_what_others_made(make_stand: MakeStand, value: Any, kind: str) -> None:
    stand = make_stand()
    await stand.made_ids.keep([made(stand, "file-1"), made(stand, "file-theirs", team="team-2", kind=kind)])
    exchange = await stand.ask(body=hiding(value))
    assert (exchange.status, exchange.word) == (404, "unknown_id")
    assert stand.upstream.sent == []


@pytest.mark.parametrize("value", ["file-1", "file-none", "file-theirs-too", {"x": "a text with file-theirs in it"}, 7])
async def test_and_all_else_in_it_passes(make_stand: MakeStand, value: Any) -> None:
    stand = make_stand()
    await stand.made_ids.keep([made(stand, "file-1"), made(stand, "file-theirs", team="team-2")])
    body = hiding(value)
    assert (await stand.ask(completion("Hi", usage(10, 2)), body=body)).status == 200
    assert stand.upstream.sent[0].body == body


async def test_a_field_behind_many_others_is_looked_at_as_well(make_stand: MakeStand) -> None:
    stand = make_stand()
    await stand.made_ids.keep([made(stand, "file-theirs", team="team-2")])
    body = chat(**{f"new_{n}": n for n in range(100)}, last="file-theirs")
    assert (await stand.ask(body=body)).status == 404
    crowded = await stand.ask(body=chat(brand_new=[f"word{n}" for n in range(2001)]))
    assert (crowded.status, crowded.word) == (400, "invalid_field")


async def test_a_body_without_unknown_fields_asks_nobody(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.made_ids._path = stand.folder / "nowhere" / "made-ids.log"
    assert (await stand.ask(completion("Hi", usage(10, 2)), body=chat(temperature=1))).status == 200
    assert (await stand.ask(completion("Hi", usage(10, 2)), body=chat(brand_new=[1, "no id"]))).status == 200
    assert (await stand.ask(body=chat(brand_new="file-1"))).word == "ids_unavailable"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", message(brand_new="file-theirs")),
        ("/v1/embeddings", {"model": MODEL, "input": "a", "brand_new": "file-theirs"}),
        ("/v1/completions", {"model": MODEL, "prompt": "a", "brand_new": "file-theirs"}),
        ("/v1/responses", {"model": MODEL, "input": "a", "brand_new": "file-theirs"}),
        ("/v1/conversations", {"items": [], "brand_new": "file-theirs"}),
        ("/v1/estimate", chat(brand_new="file-theirs")),
    ],
)
async def test_on_every_route(make_stand: MakeStand, path: str, body: dict[str, Any]) -> None:
    stand = make_stand()
    await stand.made_ids.keep([made(stand, "file-theirs", team="team-2")])
    exchange = await stand.ask(path=path, body=body)
    told = exchange.json["refusal"] if path == "/v1/estimate" and exchange.status == 200 else exchange.json["bursar"]
    assert told["word"] == "unknown_id"
    assert stand.upstream.sent == []
