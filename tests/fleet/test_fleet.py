"""Three brokers as real processes over one PostgreSQL: what one is told all know, and what one spends none has."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from bursar.core.units import usd_to_pico
from tests.e2e.broker import Broker
from tests.e2e.tenants import Tenants
from tests.faults.books import until
from tests.fleet.harness import Books, Fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Shared by the tests of this file, which leave it as they found it."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start()
        yield running


@pytest.fixture(scope="module")
def tenants(fleet: Fleet) -> Tenants:
    return Tenants(fleet.nodes[0])


def word(answer: httpx.Response) -> str:
    return answer.headers.get("x-bursar-word", "")


def works(answer: httpx.Response) -> bool:
    return answer.status_code == 200


def test_a_key_made_on_one_works_on_all_within_a_second(fleet: Fleet, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "1.00"})
    waited = [fleet.calls_until(node, key.text, works, 20) for node in fleet.nodes]
    assert max(waited) < 1.0, waited


def test_a_key_disabled_on_one_is_refused_by_all_at_the_next_hold(fleet: Fleet, tenants: Tenants) -> None:
    a, b, c = fleet.nodes
    key = tenants.key(budget={"limit_usd": "1.00"})
    for node in fleet.nodes:
        fleet.calls_until(node, key.text, works, 20)
    assert b.admin("POST", f"/v1/admin/keys/{key.id}/disable").status_code == 200
    answers = [fleet.call(node, key.text) for node in (a, c, b)]
    assert [(answer.status_code, word(answer)) for answer in answers] == [(403, "key_disabled")] * 3


def test_each_hold_says_by_which_directory_it_was_decided(fleet: Fleet, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "1.00"})
    for node in fleet.nodes:
        fleet.calls_until(node, key.text, works, 20)
    tenants.team()  # any change is a new version
    version = int(fleet.nodes[0].cli_json("status")["directory_version"])
    for node in fleet.nodes:
        until(lambda node=node: node.cli_json("status")["directory_version"] >= version)
        fleet.calls_until(node, key.text, works, 20)
    labels = f"SELECT id FROM bursar.ledger_label WHERE key_id = '{key.id}'"
    held = f"SELECT directory_version FROM bursar.ledger WHERE kind = 4 AND label IN ({labels}) ORDER BY seq"
    until(lambda: int(fleet.psql(held).split()[-1]) >= version)
    versions = [int(one) for one in fleet.psql(held).split()]
    assert len(versions) >= 6
    assert versions[0] < version
    assert sum(one >= version for one in versions) >= 3


def test_changes_of_all_nodes_make_one_directory(fleet: Fleet, tenants: Tenants) -> None:
    """Admins at work on three nodes at once: all that they made is there, everywhere."""
    before = {owner["id"] for owner in _listed(fleet.nodes[0], "owners")}

    def make(number: int) -> int:
        node = fleet.nodes[number % 3]
        return node.admin("POST", "/v1/admin/owners", json={"name": f"Owner {number}"}).status_code

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(make, range(30))) == {201}
    made = {f"owner-{number}" for number in range(30)}
    for node in fleet.nodes:
        until(lambda node=node: {owner["id"] for owner in _listed(node, "owners")} - before == made)


def test_of_two_admins_at_one_entity_one_is_told(fleet: Fleet, tenants: Tenants) -> None:
    """Never both silently: whoever loses has seen the other's change, or is told `directory_changed`."""
    team = tenants.team()
    a, b, _ = fleet.nodes
    until(lambda: b.admin("GET", f"/v1/admin/teams/{team}").status_code == 200)
    start = threading.Barrier(2)
    headers = [{"authorization": f"Bearer {node.admin_token}"} for node in (a, b)]
    callers = [
        httpx.Client(base_url=node.admin_url, headers=head, timeout=20)
        for node, head in zip((a, b), headers, strict=True)
    ]

    def rename(caller: httpx.Client, name: str) -> str:
        start.wait()
        answer = caller.patch(f"/v1/admin/teams/{team}", json={"name": name})
        return "" if answer.status_code == 200 else str(answer.json()["code"])

    lost = 0
    with ThreadPoolExecutor(2) as threads:
        for number in range(40):
            words = sorted(threads.map(rename, callers, (f"A {number}", f"B {number}")))
            assert words in (["", ""], ["", "directory_changed"]), words
            lost += words[1] == "directory_changed"
            until(lambda: len({str(_read(node, f"teams/{team}")) for node in fleet.nodes}) == 1)
    assert lost, "no two changes ever met: the test proves nothing"


def test_a_budget_shared_by_all_is_never_passed(fleet: Fleet, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "0.01"})
    (budget,) = key.budgets
    for node in fleet.nodes:
        fleet.calls_until(node, key.text, works, 20)
    seen: list[Books] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(fleet.books(budget))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answers = fleet.load(key.text, calls=600, at_once=24)
    finally:
        over.set()
        watcher.join()
    words = {word(answer) for answer in answers if answer.status_code != 200}
    assert any(map(works, answers))
    assert words <= {"budget_exhausted", "held_by_requests_in_flight", "can_never_fit"}, words
    assert words, "the budget was never reached: the test proves nothing"
    assert all(books.posted + books.held <= books.limit == usd_to_pico("0.01") for books in seen)
    until(lambda: fleet.books(budget).held == 0)


def test_what_owners_are_told_is_in_the_audit_once(fleet: Fleet, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "0.01"})
    (budget,) = key.budgets
    fleet.calls_until(fleet.nodes[0], key.text, works, 20)
    fleet.load(key.text, calls=400, at_once=12)
    told = f"""SELECT convert_from(payload, 'UTF8')::json -> 'facts' ->> 'percent' FROM bursar.audit_record
        WHERE action = 'ledger_threshold' AND target LIKE '%{budget}%' ORDER BY 1"""
    until(lambda: len(fleet.psql(told).split()) >= 2)
    until(lambda: fleet.psql("SELECT count(*) FROM bursar.ledger_event") == "0")
    percents = fleet.psql(told).split()
    assert len(set(percents)) == len(percents), percents


def test_the_ledger_is_not_below_the_bill(fleet: Fleet, tenants: Tenants) -> None:
    """To the pico: the emulator reports its usage, and every call has ended."""
    key = tenants.key(budget={"limit_usd": "10.00"})
    assert all(map(works, fleet.load(key.text, calls=60, at_once=12)))
    until(lambda: int(fleet.psql("SELECT count(*) FROM bursar.ledger_hold")) == 0)
    posted = "SELECT coalesce(sum(amount), 0) FROM bursar.ledger WHERE kind = 6"
    until(lambda: int(fleet.psql(posted)) >= fleet.billed())
    assert int(fleet.psql(posted)) == fleet.billed()


def test_every_node_tells_the_same_usage_and_balances(fleet: Fleet, tenants: Tenants) -> None:
    key = tenants.key(budget={"limit_usd": "5.00"})
    assert all(map(works, fleet.load(key.text, calls=30, at_once=6)))
    until(lambda: fleet.books(key.budgets[0]).held == 0)
    usage = [[row for row in _listed(node, "usage", by="key") if row["group"] == key.id] for node in fleet.nodes]
    assert [rows[0]["attempts"] for rows in usage] == [30] * 3
    assert usage[0] == usage[1] == usage[2]
    balances = [[row for row in _listed(node, "balances") if row["budget"] == key.budgets[0]] for node in fleet.nodes]
    assert balances[0] == balances[1] == balances[2]
    assert balances[0][0]["posted_usd"] == usage[0][0]["cost_usd"]


def test_the_nodes_see_one_another(fleet: Fleet) -> None:
    listed = fleet.nodes[1].cli_json("nodes")
    assert [(node["name"], node["live"], node["gateways"]) for node in listed] == [
        ("a", True, 1),
        ("b", True, 1),
        ("c", True, 1),
    ]


def test_the_audit_of_all_nodes_is_proven_on_any(fleet: Fleet) -> None:
    found = fleet.nodes[2].admin("GET", "/v1/admin/audit/verify")
    assert found.status_code == 200, found.text
    assert found.json()["fault"] == ""
    assert found.json()["records"] > 10


def test_a_second_node_of_a_name_is_refused(fleet: Fleet) -> None:
    twin = fleet.add("twin", node="b")
    try:
        with pytest.raises(AssertionError, match="Another node of this fleet is called 'b'"):
            twin.start(60)
    finally:
        twin.close()
        fleet.nodes.remove(twin)


def test_a_node_with_another_wrapping_key_is_refused(fleet: Fleet) -> None:
    stranger = fleet.add("stranger", wrapper={"path": ""})
    try:
        with pytest.raises(AssertionError, match="There is no key file"):
            stranger.start(60)
    finally:
        stranger.close()
        fleet.nodes.remove(stranger)


def _read(node: Broker, path: str) -> object:
    return node.admin("GET", f"/v1/admin/{path}").json()


def _listed(node: Broker, path: str, **query: str) -> list[dict[str, str]]:
    answer = node.admin("GET", f"/v1/admin/{path}", params={**query, "limit": "500"})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def test_an_id_made_on_one_is_its_teams_on_all_at_once(fleet: Fleet, tenants: Tenants) -> None:
    """Each node has an emulator of its own: who asks it on, and is told `not found` by it, has known the id."""
    key, other = tenants.key(budget={"limit_usd": "1.00"}), tenants.key(budget={"limit_usd": "1.00"})
    for node in fleet.nodes:
        for text in (key.text, other.text):
            fleet.calls_until(node, text, works, 20)
    body = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 16}
    for number in range(15):
        maker = fleet.nodes[number % 3]
        made = _ask(maker, key.text, "POST", "", body)
        assert made.status_code == 200, made.text
        path = f"/{made.json()['id']}"
        assert _ask(maker, key.text, "GET", path).json()["id"] == made.json()["id"]
        for node in fleet.nodes:
            assert word(_ask(node, other.text, "GET", path)) == "unknown_id"
            assert word(_ask(node, key.text, "GET", path)) == ""
            built_upon = {**body, "previous_response_id": made.json()["id"]}
            assert word(_ask(node, other.text, "POST", "", built_upon)) == "unknown_id"
            assert word(_ask(node, key.text, "POST", "", built_upon)) == ""


def _ask(node: Broker, key: str, method: str, path: str, body: object = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.request(method, f"{node.url}/v1/responses{path}", headers=headers, json=body, timeout=20)


def test_what_one_refused_any_other_explains(fleet: Fleet, tenants: Tenants) -> None:
    """A refusal by its record, an ordinary call by its record and the shared ledger."""
    a, b, _ = fleet.nodes
    key = tenants.key({"models": ["gpt-4o-mini"]}, budget={"limit_usd": "1.00"})
    fleet.calls_until(b, key.text, works, 20)
    no, yes = fleet.call(b, key.text, model="gpt-4o"), fleet.call(b, key.text)
    assert word(no) == "model_not_allowed"

    def told(answer: httpx.Response) -> dict[str, Any]:
        request_id = answer.headers["x-bursar-request-id"]
        return dict(a.admin("GET", f"/v1/admin/decisions/{request_id}").json())

    until(lambda: told(no).get("recorded") and [it["state"] for it in told(yes).get("attempts", ())] == ["POSTED"])
    found = told(no)
    assert found["decision"]["node"] == fleet.nodes[1].admin("GET", "/v1/admin/status").json()["node"]
    assert found["decision"]["binding"] == "models/models"
    assert f"bursar keys update {key.id} --set models=gpt-4o-mini,gpt-4o" in {it["command"] for it in found["lifts"]}
    assert told(yes)["told"] == "allowed"


def test_what_a_person_opens_on_one_is_left_alone_by_all(fleet: Fleet, tenants: Tenants) -> None:
    a, b, _ = fleet.nodes
    key = tenants.key()
    for node in fleet.nodes:
        fleet.calls_until(node, key.text, works, 20)
    b.cli("breakers", "open", "openai", "--for", "1h", "--reason", "a drill")
    for node in fleet.nodes:
        fleet.calls_until(node, key.text, lambda answer: word(answer) == "upstream_unavailable", 20)
    (shown,) = a.cli_json("breakers")
    assert (shown["name"], shown["state"], shown["reason"]) == ("provider/openai", "open", "a drill")
    a.cli("breakers", "close", "openai")
    for node in fleet.nodes:
        fleet.calls_until(node, key.text, works, 20)
