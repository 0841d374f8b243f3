"""Who is calling: before a byte of the body is read, and without ever repeating what was presented."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bursar.core.directory import Delta, KeySecret
from bursar.core.tokens import digest, mint
from tests.gateway.answers import completion, message, plain, usage
from tests.gateway.fakes import NOON, Dice, FakeExchange
from tests.gateway.ground import PEPPER, PLENTY, Stand, budget, provider

MakeStand = Callable[..., Stand]
NO_BODY = AssertionError("the body was read")


async def knock(stand: Stand, headers: dict[str, str], path: str = "/v1/chat/completions") -> FakeExchange:
    """A request that must be refused before its body is read."""
    exchange = FakeExchange("POST", path, headers, NO_BODY)
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert not exchange.body_asked
    return exchange


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {} "])
async def test_a_bearer_token_is_a_key(make_stand: MakeStand, header: str) -> None:
    stand = make_stand()
    authorization = header.format(stand.key_text)
    exchange = await stand.ask(completion("Hi", usage(1, 1)), headers={"authorization": authorization})
    assert exchange.status == 200
    assert stand.upstream.sent[0].headers["authorization"] == "Bearer sk-pk-openai-1"


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
async def test_a_key_in_its_own_header_is_a_key(make_stand: MakeStand, name: str) -> None:
    stand = make_stand()
    body = msgspec.json.encode(message())
    exchange = FakeExchange("POST", "/v1/messages", {name: stand.key_text}, body)
    stand.upstream.will(plain({"content": [], "usage": {"input_tokens": 1, "output_tokens": 0}}))
    await stand.pipeline.serve(exchange)
    assert exchange.status == 200
    sent = stand.upstream.sent[0].headers
    assert sent["x-api-key"] == "sk-pk-anthropic-1"
    assert "api-key" not in sent
    assert stand.key_text not in str(sent)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"x-api-key": ""},
        {"x-api-key": "", "api-key": ""},
    ],
)
async def test_no_key(make_stand: MakeStand, headers: dict[str, str]) -> None:
    exchange = await knock(make_stand(), headers)
    assert (exchange.status, exchange.word) == (401, "key_missing")


def mistyped(text: str) -> str:
    return text[:-1] + ("a" if text[-1] != "a" else "b")


UNKNOWN = mint(Dice(), public_id="abcdefgh2345")[1].reveal()


@pytest.mark.parametrize(
    ("present", "told"),
    [
        (mistyped, "checksum"),
        (lambda key: key[:-7], "checksum"),
        (lambda key: key + "x", "checksum"),
        (lambda key: UNKNOWN, "not known"),
        (lambda key: "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789", "never a provider key"),
        (lambda key: "sk-ant-REDACTED", "never a provider key"),
        (lambda key: key.upper(), "not a Bursar key"),
        (lambda key: "\udcff\u20ac" * 40, "not a Bursar key"),
        (lambda key: "x" * 60_000, "not a Bursar key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_wrong_key_is_named_in_kind_and_never_repeated(
    make_stand: MakeStand, present: Any, told: str, path: str
) -> None:
    stand = make_stand()
    text = present(stand.key_text)
    exchange = await knock(stand, {"x-api-key": text}, path)
    assert (exchange.status, exchange.word) == (401, "key_invalid")
    assert told in exchange.json["error"]["message"]
    answer = exchange.sent.decode() + repr(exchange.lines)
    assert text not in answer
    assert text[12:40] not in answer


async def test_a_replaced_secret_works_until_its_overlap_ends(make_stand: MakeStand) -> None:
    stand = make_stand()
    _, new = mint(Dice(), public_id=stand.key.id)
    secrets = (
        KeySecret(digest=digest(stand.key_text, PEPPER), expires_at=NOON + 60 * 10**9),
        KeySecret(digest=digest(new.reveal(), PEPPER)),
    )
    stand.node.tenants.change(Delta(version=2, keys=[msgspec.structs.replace(stand.key, secrets=secrets)]))
    assert (await stand.ask(completion("Hi", usage(1, 1)))).status == 200
    stand.clock.advance(60)
    exchange = await knock(stand, {"x-api-key": stand.key_text})
    assert (exchange.status, exchange.word) == (401, "key_expired")
    renewed = {"authorization": f"Bearer {new.reveal()}"}
    assert (await stand.ask(completion("Hi", usage(1, 1)), headers=renewed)).status == 200


async def test_a_key_past_its_end(make_stand: MakeStand) -> None:
    stand = make_stand()
    ended = msgspec.structs.replace(stand.key, expires_at=NOON)
    stand.node.tenants.change(Delta(version=2, keys=[ended]))
    exchange = await knock(stand, {"x-api-key": stand.key_text})
    assert (exchange.status, exchange.word) == (401, "key_expired")


@pytest.mark.parametrize("what", ["key", "team"])
async def test_a_key_that_is_switched_off(make_stand: MakeStand, what: str) -> None:
    stand = make_stand()
    off = msgspec.structs.replace(stand.key if what == "key" else stand.team, disabled=True)
    stand.node.tenants.change(Delta(version=2, **{f"{what}s": [off]}))
    exchange = await knock(stand, {"x-api-key": stand.key_text})
    assert (exchange.status, exchange.word) == (403, "key_disabled")


@pytest.mark.parametrize("word", ["key_disabled", "key_expired"])
async def test_a_key_is_looked_at_again_before_it_spends(make_stand: MakeStand, word: str) -> None:
    """A body may take its time: what was switched off meanwhile sends nothing."""
    stand = make_stand()
    changes = {"disabled": True} if word == "key_disabled" else {"expires_at": 1}
    off = msgspec.structs.replace(stand.key, **changes)

    class Slow(FakeExchange):
        async def body(self) -> bytes:
            stand.node.tenants.change(Delta(version=2, keys=[off]))
            return await super().body()

    made = stand.exchange()
    exchange = Slow(made.method, made.path, made.headers, await made.body())
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert exchange.word == word
    assert stand.upstream.sent == []
    assert stand.ends == []


async def test_a_key_that_was_removed_meanwhile_spends_nothing(make_stand: MakeStand) -> None:
    stand = make_stand()

    class Slow(FakeExchange):
        async def body(self) -> bytes:
            stand.node.tenants.change(Delta(version=2, gone=[("key", stand.key.id)]))
            return await super().body()

    made = stand.exchange()
    exchange = Slow(made.method, made.path, made.headers, await made.body())
    await stand.pipeline.serve(exchange)
    assert exchange.word == "key_disabled"
    assert stand.upstream.sent == []


async def test_a_caller_cannot_choose_what_goes_up(make_stand: MakeStand) -> None:
    """Neither his credential nor another account, nor hop-by-hop fields; what he may say passes."""
    stand = make_stand()
    headers = {
        "x-api-key": "sk-caller",
        "cookie": "a=b",
        "openai-organization": "org-1",
        "openai-project": "p-1",
        "connection": "x-extra",
        "x-forwarded-for": "10.0.0.1",
        "openai-beta": "assistants=v2",
        "user-agent": "agent/1",
    }
    await stand.ask(completion("Hi", usage(1, 1)), headers=headers)
    assert stand.upstream.sent[0].headers == {
        "content-type": "application/json",
        "openai-beta": "assistants=v2",
        "user-agent": "agent/1",
        "authorization": "Bearer sk-pk-openai-1",
    }


@pytest.mark.parametrize(
    ("auth", "sent"),
    [
        ("bearer", {"authorization": "Bearer sk-pk-openai-1"}),
        ("x-api-key", {"x-api-key": "sk-pk-openai-1"}),
        ("api-key", {"api-key": "sk-pk-openai-1"}),
        ("none", {}),
    ],
)
async def test_the_provider_key_goes_up_as_its_provider_wants_it(
    make_stand: MakeStand, auth: str, sent: dict[str, str]
) -> None:
    stand = make_stand(providers=[provider("openai", auth=auth, headers=(("x-region", "eu"),))])
    await stand.ask(completion("Hi", usage(1, 1)))
    assert stand.upstream.sent[0].headers == {"content-type": "application/json", "x-region": "eu"} | sent


@pytest.mark.parametrize("asked", [{}, {"anthropic-version": "2023-01-01"}])
async def test_the_api_version_is_the_one_whose_answers_can_be_metered(
    make_stand: MakeStand, asked: dict[str, str]
) -> None:
    stand = make_stand()
    answer = plain({"content": [], "usage": {"input_tokens": 1, "output_tokens": 0}})
    await stand.ask(answer, path="/v1/messages", headers=asked)
    assert stand.upstream.sent[0].headers["anthropic-version"] == "2023-06-01"


async def test_a_node_cut_off_from_the_store_refuses_what_no_store_checks(make_stand: MakeStand) -> None:
    """After five seconds: keys without a budget, and keys it does not know, which others may have made meanwhile."""
    stand = make_stand()
    stand.node.fresh_until = stand.clock.monotonic() + 5
    assert (await stand.ask(completion("Hi", usage(1, 1)))).status == 200
    stand.clock.advance(5.1)
    for key in (stand.key_text, UNKNOWN):
        exchange = await knock(stand, {"authorization": f"Bearer {key}"})
        assert (exchange.status, exchange.word) == (503, "directory_stale")
    stand.node.fresh_until = stand.clock.monotonic() + 5
    assert (await stand.ask(completion("Hi", usage(1, 1)))).status == 200


async def test_a_key_with_a_budget_is_checked_by_the_hold_itself(make_stand: MakeStand) -> None:
    stand = make_stand(budgets=[budget(PLENTY)])
    stand.node.fresh_until = stand.clock.monotonic() - 60
    assert (await stand.ask(completion("Hi", usage(1, 1)))).status == 200


async def test_what_a_connection_remembers_of_its_head_is_no_proof(make_stand: MakeStand) -> None:
    """The digest of a repeated head is made once; who may call, and under which pepper, is looked at for each call."""
    stand = make_stand()
    made: list[str] = []
    memo: dict[str, object] = {}

    def counted(text: str) -> bytes:
        made.append(text)
        return digest(text, PEPPER)

    async def again() -> int:
        stand.upstream.will(completion("Hi", usage(1, 1)))
        exchange = stand.exchange()
        exchange.memo = memo
        await stand.pipeline.serve(exchange)
        return exchange.status

    stand.node.digest = counted
    assert [await again(), await again()] == [200, 200]
    assert made == [stand.key_text]
    stand.node.digest = lambda text: digest(text, b"q" * 32)  # control has another pepper now
    assert await again() == 401
    stand.node.digest = lambda text: digest(text, PEPPER)
    assert await again() == 200
    stand.node.tenants.change(Delta(version=2, keys=[msgspec.structs.replace(stand.key, disabled=True)]))
    assert await again() == 403
    assert stand.key_text not in repr(memo)
