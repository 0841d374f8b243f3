"""The admin API over real HTTP and real stores: shapes, pages, patches, refusals that say what to do, no secret out."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bursar.control.status import GatewayFacts
from bursar.core.errors import RULES
from bursar.core.ledger_records import UsageRow
from bursar.core.tokens import parse
from tests.faces.stand import Stand, balance, standing

PROVIDER_KEY = "sk-proj-canary-0123456789abcdef"


@pytest.fixture
def stand(tmp_path) -> Iterator[Stand]:
    with standing(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """For tests that change nothing."""
    with standing(tmp_path_factory.mktemp("shared")) as one:
        yield one


class Caller:
    def __init__(self, stand: Stand) -> None:
        token = stand.token.reveal()
        self.http = httpx.Client(base_url=stand.url + "/v1/admin", headers={"authorization": f"Bearer {token}"})

    def ok(self, method: str, path: str, body: Any = None, status: int = 200, **query: Any) -> Any:
        answer = self.http.request(method, path, json=body, params=query or None)
        assert answer.status_code == status, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer.json() if answer.content else None

    def refused(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        answer = self.http.request(method, path, json=body, params=query or None)
        return checked_problem(answer)


def checked_problem(answer: httpx.Response) -> dict[str, Any]:
    """What every refusal has: the media type, the word's own status, something to do next."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code == RULES[problem["code"]].status
    assert problem["title"]
    assert problem["detail"]
    assert problem["hint"], problem
    return problem


@pytest.fixture
def caller(stand: Stand) -> Iterator[Caller]:
    made = Caller(stand)
    with made.http:
        yield made


@pytest.fixture(scope="module")
def shared_caller(shared: Stand) -> Iterator[Caller]:
    made = Caller(shared)
    with made.http:
        yield made


@pytest.fixture
def team(caller: Caller) -> str:
    caller.ok("POST", "/owners", {"name": "ACME", "id": "acme"}, 201)
    caller.ok("POST", "/teams", {"name": "Search", "owner": "acme", "policy": {"models": ["gpt-*"]}}, 201)
    return "search"


def test_owners(caller: Caller) -> None:
    made = caller.ok("POST", "/owners", {"name": "ACME Inc.", "contacts": ["a@x.test"]}, 201)
    assert made == {"id": "acme-inc", "name": "ACME Inc.", "contacts": ["a@x.test"]}
    assert caller.ok("GET", "/owners/acme-inc") == made
    assert caller.ok("PATCH", "/owners/acme-inc", {"name": "ACME"})["contacts"] == ["a@x.test"]
    assert caller.ok("PATCH", "/owners/acme-inc", {"contacts": None}) == {
        "id": "acme-inc",
        "name": "ACME",
        "contacts": [],
    }
    assert caller.ok("DELETE", "/owners/acme-inc", status=204) is None
    assert caller.refused("GET", "/owners/acme-inc")["code"] == "unknown_id"


def test_a_patch_is_a_merge_and_null_takes_a_field_away(caller: Caller, team: str) -> None:
    changed = caller.ok("PATCH", f"/teams/{team}", {"policy": {"max_tokens_cap": 512}, "tags": ["prod"]})
    assert changed["policy"] == {"models": ["gpt-*"], "max_tokens_cap": 512}
    changed = caller.ok("PATCH", f"/teams/{team}", {"policy": {"models": None}})
    assert changed["policy"] == {"max_tokens_cap": 512}
    assert changed["tags"] == ["prod"]
    assert caller.refused("PATCH", f"/teams/{team}", {"owner": None})["faults"][0]["path"] == "owner"


def test_what_was_read_can_be_sent_back(caller: Caller, team: str) -> None:
    limits = [{"unit": "requests", "amount": 60, "burst": 5}]
    read = caller.ok("PATCH", f"/teams/{team}", {"policy": {"limits": limits}})
    fields = {name: read[name] for name in ("name", "owner", "policy", "tags")}
    assert caller.ok("PATCH", f"/teams/{team}", fields) == read


def test_a_key_is_shown_once(caller: Caller, team: str) -> None:
    minted = caller.ok("POST", "/keys", {"team": team, "name": "ci", "expires_at": "2030-01-31"}, 201)
    parsed = parse(minted["text"])
    assert parsed is not None
    assert parsed.public_id == minted["key"]["id"]
    assert minted["key"]["expires_at"] == "2030-01-31T00:00:00Z"
    key = f"/keys/{minted['key']['id']}"
    everything = str([caller.ok("GET", key), caller.ok("GET", "/keys"), caller.ok("GET", "/audit")])
    assert minted["text"].rpartition("_")[2] not in everything
    rotated = caller.ok("POST", f"{key}/rotate", {"overlap_s": 60})
    assert rotated["text"] != minted["text"]
    assert rotated["key"]["id"] == minted["key"]["id"]
    assert rotated["key"]["overlap_until"] == "2025-11-24T16:01:00Z"
    assert caller.ok("POST", f"{key}/disable")["state"] == "disabled"
    assert caller.ok("POST", f"{key}/enable")["state"] == "active"
    assert caller.ok("PATCH", key, {"expires_at": None})["expires_at"] is None
    caller.ok("DELETE", key, status=204)
    assert caller.ok("GET", "/keys") == {"items": [], "next": None}


def test_an_expired_key_says_so(caller: Caller, team: str, stand: Stand) -> None:
    key = caller.ok("POST", "/keys", {"team": team, "name": "ci", "expires_at": "2025-11-25"}, 201)["key"]
    stand.clock.pass_s(2 * 86_400)
    assert caller.ok("GET", f"/keys/{key['id']}")["state"] == "expired"
    assert caller.ok("PATCH", f"/keys/{key['id']}", {"name": "old"})["state"] == "expired", "its past date may stay"


def test_a_key_that_widens_its_team_is_refused_with_the_field(caller: Caller, team: str) -> None:
    problem = caller.refused("POST", "/keys", {"team": team, "name": "k", "policy": {"models": ["claude-*"]}})
    assert problem["code"] == "policy_widens"
    assert problem["facts"] == {"field": "models"}


def test_budgets_and_balances(caller: Caller, team: str, stand: Stand) -> None:
    body = {"subject_kind": "team", "subject": team, "limit_usd": "12.50", "window": {"period": "week"}}
    made = caller.ok("POST", "/budgets", body, 201)
    assert (made["id"], made["limit_usd"], made["version"]) == ("team-search-week", "12.50", 1)
    raised = caller.ok("PATCH", f"/budgets/{made['id']}", {"limit_usd": "20", "window": {"zone": "Europe/Berlin"}})
    assert (raised["limit_usd"], raised["version"]) == ("20.00", 2)
    assert (raised["window"]["period"], raised["window"]["zone"]) == ("week", "Europe/Berlin")
    stand.ledger.standing = [balance(made["id"], "20", "7.25", "0.000000000001"), balance("b", "1", "2", closed=True)]
    closed, open_ = caller.ok("GET", "/balances")["items"]
    assert (open_["posted_usd"], open_["held_usd"], open_["left_usd"]) == ("7.25", "0.000000000001", "12.749999999999")
    assert (closed["closed"], closed["left_usd"]) == (True, "0.00")
    caller.ok("DELETE", f"/budgets/{made['id']}", status=204)
    assert caller.ok("GET", "/budgets")["items"] == []


@pytest.mark.parametrize("limit", [12.5, 12, "abc", "NaN", "1e400", "-1", None, "0.0000000000001"])
def test_an_amount_is_exact_text(shared_caller: Caller, limit: Any) -> None:
    problem = shared_caller.refused("POST", "/budgets", {"subject_kind": "user", "subject": "u", "limit_usd": limit})
    assert problem["code"] == "invalid_input"


def test_provider_keys_never_come_out(caller: Caller, team: str, stand: Stand) -> None:
    body = {"address": "openai/*/api_key/prod/*", "value": PROVIDER_KEY, "tags": {"allowed_models": "gpt-4o*"}}
    made = caller.ok("POST", "/provider-keys", body, 201)
    assert made["unowned"]
    assert (made["version"], made["tags"]["billing_owner"]) == (1, "unassigned")
    tagged = caller.ok("POST", f"/provider-keys/{made['id']}/tags", {"tags": {"billing_owner": "acme", "x": "y"}})
    assert not tagged["unowned"]
    untagged = caller.ok("POST", f"/provider-keys/{made['id']}/tags", {"tags": {"x": None}})
    assert "x" not in untagged["tags"]
    (listed,) = stand.services.directory.snapshot().provider_keys
    assert (listed.id, listed.billing_owner, listed.allowed_models) == (made["id"], "acme", ("gpt-4o*",))
    assert caller.ok("POST", f"/provider-keys/{made['id']}/disable")["disabled"]
    assert stand.services.directory.snapshot().provider_keys[0].disabled
    caller.ok("POST", f"/provider-keys/{made['id']}/enable")
    everything = [
        caller.ok("GET", path) for path in ("/provider-keys", "/audit", "/status", f"/provider-keys/{made['id']}")
    ]
    duplicate = caller.refused("POST", "/provider-keys", {"address": "openai/*/api_key/dev/*", "value": PROVIDER_KEY})
    assert duplicate["code"] == "duplicate_secret"
    assert PROVIDER_KEY not in str([everything, made, tagged, duplicate])
    for path in stand.folder.iterdir():
        assert PROVIDER_KEY.encode() not in path.read_bytes(), path
    caller.ok("DELETE", f"/provider-keys/{made['id']}", status=204)
    assert stand.services.directory.snapshot().provider_keys == []


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"address": "opnai/*/api_key/prod/*", "value": "v" * 20}, "invalid_address"),
        ({"address": "openai", "value": "v" * 20}, "invalid_address"),
        ({"address": "openai/*/api_key/prod/*", "value": ""}, "invalid_secret"),
        ({"address": "openai/*/api_key/prod/*", "value": "v" * 20, "tags": {"billing_owner": "nobody"}}, "unknown_id"),
        (
            {"address": "openai/*/api_key/prod/*", "value": PROVIDER_KEY, "tags": {"note": PROVIDER_KEY}},
            "invalid_secret",
        ),
        ({"address": "openai/*/api_key/prod/*", "value": "v" * 20, "tags": {"purpose": ","}}, "invalid_tags"),
    ],
)
def test_a_provider_key_that_is_refused_leaves_no_trace_of_its_value(
    caller: Caller, stand: Stand, body: dict[str, Any], word: str
) -> None:
    answer = caller.http.post("/provider-keys", json=body)
    assert answer.json()["code"] == word
    assert PROVIDER_KEY not in answer.text
    assert PROVIDER_KEY not in str(caller.ok("GET", "/audit"))
    assert caller.ok("GET", "/provider-keys")["items"] == []


def test_prices(caller: Caller) -> None:
    (shipped,) = caller.ok("GET", "/prices/openai", model="gpt-4o-mini")["items"]
    assert shipped["bands"][0]["input"] == "0.15"
    assert not shipped["overridden"]
    assert shipped["digest"]
    own = caller.ok("POST", "/prices/openai/gpt-4o-mini", {"input": "0.10", "output": "0.40"}, 201)
    assert (own["input"], own["output"], own["from"]) == ("0.10", "0.40", "2025-11-24T16:00:00Z")
    (changed,) = caller.ok("GET", "/prices/openai", model="gpt-4o-mini")["items"]
    assert (changed["overridden"], changed["bands"][0]["input"]) == (True, "0.10")
    assert caller.ok("GET", "/price-overrides")["items"] == [own]
    again = caller.refused("POST", "/prices/openai/gpt-4o-mini", {"input": "0.2", "output": "0.4"})
    assert again["code"] == "already_exists", "a price is never overwritten"
    past = {"input": "1", "output": "1", "from": "2020-01-01"}
    assert caller.refused("POST", "/prices/openai/gpt-4o-mini", past)["code"] == "invalid_input"
    unknown = caller.refused("GET", "/prices/openai", model="gpt-4o-minni")
    assert unknown["code"] == "unknown_id"
    assert "gpt-4o-mini" in unknown["hint"]
    caller.ok("POST", "/prices/openai/org/model-of-ours", {"input": "1", "output": "2"}, 201)
    assert caller.ok("GET", "/prices/openai", model="org/model-of-ours")["items"][0]["model"] == "org/model-of-ours"


def test_lists_are_read_in_pieces_without_gaps(caller: Caller) -> None:
    for number in range(7):
        caller.ok("POST", "/owners", {"name": f"o{number}"}, 201)
    seen, after = [], ""
    while True:
        page = caller.ok("GET", "/owners", limit=3, after=after)
        seen += [owner["id"] for owner in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == [f"o{number}" for number in range(7)]
    names = caller.ok("GET", "/prices/openai", limit=2)
    assert len(names["items"]) <= 2
    assert names["next"]


def test_usage(caller: Caller, team: str, stand: Stand) -> None:
    stand.ledger.rows = [
        UsageRow(group=g, attempts=2, input_tokens=10, output_tokens=5, cached_tokens=1, cost_pico=10**12 // 3)
        for g in ("", team, "gone")
    ]
    report = caller.ok("GET", "/usage", by="team", since="2025-11-01", until="2025-11-02T00:00:00Z")
    assert (report["since"], report["until"], report["by"]) == ("2025-11-01T00:00:00Z", "2025-11-02T00:00:00Z", "team")
    assert [row["group"] for row in report["items"]] == ["gone", "search"] or report["items"][0]["group"] == ""
    row = report["items"][-1]
    assert (row["name"], row["cost_usd"], row["overage_usd"]) == ("Search", "0.333333333333", "0.00")
    assert stand.ledger.asked[-1][1] < stand.ledger.asked[-1][2]
    assert caller.refused("GET", "/usage", since="2025-11-02", until="2025-11-01")["code"] == "invalid_input"
    assert "did you mean `team`" in caller.refused("GET", "/usage", by="teams")["faults"][0]["hint"]


def test_status_says_what_wants_attention(caller: Caller, stand: Stand) -> None:
    assert "no gateway is connected" in caller.ok("GET", "/status")["warnings"][0]
    stand.gateways.append(GatewayFacts(node="main", pid=1, connected=True, directory_version=0))
    status = caller.ok("GET", "/status")
    assert (status["ok"], status["warnings"]) == (True, [])
    assert status["counts"] == {"owners": 0, "teams": 0, "keys": 0, "budgets": 0, "provider_keys": 0}
    caller.ok("POST", "/provider-keys", {"address": "openai/*/api_key/prod/*", "value": PROVIDER_KEY}, 201)
    behind, unowned = caller.ok("GET", "/status")["warnings"]
    assert "directory version 0, not 1" in behind
    (entry,) = caller.ok("GET", "/provider-keys")["items"]
    assert f"bursar secrets tag {entry['id']} billing_owner=OWNER" in unowned


def test_the_audit_tells_who_did_what_newest_first(caller: Caller, team: str) -> None:
    first = caller.ok("GET", "/audit", limit=2)
    assert [(r["actor"], r["action"], r["target"]) for r in first["items"]] == [
        ("admin", "team.create", "team/search"),
        ("admin", "owner.create", "owner/acme"),
    ]
    older = caller.ok("GET", "/audit", before=int(first["next"]))
    assert [r["action"] for r in older["items"]] == ["audit.start"]
    assert older["next"] is None


# ---- the door


def test_without_the_token_nothing_opens_but_health_and_the_description(stand: Stand) -> None:
    with httpx.Client(base_url=stand.url) as http:
        assert http.get("/healthz").text == "ok\n"
        paths = http.get("/openapi.json").json()["paths"]
        for path, methods in paths.items():
            for method in methods:
                answer = http.request(method, re.sub(r"\{\w+\}", "x", path))
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert checked_problem(answer)["code"] == "admin_token_missing"


def test_a_wrong_token_waits_longer_each_time_and_is_counted(stand: Stand, caller: Caller) -> None:
    with httpx.Client(base_url=stand.url + "/v1/admin", headers={"authorization": "Bearer bsa_wrong"}) as http:
        for _ in range(5):
            assert checked_problem(http.get("/status"))["code"] == "admin_token_invalid"
    assert stand.waited == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert [failures for failures, _ in stand.told] == [1, 2, 4]
    assert caller.ok("GET", "/status")["failed_guesses"] == 5, "the right token is not slowed"
    assert len(stand.waited) == 5
    stand.clock.pass_s(61)
    httpx.get(stand.url + "/v1/admin/status", headers={"authorization": "Bearer x"})
    assert stand.waited[-1] == 0.1, "an hour's slip is not an attack"


def test_a_virtual_key_is_told_apart_and_does_not_administer(stand: Stand, caller: Caller, team: str) -> None:
    text = caller.ok("POST", "/keys", {"team": team, "name": "ci"}, 201)["text"]
    answer = httpx.get(stand.url + "/v1/admin/status", headers={"authorization": f"Bearer {text}"})
    assert "virtual key" in checked_problem(answer)["detail"]
    assert text not in answer.text


@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic {token}", "{token}", "Bearer {token}x", "Bearer ü"])
def test_only_the_whole_token_opens(shared: Stand, authorization: str) -> None:
    value = authorization.format(token=shared.token.reveal()).encode()
    answer = httpx.get(shared.url + "/v1/admin/status", headers={b"authorization": value})
    assert checked_problem(answer)["status"] == 401


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:4001", "127.0.0.1.evil.test", "localhost.", "[::2]:80", "a@b"]
)
def test_a_rebound_name_is_refused_before_the_token_is_looked_at(shared: Stand, host: str) -> None:
    failures = shared.door.failures
    for path in ("/v1/admin/status", "/openapi.json"):
        answer = httpx.get(shared.url + path, headers={"host": host, "authorization": "Bearer wrong"})
        assert checked_problem(answer)["code"] == "host_not_allowed"
    assert shared.door.failures == failures


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:4001", "[::1]:4001", "[::1]"])
def test_loopback_names_are_answered(shared: Stand, host: str) -> None:
    headers = {"host": host, "authorization": f"Bearer {shared.token.reveal()}"}
    assert httpx.get(shared.url + "/v1/admin/status", headers=headers).status_code == 200


# ---- input


def test_every_fault_of_a_body_is_told_at_once(caller: Caller) -> None:
    body = {"nmae": "x", "owner": 7, "policy": {"modles": [], "over_max_tokens": "clap", "max_tokens_cap": "many"}}
    faults = {fault["path"]: fault["hint"] for fault in caller.refused("POST", "/teams", body)["faults"]}
    assert set(faults) == {"nmae", "name", "owner", "policy.modles", "policy.over_max_tokens", "policy.max_tokens_cap"}
    assert faults["nmae"] == "did you mean `name`?"
    assert "clamp" in faults["policy.over_max_tokens"]


@pytest.mark.parametrize(
    ("content", "media", "word"),
    [
        (b"{", "application/json", "malformed_request"),
        (b"[]", "application/json", "malformed_request"),
        (b'"x"', "application/json", "malformed_request"),
        (b"name=x", "application/x-www-form-urlencoded", "unsupported_media_type"),
        (b"", "application/json", "invalid_input"),
        (b'{"name": "' + b"x" * (1 << 20) + b'"}', "application/json", "body_too_large"),
        (b'{"name": "\xff"}', "application/json", "malformed_request"),
        (b"[" * 100_000, "application/json", "malformed_request"),
        (b'{"a":' * 100_000, "application/json", "malformed_request"),
    ],
)
def test_bodies_that_are_no_input(shared_caller: Caller, content: bytes, media: str, word: str) -> None:
    answer = shared_caller.http.post("/owners", content=content, headers={"content-type": media})
    assert checked_problem(answer)["code"] == word


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("GET", "/nothing", "not_found"),
        ("PUT", "/owners", "method_not_allowed"),
        ("POST", "/status", "method_not_allowed"),
        ("GET", "/owners/../../../etc/passwd", "not_found"),
        ("GET", "/status?verbose=1", "invalid_input"),
        ("GET", "/owners?limit=0", "invalid_input"),
        ("GET", "/owners?limit=many", "invalid_input"),
        ("GET", "/owners?limt=3", "invalid_input"),
    ],
)
def test_paths_and_parameters_that_mean_nothing(shared_caller: Caller, method: str, path: str, word: str) -> None:
    assert shared_caller.refused(method, path)["code"] == word


def test_a_bug_says_nothing_of_our_insides(stand: Stand, caller: Caller) -> None:
    async def broken() -> list[Any]:
        raise RuntimeError("the canary " + PROVIDER_KEY)

    stand.ledger.balances = broken  # type: ignore[method-assign]
    answer = caller.http.get("/balances")
    assert checked_problem(answer)["code"] == "internal_error"
    assert "canary" not in answer.text


def test_while_the_audit_is_away_nothing_changes(stand: Stand, caller: Caller) -> None:
    async def away() -> None:
        stand.trail._db.execute("PRAGMA query_only = ON")

    stand.run(away())
    assert caller.refused("POST", "/owners", {"name": "ACME"})["code"] == "audit_unavailable"
    put = {"address": "openai/*/api_key/prod/*", "value": PROVIDER_KEY}
    assert caller.refused("POST", "/provider-keys", put)["code"] == "audit_unavailable"
    assert caller.ok("GET", "/owners")["items"] == caller.ok("GET", "/provider-keys")["items"] == []
