"""Observe mode at the gateway: the presented key goes up to its own provider and nowhere else, metered under one id."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bursar.core.directory import BudgetDef, Delta, KeySecret, LimitDef, Observed, Owner, Policy, Team, VirtualKey
from bursar.core.ledger import HoldRequest, Settlement
from bursar.core.observing import is_presented, key_id_of, presented_id
from bursar.core.tokens import digest, mint
from tests.core.key_samples import samples
from tests.gateway.answers import MODEL, chat, completion, message, plain, usage, whole_stream
from tests.gateway.fakes import Dice, FakeExchange, FakeResponse, Sent
from tests.gateway.ground import PEPPER, Stand, provider, provider_key

MakeStand = Callable[..., Stand]
KEYS = samples(random.Random(7))
OPENAI, ANTHROPIC = KEYS["openai-key"], KEYS["anthropic-key"]
TEAM = Team(id="observed", name="Observed", owner_id="observed")


def id_of(text: str) -> str:
    return key_id_of(digest(text, PEPPER))


class Told:
    """What control was told."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, bytes, str]] = []
        self.away = False

    def __call__(self, *key: Any) -> bool:
        if not self.away:
            self.keys.append(key)
        return not self.away


def observing(stand: Stand, team: Team = TEAM, most: int = 10) -> Told:
    """Switch observe mode on, as configuration and control do."""
    told = Told()
    stand.node.observing.team, stand.node.observing.most, stand.node.observing.tell = team.id, most, told
    owner = Owner(id="observed", name="Nobody yet")
    stand.node.tenants.change(Delta(version=stand.node.tenants.version + 1, owners=[owner], teams=[team]))
    return told


def entity(text: str, **changes: Any) -> VirtualKey:
    """As control makes it of a key that a provider has taken."""
    about = changes.pop("observed", Observed(provider="openai", since=1))
    secrets = (KeySecret(digest=digest(text, PEPPER), provider=True),)
    return VirtualKey(
        **{"id": id_of(text), "name": "app", "team_id": "observed", "secrets": secrets, "observed": about} | changes
    )


def put(stand: Stand, *keys: VirtualKey, **more: Any) -> None:
    stand.node.tenants.change(Delta(version=stand.node.tenants.version + 1, keys=list(keys), **more))


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def watched(stand: Stand) -> list[HoldRequest]:
    """What will be asked of the ledger."""
    asked: list[HoldRequest] = []
    hold = stand.journal.hold

    async def noting(request: HoldRequest, *more: Any) -> Any:
        asked.append(request)
        return await hold(request, *more)

    stand.journal.hold = noting  # type: ignore[method-assign]
    return asked


async def call(stand: Stand, text: str, *answers: Any, **changes: Any) -> FakeExchange:
    return await stand.ask(*(answers or [completion("Hi", usage(10, 5))]), headers=bearer(text), **changes)


def sent(stand: Stand) -> Sent:
    (only,) = stand.upstream.sent
    return only


# ---- off


async def test_off_it_is_refused_and_told_how_to_go_on(make_stand: MakeStand) -> None:
    stand = make_stand()
    exchange = await call(stand, OPENAI, body=AssertionError("the body was read"))
    assert (exchange.status, exchange.word) == (401, "key_invalid")
    assert "observe.enabled" in exchange.json["error"]["message"]
    assert OPENAI[8:20] not in exchange.sent.decode()
    stand.upstream.answers.clear()
    put(stand, entity(OPENAI))  # observed before, and switched off since
    observing(stand).away = True
    stand.node.observing.team = ""
    exchange = await call(stand, OPENAI, body=AssertionError("the body was read"))
    assert (exchange.status, exchange.word) == (401, "key_invalid")
    assert "bursar observe seal" in exchange.json["error"]["message"]
    assert not stand.upstream.sent
    stand.upstream.answers.clear()


@pytest.mark.parametrize("text", ["sk-proj-abcdefghijklmnop", "x" * 60_000, "\udcff" * 40, KEYS["bursar-key"] + "x"])
async def test_what_has_no_shape_is_refused_as_ever(make_stand: MakeStand, text: str) -> None:
    stand = make_stand()
    told = observing(stand)
    exchange = await call(stand, text, body=AssertionError("the body was read"))
    assert (exchange.status, exchange.word) == (401, "key_invalid")
    assert not stand.upstream.sent
    assert not told.keys


# ---- on


@pytest.mark.parametrize("head", ["authorization", "x-api-key", "api-key"])
async def test_a_call_goes_to_its_own_provider_with_its_own_key(make_stand: MakeStand, head: str) -> None:
    stand = make_stand()
    told = observing(stand)
    headers = {"authorization": f"Bearer {OPENAI}"} if head == "authorization" else {head: OPENAI}
    exchange = FakeExchange("POST", "/v1/chat/completions", headers, msgspec.json.encode(chat()))
    stand.upstream.will(completion("Hi", usage(10, 5)))
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert exchange.status == 200
    assert sent(stand).provider == "openai"
    assert sent(stand).headers["authorization"] == f"Bearer {OPENAI}"
    assert "api-key" not in sent(stand).headers
    assert "x-api-key" not in sent(stand).headers
    assert stand.releases.asked == []  # nothing was asked of the vault
    assert told.keys == [(id_of(OPENAI), digest(OPENAI, PEPPER), "openai")]
    assert stand.post.exact
    assert stand.post.cost_pico > 0


async def test_each_dialect_in_its_own_words(make_stand: MakeStand) -> None:
    stand = make_stand()
    told = observing(stand)
    answer = plain({"content": [], "usage": {"input_tokens": 3, "output_tokens": 2}})
    exchange = FakeExchange("POST", "/v1/messages", {"x-api-key": ANTHROPIC}, msgspec.json.encode(message()))
    stand.upstream.will(answer)
    await stand.pipeline.serve(exchange)
    assert exchange.status == 200
    assert sent(stand).headers["x-api-key"] == ANTHROPIC
    assert told.keys[0][2] == "anthropic"


async def test_the_body_goes_up_as_it_came_and_nothing_is_capped(make_stand: MakeStand) -> None:
    """Whatever the team has in shadow: it only tells."""
    stand = make_stand()
    limit = LimitDef(id="one", unit="requests", amount=1, per_seconds=3600)
    modes = dict.fromkeys(("models", "max_tokens", "limits"), "shadow")
    tried = Policy(models=("none",), max_tokens_cap=1, limits=(limit,), modes=modes)
    observing(stand, msgspec.structs.replace(TEAM, policy=tried))
    body = msgspec.json.encode(chat(stream=False))
    for _ in range(3):
        assert (await call(stand, OPENAI, body=body)).status == 200
    assert {one.body for one in stand.upstream.sent} == {body}
    shadowed = stand.node.decisions.next(stand.clock.now() + 10**12, 1)
    assert shadowed is not None
    assert {"models", "limits", "max_tokens"} <= {row.control for row in shadowed.sums}, "it tells what it would do"


async def test_what_has_no_price_costs_nothing_and_says_so(make_stand: MakeStand) -> None:
    stand = make_stand()
    observing(stand)
    body = chat(model="ft:never-heard-of")
    assert (await call(stand, OPENAI, body=body)).status == 200
    assert stand.post.cost_pico == 0
    assert sent(stand).json["model"] == "ft:never-heard-of"


async def test_it_is_one_key_before_and_after_the_directory_knows_it(make_stand: MakeStand) -> None:
    stand = make_stand()
    told, asked = observing(stand), watched(stand)
    assert (await call(stand, OPENAI)).status == 200
    put(stand, entity(OPENAI))
    assert (await call(stand, OPENAI)).status == 200
    assert len(told.keys) == 1
    assert {(one.key_id, one.team_id, one.credential) for one in asked} == {(id_of(OPENAI), "observed", "observed")}
    assert {one.secret_id for one in asked} == {presented_id(id_of(OPENAI))}


async def test_control_is_told_again_while_it_does_not_know(make_stand: MakeStand) -> None:
    stand = make_stand()
    told = observing(stand)
    told.away = True
    assert (await call(stand, OPENAI)).status == 200
    told.away = False
    assert (await call(stand, OPENAI)).status == 200
    assert (await call(stand, OPENAI)).status == 200
    assert len(told.keys) == 1
    stand.clock.advance(6)
    assert (await call(stand, OPENAI)).status == 200
    assert len(told.keys) == 2


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_what_its_provider_refuses_is_passed_on_and_leaves_nothing(make_stand: MakeStand, status: int) -> None:
    stand = make_stand()
    told = observing(stand)
    said = {"error": {"message": f"Incorrect API key provided: {OPENAI}", "code": "invalid_api_key"}}
    refusal = FakeResponse([msgspec.json.encode(said)], status, {"content-type": "application/json"})
    exchange = await call(stand, OPENAI, refusal)
    assert exchange.status == status
    assert exchange.json["error"]["code"] == "invalid_api_key"
    assert OPENAI not in exchange.sent.decode()
    assert told.keys == []
    assert stand.happened == []  # it is no provider key of ours that was refused
    if status in (401, 403, 429):
        assert stand.ends == ["refused"]


async def test_a_streamed_answer_is_metered(make_stand: MakeStand) -> None:
    stand = make_stand()
    told = observing(stand)
    exchange = await call(stand, OPENAI, whole_stream(), body=chat(stream=True))
    assert exchange.status == 200
    assert stand.post.exact
    assert len(told.keys) == 1


# ---- to whom


@pytest.mark.parametrize(
    ("path", "text", "body"),
    [
        ("/v1/messages", OPENAI, message()),
        ("/v1/chat/completions", ANTHROPIC, chat()),
        ("/v1/chat/completions", KEYS["groq-key"], chat()),
    ],
)
async def test_a_key_of_another_provider_goes_nowhere(make_stand: MakeStand, path: str, text: str, body: Any) -> None:
    stand = make_stand()
    observing(stand)
    exchange = FakeExchange("POST", path, bearer(text), msgspec.json.encode(body))
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert (exchange.status, exchange.word) == (401, "key_invalid")
    assert not stand.upstream.sent


async def test_no_other_provider_is_tried_and_no_key_of_the_vault(make_stand: MakeStand) -> None:
    """Two providers and two sealed keys serve the model: the call fails rather than go to them."""
    keys = [provider_key("pk-a", "openai/*/api/prod/*"), provider_key("pk-b", "second/*/api/prod/*")]
    stand = make_stand(providers=[provider("openai"), provider("second")], provider_keys=keys)
    observing(stand)
    broken = FakeResponse([], 503, {})
    exchange = await call(stand, OPENAI, broken)
    assert exchange.status == 503
    assert [one.provider for one in stand.upstream.sent] == ["openai"]
    assert stand.releases.asked == []


async def test_a_provider_that_takes_no_key_is_given_none(make_stand: MakeStand) -> None:
    """A local server that stands under a provider's name, or is priced as one."""
    for name in ("openai", "local"):
        stand = make_stand(providers=[provider(name, auth="none", prices="openai")])
        observing(stand)
        exchange = await call(stand, OPENAI)
        assert (exchange.status, exchange.word) == (401, "key_invalid")
        put(stand, entity(OPENAI, observed=Observed(provider=name, since=1)))
        exchange = await call(stand, OPENAI)
        assert (exchange.status, exchange.word) == (401, "key_invalid")
        assert not stand.upstream.sent
        stand.upstream.answers.clear()


async def test_by_another_name_the_one_that_is_priced_so_is_meant(make_stand: MakeStand) -> None:
    stand = make_stand(providers=[provider("openai-eu", prices="openai")])
    observing(stand)
    assert (await call(stand, OPENAI)).status == 200
    two = make_stand(providers=[provider("openai-eu", prices="openai"), provider("openai-us", prices="openai")])
    observing(two)
    assert (await call(two, OPENAI)).word == "key_invalid"
    two.upstream.answers.clear()


@pytest.mark.parametrize("model", [f"second/{MODEL}", f"groq/{MODEL}"])
async def test_a_model_of_another_provider_is_refused(make_stand: MakeStand, model: str) -> None:
    stand = make_stand(providers=[provider("openai", models=(MODEL,)), provider("second"), provider("groq")])
    observing(stand)
    exchange = await call(stand, OPENAI, body=chat(model=model))
    assert (exchange.status, exchange.word) == (401, "key_invalid")
    assert not stand.upstream.sent
    stand.upstream.answers.clear()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_batch_outlives_the_key_and_is_refused(make_stand: MakeStand, method: str) -> None:
    stand = make_stand()
    observing(stand)
    exchange = FakeExchange(method, "/v1/batches", bearer(OPENAI), b'{"input_file_id": "file-1"}')
    await stand.pipeline.serve(exchange)
    stand.at_rest()
    assert (exchange.status, exchange.word) == (403, "purpose_not_allowed")
    assert not stand.upstream.sent


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files"),
        ("GET", "/v1/files/file-1"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/responses/resp_1"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("POST", "/v1/batches/batch_1/cancel"),
    ],
)
async def test_what_its_own_account_keeps_is_asked_for_there(make_stand: MakeStand, method: str, path: str) -> None:
    """With the presented key, whatever is on record here; an anthropic key has no such route and goes nowhere."""
    stand = make_stand()
    observing(stand)
    exchange = FakeExchange(method, path, bearer(OPENAI), b"")
    stand.upstream.will(plain({"id": "there", "object": "list", "data": []}))
    await stand.pipeline.serve(exchange)
    assert exchange.status == 200, exchange.sent
    assert sent(stand).headers["authorization"] == f"Bearer {OPENAI}"
    other = FakeExchange(method, path, bearer(ANTHROPIC), b"")
    await stand.pipeline.serve(other)
    stand.at_rest()
    assert (other.status, other.word) == (401, "key_invalid")
    assert len(stand.upstream.sent) == 1
    assert stand.releases.asked == []


async def test_a_conversation_from_before_goes_on(make_stand: MakeStand) -> None:
    """Ids that Bursar never saw are the account's own: no team's record is asked."""
    stand = make_stand()
    observing(stand)
    body = {"model": MODEL, "input": "Hello", "previous_response_id": "resp_from_before", "max_output_tokens": 50}
    answer = {
        "id": "resp_2",
        "object": "response",
        "status": "completed",
        "output": [],
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    exchange = await call(stand, OPENAI, plain(answer), path="/v1/responses", body=body)
    assert exchange.status == 200, exchange.sent
    _, text = sealed(stand)  # what it made is its own afterwards
    body["previous_response_id"] = "resp_2"
    answer["id"] = "resp_3"
    stand.upstream.will(plain(answer))
    after = FakeExchange("POST", "/v1/responses", bearer(text), msgspec.json.encode(body))
    await stand.pipeline.serve(after)
    assert after.status == 200, after.sent
    assert stand.upstream.sent[-1].headers["authorization"] == "Bearer sk-pk-own-1"


async def test_an_estimate_and_a_list_of_models_send_nothing_and_prove_nothing(make_stand: MakeStand) -> None:
    stand = make_stand()
    told = observing(stand)
    estimate = FakeExchange("POST", "/v1/estimate", bearer(OPENAI), msgspec.json.encode(chat(max_tokens=9)))
    await stand.pipeline.serve(estimate)
    assert estimate.status == 200, estimate.sent
    models = FakeExchange("GET", "/v1/models", bearer(OPENAI), b"")
    await stand.pipeline.serve(models)
    stand.at_rest()
    assert {one["owned_by"] for one in models.json["data"]} == {"openai"}
    assert not stand.upstream.sent
    assert told.keys == []


# ---- how many


async def test_over_the_bound_new_ones_are_refused(make_stand: MakeStand) -> None:
    stand = make_stand()
    observing(stand, most=2)
    many = [samples(random.Random(100 + seed))["openai-key"] for seed in range(3)]
    for text in many[:2]:
        assert (await call(stand, text)).status == 200
    exchange = await call(stand, many[2], body=AssertionError("the body was read"))
    assert (exchange.status, exchange.word) == (401, "key_invalid")
    stand.upstream.answers.clear()
    assert (await call(stand, many[0])).status == 200
    put(stand, *[entity(text) for text in many[:2]])
    exchange = await call(stand, many[2], body=AssertionError("the body was read"))
    assert exchange.word == "key_invalid"
    stand.upstream.answers.clear()


async def test_what_was_sealed_since_makes_room(make_stand: MakeStand) -> None:
    stand = make_stand()
    observing(stand, most=1)
    assert (await call(stand, OPENAI)).status == 200
    sealed(stand)
    assert (await call(stand, samples(random.Random(300))["openai-key"])).status == 200


async def test_a_flood_of_wrong_keys_is_held_back(make_stand: MakeStand) -> None:
    """They cost no memory that grows, and after the first so many nothing upstream; who is known calls on."""
    stand = make_stand()
    told = observing(stand, most=1000)
    put(stand, entity(OPENAI))
    words = []
    for seed in range(260):
        refusal = FakeResponse([b"{}"], 401, {})
        words.append((await call(stand, samples(random.Random(seed))["moonshot-key"], refusal)).word)
        stand.upstream.answers.clear()
    assert told.keys == []
    assert set(words[-50:]) == {"key_invalid"}  # there is no such provider here
    words = []
    for seed in range(260):
        refusal = FakeResponse([b"{}"], 401, {})
        words.append((await call(stand, samples(random.Random(5000 + seed))["openai-key"], refusal)).word)
        stand.upstream.answers.clear()
    assert words[:200] == [None] * 200
    assert set(words[200:]) == {"overloaded"}
    assert len(stand.upstream.sent) == 200
    assert len(stand.node.tenants._plans) <= 2
    assert stand.node.observing._taken == {}
    assert (await call(stand, OPENAI)).status == 200
    stand.clock.advance(1)
    assert (await call(stand, samples(random.Random(999))["openai-key"])).status == 200


# ---- rules, where somebody asks for them


async def test_a_budget_on_the_key_holds(make_stand: MakeStand) -> None:
    limit = BudgetDef(id="b", version=1, subject_kind="key", subject=id_of(OPENAI), limit_pico=1, hard=True)
    stand = make_stand(budgets=[limit])
    observing(stand)
    put(stand, entity(OPENAI))
    exchange = await call(stand, OPENAI)
    assert exchange.word == "can_never_fit"
    stand.upstream.answers.clear()


async def test_a_rule_of_its_own_holds_and_a_switched_off_key_is_refused(make_stand: MakeStand) -> None:
    stand = make_stand()
    observing(stand)
    put(stand, entity(OPENAI, policy=Policy(models=("other",))))
    assert (await call(stand, OPENAI)).word == "model_not_allowed"
    put(stand, entity(OPENAI, disabled=True))
    assert (await call(stand, OPENAI)).word == "key_disabled"
    stand.upstream.answers.clear()


async def test_the_owner_that_was_named_pays(make_stand: MakeStand) -> None:
    stand = make_stand()
    observing(stand)
    about = Observed(provider="openai", since=1, owner="owner-1")
    put(stand, entity(OPENAI, observed=about))
    budget = BudgetDef(id="b", version=1, subject_kind="owner", subject="owner-1", limit_pico=10**15)
    put(stand, budgets=[budget])
    assert (await call(stand, OPENAI)).status == 200
    assert stand.balance("b")[0] == stand.post.cost_pico


# ---- sealed and swapped


def sealed(stand: Stand, **changes: Any) -> tuple[VirtualKey, str]:
    """What `bursar observe seal` makes of it, and the virtual key's text."""
    _, text = mint(Dice(), public_id=id_of(OPENAI))
    about = Observed(provider="openai", since=1, secret_id="pk-own", sealed_at=2)
    own = KeySecret(digest=digest(text.reveal(), PEPPER))
    old = KeySecret(digest=digest(OPENAI, PEPPER), provider=True, **changes)
    made = entity(OPENAI, secrets=(own, old), observed=about)
    vault = [provider_key("pk-a", "openai/*/api/prod/observed"), provider_key("pk-own", "openai/*/api/own/observed")]
    put(stand, made, provider_keys=vault)
    return made, text.reveal()


async def test_once_sealed_both_keys_use_the_sealed_one(make_stand: MakeStand) -> None:
    """Another provider key of the team, first in order, is not taken."""
    stand = make_stand()
    observing(stand)
    assert (await call(stand, OPENAI)).status == 200
    _, text = sealed(stand)
    asked = watched(stand)
    for one in (text, OPENAI, OPENAI):
        assert (await call(stand, one)).status == 200
    assert [(one.key_id, one.credential) for one in asked] == [
        (id_of(OPENAI), mark) for mark in ("", "swapped", "swapped")
    ]
    assert [each.headers["authorization"] for each in stand.upstream.sent] == [
        f"Bearer {OPENAI}",
        *["Bearer sk-pk-own-1"] * 3,
    ]
    assert all(isinstance(end, Settlement) for end in stand.ends)


async def test_closed_the_provider_key_is_refused(make_stand: MakeStand) -> None:
    stand = make_stand()
    observing(stand)
    made, text = sealed(stand, expires_at=stand.clock.now())
    exchange = await call(stand, OPENAI, body=AssertionError("the body was read"))
    assert (exchange.status, exchange.word) == (401, "key_expired")
    stand.upstream.answers.clear()
    assert (await call(stand, text)).status == 200
    put(stand, msgspec.structs.replace(made, secrets=made.secrets[:1]))  # rotated since: its digest is forgotten
    exchange = await call(stand, OPENAI, body=AssertionError("the body was read"))
    assert (exchange.status, exchange.word) == (401, "key_expired")
    assert "swapped" in exchange.json["error"]["message"]
    stand.upstream.answers.clear()


async def test_a_virtual_key_of_what_is_observed_only_reaches_no_provider(make_stand: MakeStand) -> None:
    """After the sealing was taken back: neither the vault's key nor anybody's presented one is there for it."""
    stand = make_stand()
    observing(stand)
    _, text = mint(Dice(), public_id=id_of(OPENAI))
    own = KeySecret(digest=digest(text.reveal(), PEPPER))
    put(stand, entity(OPENAI, secrets=(own, *entity(OPENAI).secrets)))
    exchange = await call(stand, text.reveal())
    assert (exchange.status, exchange.word) == (401, "key_invalid")
    assert not stand.upstream.sent
    stand.upstream.answers.clear()


def test_what_is_presented_is_called_apart_from_what_the_vault_has() -> None:
    assert is_presented("presented-abc")
    assert not is_presented("pk-openai")
