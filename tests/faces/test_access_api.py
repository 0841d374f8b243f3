"""Grants over the admin API and as people type them: deny by default on each provider key, and the store's policy."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faces.stand import Stand, standing
from tests.faces.test_admin_api import checked_problem
from tests.faces.test_admin_roles import Someone, let_in

ADDRESS = "openai/*/api/prod/search"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("node")) as one:
        yield one


@pytest.fixture(scope="module")
def owner(stand: Stand) -> Iterator[Someone]:
    one = Someone(stand, stand.token.reveal())
    with one.http:
        yield one


@pytest.fixture(scope="module")
def operator(stand: Stand, owner: Someone) -> Iterator[Someone]:
    one = Someone(stand, let_in(owner, "operator")["text"])
    with one.http:
        yield one


def grant(owner: Someone, **terms: Any) -> str:
    answer = owner.ask("POST", "/grants", terms)
    assert answer.status_code == 201, answer.text
    made: str = answer.json()["id"]
    return made


def put(someone: Someone, value: str, address: str = ADDRESS) -> Any:
    body = {"address": address, "value": value, "tags": {"purpose": "inference"}}
    return someone.ask("POST", "/provider-keys", body)


def test_an_operator_writes_and_rotates_only_what_was_granted(owner: Someone, operator: Someone) -> None:
    assert checked_problem(put(operator, "sk-first-of-all-0123"))["code"] == "access_denied"
    writing = grant(owner, subject="role/operator", acts=["write"], path="openai/*/*/prod/*")
    stored = put(operator, "sk-first-of-all-0123")
    assert stored.status_code == 201
    assert checked_problem(put(operator, "sk-in-another-place", "openai/*/api/dev/x"))["code"] == "access_denied"
    assert checked_problem(put(operator, "sk-second-of-all-0123"))["code"] == "access_denied", "a version is a rotation"
    rotating = grant(owner, subject="role/operator", acts=["rotate"], path=ADDRESS, tags={"purpose": "inference"})
    assert put(operator, "sk-second-of-all-0123").json()["version"] == 2
    key = stored.json()["id"]
    assert operator.ask("POST", f"/provider-keys/{key}/tags", {"tags": {"env": "x"}}).status_code == 200
    for gone in (writing, rotating):
        assert owner.ask("DELETE", f"/grants/{gone}").status_code == 204
    for path, body in ((f"/provider-keys/{key}/disable", None), (f"/provider-keys/{key}/tags", {"tags": {"env": "y"}})):
        refused = checked_problem(operator.ask("POST", path, body))
        assert refused["code"] == "access_denied"
        assert "bursar secrets grant role/operator" in refused["hint"]


def test_reading_in_clear_needs_a_grant_of_its_own(stand: Stand, owner: Someone) -> None:
    key = put(owner, "sk-to-be-read-or-not", "openai/*/api/prod/reading").json()["id"]
    someone = Someone(stand, let_in(owner, "admin")["text"])
    ask = {"reason": "a test"}
    with someone.http:
        assert checked_problem(someone.ask("POST", f"/provider-keys/{key}/reveal", ask))["code"] == "access_denied"
        grant(owner, subject="role/admin", acts=["read"], path="openai/*/*/*/reading")
        refused = checked_problem(someone.ask("POST", f"/provider-keys/{key}/reveal", ask))
        assert refused["code"] == "reveal_not_allowed", "and a node that lets values out"


@pytest.mark.parametrize(
    "terms",
    [
        {"subject": "team/*", "acts": ["use"]},
        {"subject": "team/nobody", "acts": ["use"]},
        {"subject": "role/emperor", "acts": ["write"]},
        {"subject": "role/operator", "acts": ["use"]},
        {"subject": "role/operator", "acts": ["write"], "path": "openai"},
        {"subject": "role/operator", "acts": []},
        {"subject": "role/operator", "acts": ["fly"]},
        {"subject": "role/operator", "acts": ["write"], "expires_at": "2001-01-01"},
    ],
)
def test_what_cannot_be_granted(owner: Someone, terms: dict[str, Any]) -> None:
    assert checked_problem(owner.ask("POST", "/grants", terms))["code"] in ("invalid_input", "unknown_id")


def test_the_same_rules_for_the_store(owner: Someone) -> None:
    grant(owner, subject="role/operator", acts=["rotate"], path="anthropic/*/*/prod/*")
    exported = owner.ask("GET", "/policy-export?target=vault").json()
    texts = {one["name"]: one["text"] for one in exported["policies"]}
    assert 'path "secret/data/bursar/anthropic/+/+/prod/+"' in texts["bursar-role-operator"]
    assert checked_problem(owner.ask("GET", "/policy-export?target=aws"))["code"] == "store_unknown"
    assert checked_problem(owner.ask("GET", "/policy-export?target=vault&store=x"))["code"] == "store_unknown"
