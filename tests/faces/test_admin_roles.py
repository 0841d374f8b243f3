"""Roles over the admin API: each route asks for its right before it reads a body, and tokens of people end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bursar.core.directory import Admin, Delta, Snapshot, for_gateways
from bursar.core.roles import RIGHTS, Role
from bursar.faces.admin_routes import PREFIX, ROUTES
from tests.faces.stand import Stand, standing
from tests.faces.test_admin_api import checked_problem


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("node")) as one:
        yield one


class Someone:
    """Whoever holds a token."""

    def __init__(self, stand: Stand, token: str) -> None:
        self.http = httpx.Client(base_url=stand.url + PREFIX, headers={"authorization": f"Bearer {token}"}, timeout=20)

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.http.request(method, path, json=body)


@pytest.fixture(scope="module")
def owner(stand: Stand) -> Iterator[Someone]:
    one = Someone(stand, stand.token.reveal())
    with one.http:
        yield one


def let_in(owner: Someone, role: str, **more: Any) -> dict[str, Any]:
    answer = owner.ask("POST", "/admins", {"name": f"the {role}", "role": role, **more})
    assert answer.status_code == 201, answer.text
    minted: dict[str, Any] = answer.json()
    return minted


@pytest.mark.parametrize("role", RIGHTS)
def test_every_route_is_open_to_those_whose_role_has_its_right(stand: Stand, owner: Someone, role: Role) -> None:
    """Refused before anything else is looked at; where it is allowed, an unknown id or an empty body is the trouble."""
    someone = Someone(stand, let_in(owner, role)["text"])
    with someone.http:
        for route in ROUTES:
            path = route.path.replace(":path", "").replace("{", "no-such-").replace("}", "")
            answer = someone.ask(route.method, path, {} if route.body else None)
            spoken = answer.headers.get("content-type", "").endswith("json")
            word = answer.json().get("code", "") if spoken else ""
            assert (word == "role_not_allowed") == (route.right not in RIGHTS[role]), (route.method, route.path, word)


def test_changes_ask_for_more_than_to_read() -> None:
    for route in ROUTES:
        plans = route.path.endswith("plans")  # what was sent is held against the directory, and nothing changes
        assert route.method == "GET" or plans or route.right not in ("read", "read_audit"), route


def test_the_audit_names_who_did_it(stand: Stand, owner: Someone) -> None:
    minted = let_in(owner, "admin")
    someone = Someone(stand, minted["text"])
    with someone.http:
        assert someone.ask("GET", "/whoami").json()["actor"] == f"admin:{minted['admin']['id']}"
        assert someone.ask("POST", "/owners", {"name": "Of somebody", "id": "of-somebody"}).status_code == 201
    lines = owner.ask("GET", "/audit?limit=5").json()["items"]
    assert [line["actor"] for line in lines if line["action"] == "owner.create"] == [f"admin:{minted['admin']['id']}"]


def test_switched_off_and_expired_tokens_are_told_apart_from_wrong_ones(stand: Stand, owner: Someone) -> None:
    minted = let_in(owner, "viewer", expires_at="2030-01-01T00:00:00Z")
    admin_id, guesses = minted["admin"]["id"], stand.door.failures
    someone = Someone(stand, minted["text"])
    with someone.http:
        assert someone.ask("GET", "/teams").status_code == 200
        assert owner.ask("POST", f"/admins/{admin_id}/disable").json()["state"] == "disabled"
        assert checked_problem(someone.ask("GET", "/teams"))["code"] == "admin_token_expired"
        owner.ask("POST", f"/admins/{admin_id}/enable")
        assert someone.ask("GET", "/teams").status_code == 200
        before = stand.clock.ns
        stand.clock.ns = 1_893_456_000 * 10**9  # 2030-01-01
        assert checked_problem(someone.ask("GET", "/teams"))["code"] == "admin_token_expired"
        stand.clock.ns = before
        assert stand.door.failures == guesses, "whose token was right has not guessed"
        assert owner.ask("DELETE", f"/admins/{admin_id}").status_code == 204
        assert checked_problem(someone.ask("GET", "/teams"))["code"] == "admin_token_invalid"


def test_a_role_can_be_changed_and_holds_at_once(stand: Stand, owner: Someone) -> None:
    minted = let_in(owner, "viewer")
    someone = Someone(stand, minted["text"])
    with someone.http:
        path = f"/admins/{minted['admin']['id']}/role"
        assert checked_problem(someone.ask("PUT", path, {"role": "admin"}))["code"] == "role_not_allowed"
        assert owner.ask("PUT", path, {"role": "operator"}).json()["role"] == "operator"
        assert "operate" in someone.ask("GET", "/whoami").json()["rights"]
        assert checked_problem(owner.ask("PUT", path, {"role": "root"}))["code"] == "invalid_input"


def test_an_end_in_the_past_is_refused(owner: Someone) -> None:
    answer = owner.ask("POST", "/admins", {"name": "late", "role": "viewer", "expires_at": "2001-01-01"})
    assert checked_problem(answer)["code"] == "invalid_input"


def test_the_text_is_answered_once_and_kept_nowhere(stand: Stand, owner: Someone) -> None:
    minted = let_in(owner, "viewer")
    listed = owner.ask("GET", "/admins").text + owner.ask("GET", f"/admins/{minted['admin']['id']}").text
    assert minted["text"] not in listed
    assert "digest" not in listed
    kept = b"".join(path.read_bytes() for path in Path(stand.folder).rglob("*.db*"))
    assert minted["text"].encode() not in kept


def test_no_gateway_hears_of_admins() -> None:
    admin = Admin(id="abcdefgh2345", name="N", role="admin", digest=b"d" * 32)
    told = for_gateways(Delta(version=7, admins=[admin], gone=[("admin", "x"), ("key", "k")]))
    assert (told.version, told.admins, told.gone) == (7, [], [("key", "k")])
    assert for_gateways(Snapshot(version=7, admins=[admin])) == Snapshot(version=7)


def test_subscribers_of_a_directory_hear_the_version_and_nothing_private(stand: Stand, owner: Someone) -> None:
    heard: list[Delta] = []

    async def listen() -> None:
        stand.services.directory.subscribe(heard.append)

    stand.run(listen())
    before = stand.services.directory.book.version
    let_in(owner, "viewer")
    (delta,) = heard
    assert (delta.version, delta.admins) == (before + 1, [])
    assert json.loads(owner.ask("GET", "/admins").text)["items"]


def test_what_cannot_be_tried_out_says_so_before_it_is_done(stand: Stand, owner: Someone) -> None:
    for route in ROUTES:
        path = route.path.replace(":path", "").replace("{", "no-such-").replace("}", "")
        if route.method != "GET" and not route.previews:
            answer = owner.ask(route.method, f"{path}?preview=true", {} if route.body else None)
            assert answer.json()["code"] in ("no_preview", "invalid_input"), (route.path, answer.text)
    before = stand.services.directory.book.version
    answer = owner.ask("POST", "/owners?preview=true", {"name": "Not made", "id": "not-made"})
    assert answer.status_code == 200
    assert answer.json()["edits"][0]["act"] == "created"
    assert "bursar-undo" not in answer.headers
    assert stand.services.directory.book.version == before
    assert owner.ask("GET", "/owners/not-made").status_code == 404
    assert checked_problem(owner.ask("POST", "/owners?preview=perhaps", {"name": "N"}))["code"] == "invalid_input"
