"""Budgets that were overspent elsewhere: races, counters of a replica's own, ways around (docs/complaints.md, 3.1)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.core.directory import Delta, Deployment, LimitDef, Policy
from bursar.gateway.routes import ROUTES
from tests.complaints.crowd import crowd, short_answer
from tests.e2e.broker import Broker
from tests.gateway.answers import IN, MODEL, OUT, ceiling_of, chat, completion, message, usage
from tests.gateway.ground import (
    ANTHROPIC_KEY,
    OPENAI_KEY,
    PLENTY,
    PRICES,
    Stand,
    budget,
    override,
    price_table,
    provider_key,
)
from tests.stores.journal_kit import proven

MakeStand = Callable[..., Stand]
CAP = 100
BODY = chat(max_tokens=CAP)
CEILING = ceiling_of(BODY, CAP)
BUSY = "held_by_requests_in_flight"


# ---- looked at, and then acted upon


@pytest.mark.parametrize("subject", [("key", ""), ("team", "team-1"), ("owner", "owner-1"), ("model", MODEL)])
async def test_parallel_calls_do_not_all_pass(make_stand: MakeStand, subject: tuple[str, str]) -> None:
    """litellm 34732 (read, compared, then incremented); new-api 6607, 6609; one-api 2440; CliRelay 1045;
    membrane/api-gateway 3210; langwatch 421; higress 2464; envoyproxy/ai-gateway 680.
    """
    stand = make_stand()
    kind, name = subject
    stand.node.tenants.change(Delta(version=2, budgets=[budget(CEILING * 3, "b", kind, name or stand.key.id)]))
    seen: list[int] = []
    stand.upstream.before = lambda: seen.append(sum(stand.balance()))
    assert await crowd(stand, 40, body=BODY) == {"sent": 3, BUSY: 37}
    assert max(seen) <= CEILING * 3
    assert stand.balance() == (3 * (10 * IN + 2 * OUT), 0)


@pytest.mark.parametrize("subject", ["*", "nobody-has-seen-me"])
async def test_the_first_burst_of_a_user_nobody_has_seen_is_held_to_the_budget(
    make_stand: MakeStand, subject: str
) -> None:
    """litellm 40095; litellm 11083: a user who is named by a header is looked at like any other."""
    limit = budget(CEILING * 2, "b", "user", subject)
    stand = make_stand(budgets=[limit], policy=Policy(user_header="x-user"))
    asked = {"body": BODY, "headers": {"x-user": "nobody-has-seen-me"}}
    assert await crowd(stand, 20, **asked) == {"sent": 2, BUSY: 18}
    assert (await stand.ask(short_answer(), body=chat(max_tokens=5), headers={"x-user": "another"})).word is None


async def test_a_user_who_is_not_named_is_no_way_around(make_stand: MakeStand) -> None:
    """litellm 11083: the check returned early where the header was not as expected."""
    limit = budget(CEILING, "b", "user", "*")
    shared = make_stand(budgets=[limit], policy=Policy(user_header="x-user", user_missing="shared"))
    assert await crowd(shared, 10, body=BODY) == {"sent": 1, BUSY: 9}
    strict = make_stand(budgets=[limit], policy=Policy(user_header="x-user", user_missing="deny"))
    assert await crowd(strict, 3, body=BODY) == {"user_required": 3}


# ---- ways around

PAYABLE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": BODY,
    "/v1/completions": {"model": MODEL, "prompt": "Hello", "max_tokens": CAP},
    "/v1/embeddings": {"model": MODEL, "input": "Hello"},
    "/v1/responses": {"model": MODEL, "input": "Hello", "max_output_tokens": CAP},
    "/v1/messages": message(max_tokens=CAP),
    "/openai/v1/chat/completions": chat(model="mine", max_tokens=CAP),
    "/openai/v1/completions": {"model": "mine", "prompt": "Hello", "max_tokens": CAP},
    "/openai/v1/embeddings": {"model": "mine", "input": "Hello"},
    "/openai/deployments/mine/chat/completions": chat(max_tokens=CAP),
    "/openai/deployments/mine/completions": {"prompt": "Hello", "max_tokens": CAP},
    "/openai/deployments/mine/embeddings": {"input": "Hello"},
}
FREE = {"/v1/messages/count_tokens"}  # providers count for nothing


def test_all_metered_routes_are_in_the_table() -> None:
    """So that a route that is made later cannot be forgotten here."""
    metered = {path for path, methods in ROUTES.items() for route in methods.values() if route.kind == "metered"}
    assert metered == FREE | {path for path in PAYABLE if path.startswith("/v1/")}


@pytest.mark.parametrize("path", PAYABLE)
@pytest.mark.parametrize("streamed", [False, True])
async def test_no_route_goes_past_the_budget(make_stand: MakeStand, path: str, streamed: bool) -> None:
    """litellm 26672, 23714: not enforced at all in some releases. bifrost 2873: not on passthrough routes."""
    any_use = provider_key("pk", "openai/*/api/prod/*", purposes=("inference", "embedding"))
    stand = make_stand(budgets=[budget(5)], provider_keys=[any_use, ANTHROPIC_KEY])
    stand.node.tenants.change(Delta(version=2, deployments=[Deployment(id="mine", model=MODEL)]))
    fields = {"stream": True} if streamed and "embeddings" not in path else {}
    exchange = await stand.ask(path=path, body=PAYABLE[path] | fields)
    assert exchange.word == "can_never_fit"
    assert stand.upstream.sent == []


@pytest.mark.parametrize(
    "path",
    [
        "/openai/v1/images/generations",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/realtime",
        "/openai_passthrough/v1/chat/completions",
        "/anthropic/v1/messages",
        "/vertex_ai/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
        "/bedrock/model/m/invoke",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/V1/chat/completions",
    ],
)
async def test_there_is_no_passthrough(make_stand: MakeStand, path: str) -> None:
    """bifrost 2873; litellm PR 36592, PR 38111. A path without a meter does not exist."""
    stand = make_stand(budgets=[budget(PLENTY)])
    exchange = await stand.ask(path=path, body=BODY)
    assert (exchange.status, exchange.word) == (404, "not_found")
    assert stand.upstream.sent == []


# ---- what was spent is forgotten, or counted apart


async def test_what_a_model_has_spent_outlives_a_restart(tmp_path: Path) -> None:
    """litellm PR 25374, 34238: spend by model lay in a pod's memory and was lost with it."""
    limit = budget(10 * IN + 2 * OUT + CEILING - 1, "b", "model", MODEL)
    stand = Stand(tmp_path, budgets=[limit])
    assert (await stand.ask(short_answer(), body=BODY)).status == 200
    stand.close()
    again = Stand(tmp_path, budgets=[limit])
    assert again.balance() == (10 * IN + 2 * OUT, 0)
    assert (await again.ask(body=BODY)).word == "budget_exhausted"
    again.close()
    proven(tmp_path)


async def test_edits_of_key_team_and_budget_leave_what_was_spent(make_stand: MakeStand) -> None:
    """bifrost 5925, PR 5932, PR 2363: a synchronised configuration, or an edited key, set live usage to nothing."""
    stand = make_stand(budgets=[budget(CEILING + 1000)])
    assert (await stand.ask(short_answer(), body=BODY)).status == 200
    spent = stand.balance()
    tenants, fields = stand.node.tenants, {name: getattr(stand.key, name) for name in stand.key.__struct_fields__}
    renamed = type(stand.key)(**fields | {"name": "renamed", "policy": Policy(max_tokens_cap=5_000)})
    tenants.change(Delta(version=2, keys=[renamed]))
    tenants.change(Delta(version=3, budgets=[budget(CEILING + 1001, version=2)]))
    tenants.replace(stand.snapshot)  # a whole synchronisation, from a state that is older
    assert stand.balance() == spent
    assert (await stand.ask(body=BODY)).word == "budget_exhausted"
    assert stand.balance() == spent


@pytest.mark.parametrize(
    "asked", ["gpt-4o-mini", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini", "openai/gpt-4o-mini-2024-07-18"]
)
async def test_another_name_of_a_model_is_no_way_around(make_stand: MakeStand, asked: str) -> None:
    """envoyproxy/ai-gateway 2394: a quota was silently not applied where names did not match."""
    by_model = LimitDef(id="tpm-model", unit="tokens", amount=100_000, scope="model")
    stand = make_stand(budgets=[budget(5, "b", "model", "gpt-4o-mini")])
    assert (await stand.ask(body=chat(model=asked, max_tokens=CAP))).word == "can_never_fit"
    counted = make_stand(policy=Policy(limits=(by_model,)))
    await counted.ask(completion("Hi", usage(40, 20)), body=chat(model=asked, max_tokens=CAP))
    assert counted.tokens_taken(by_model, f"{counted.key.id}/gpt-4o-mini") == 60


# ---- too much of it


async def test_a_spent_budget_leaves_models_that_cost_nothing(make_stand: MakeStand) -> None:
    """litellm 10973: an exhausted budget also shut out local models without a price."""
    table = price_table().with_overrides([*PRICES, override("openai", "at-home", input=0, output=0)])
    stand = make_stand(budgets=[budget(CEILING)], prices=table)
    await stand.ask(completion("Hi", usage(10, 50_000)), body=BODY)
    assert sum(stand.balance()) > CEILING  # spent, and closed
    assert (await stand.ask(body=BODY)).word == "budget_exhausted"
    assert (await stand.ask(short_answer(), body=chat(model="at-home", max_tokens=CAP))).status == 200
    assert OPENAI_KEY.id in stand.upstream.sent[-1].headers["authorization"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/keys", {"name": "app", "budget": {"limit_usd": "10"}}),
        ("/keys", {"name": "app", "max_budget": 10}),
        ("/teams", {"name": "Team", "budget": "10"}),
        ("/budgets", {"subject_kind": "key", "subject": "", "limit_usd": "10", "budget_duration": "30d"}),
    ],
)
def test_a_budget_in_a_field_that_is_not_known_is_refused(
    broker: Broker, tenants: Any, path: str, body: dict[str, Any]
) -> None:
    """bifrost 5673: a field of before was taken and silently meant nothing."""
    key = tenants.key()
    filled = {"/keys": {"team": key.team}, "/teams": {"owner": tenants.owner}, "/budgets": {"subject": key.id}}
    answer = broker.admin("POST", f"/v1/admin{path}", json=body | filled[path])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    (odd,) = body.keys() & {"budget", "max_budget", "budget_duration"}
    assert odd in answer.json()["detail"]


def test_a_setting_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """bifrost 5673, in the file: a start with it is none."""
    strange = Broker(tmp_path, config={"budget": {"limit": 10}})
    checked = strange.cli("check", "--config", str(strange.config_file), check=False)
    assert checked.returncode != 0
    assert "budget" in checked.stdout + checked.stderr
