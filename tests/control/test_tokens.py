"""A virtual key becomes a token that may do less: what is in it, what kills it, and who can read it."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc import jws
from joserfc.jwk import KeySet

from bursar.control.keys import KeyInput
from bursar.control.teams import TeamInput
from bursar.core.directory import Policy, TokenKey, TokenMark
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.faces.oauth import ACCESS_TOKEN, EXCHANGE
from tests.control.issuers import AUDIENCE, NOW_S
from tests.control.tenants import ACTOR
from tests.control.token_desk import DictVault, TokenDesk

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[TokenDesk]:
    made = TokenDesk(tmp_path)
    yield made
    made.store.close()


async def post(desk: TokenDesk, path: str, headers: dict[str, str] | None = None, **form: Any) -> tuple[int, Any]:
    body = urlencode(form, doseq=True).encode()
    status, fields, answer = await desk.oauth.answer(path, FORM | (headers or {}), body, "127.0.0.1")
    assert ("cache-control", "no-store") in fields
    return status, json.loads(answer) if answer else None


def asked(key: Secret, **more: Any) -> dict[str, Any]:
    given = {"grant_type": EXCHANGE, "subject_token": key.reveal(), "subject_token_type": ACCESS_TOKEN}
    return {name: value for name, value in (given | more).items() if value is not None}


async def test_another_library_reads_our_tokens_by_our_key_set(desk: TokenDesk) -> None:
    status, answer = await post(desk, "/oauth/token", **asked(await desk.key(), scope="model:gpt-4o caller:ci-7"))
    assert (status, answer["token_type"], answer["expires_in"]) == (200, "Bearer", 900)
    assert answer["issued_token_type"] == ACCESS_TOKEN
    assert answer["scope"] == "model:gpt-4o caller:ci-7"
    _, _, raw = await desk.oauth.answer("/oauth/jwks", {}, b"", "")
    known = KeySet.import_key_set(json.loads(raw))
    read = jws.deserialize_compact(answer["access_token"], known, algorithms=["EdDSA"])
    assert read.headers()["typ"] == "at+jwt"
    told = json.loads(read.payload)
    assert (told["iss"], told["aud"], told["iat"], told["exp"]) == (AUDIENCE, AUDIENCE, NOW_S, NOW_S + 900)
    assert told["sub"] == f"key/{told['client_id']}"


async def test_it_is_in_the_audit_before_anybody_has_it(desk: TokenDesk) -> None:
    key = await desk.key()
    issued = await desk.exchange(key, "budget_usd:0.50")
    line = desk.audit.lines[-1]
    assert (line.action, line.facts["jti"], line.facts["scope"]) == ("token.issue", issued.jti, "budget_usd:0.50")
    assert issued.text.reveal() not in repr(desk.audit.lines)
    desk.audit.broken = True
    with pytest.raises(Refusal) as caught:
        await desk.exchange(key)
    assert caught.value.word == "audit_unavailable"
    status, answer = await post(desk, "/oauth/token", **asked(key))
    assert (status, answer["error"]) == (503, "temporarily_unavailable")


@pytest.mark.parametrize(
    ("scope", "field"),
    [
        ("model:gpt-4o", "models"),
        ("model:gpt-4*", "models"),
        ("model:*", "models"),
        ("purpose:embeddings", "purposes"),
        ("max_tokens:301", "max_tokens_cap"),
        ("network:0.0.0.0/0", "networks"),
    ],
)
async def test_a_scope_wider_than_key_or_team_is_refused(desk: TokenDesk, scope: str, field: str) -> None:
    team = Policy(models=("gpt-4o-mini*",), max_tokens_cap=300, networks=("127.0.0.0/8",))
    key = await desk.key(Policy(purposes=("inference",)), team=team)
    status, answer = await post(desk, "/oauth/token", **asked(key, scope=scope))
    assert (status, answer["error"], answer["bursar"]["word"]) == (400, "invalid_scope", "scope_widens")
    assert field in answer["error_description"]
    narrower = "model:gpt-4o-mini purpose:inference max_tokens:300 network:127.0.0.1/32"
    assert (await post(desk, "/oauth/token", **asked(key, scope=narrower)))[0] == 200


@pytest.mark.parametrize(
    "scope",
    [
        "openid",
        "model:",
        "max_tokens:0",
        "max_tokens:1 max_tokens:2",
        "budget_usd:-1",
        "budget_usd:1e3",
        "budget_usd:0",
        "network:10.0.0.1/8",
        "caller:a\\b",
        "caller:" + "a" * 101,
        "model:" + "m" * 201,
        "x" * 2049,
        "max_tokens:٣",
    ],
)
async def test_a_scope_that_cannot_be_read_is_refused(desk: TokenDesk, scope: str) -> None:
    status, answer = await post(desk, "/oauth/token", **asked(await desk.key(), scope=scope))
    assert (status, answer["error"]) == (400, "invalid_scope")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"grant_type": None}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"subject_token": None}, "invalid_request"),
        ({"subject_token": ["a", "b"]}, "invalid_request"),
        ({"subject_token_type": None}, "invalid_request"),
        ({"subject_token_type": "urn:x"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"actor_token_type": "x"}, "invalid_request"),
        ({"audience": "https://elsewhere"}, "invalid_target"),
        ({"resource": [AUDIENCE, "https://elsewhere"]}, "invalid_target"),
        ({"expires_in": "soon"}, "invalid_request"),
        ({"expires_in": "0"}, "invalid_request"),
        ({"subject_token": "bsr_abcdefgh2345_" + "x" * 49}, "invalid_request"),
    ],
)
async def test_what_rfc_8693_does_not_ask_for_is_refused(desk: TokenDesk, changes: Any, error: str) -> None:
    status, answer = await post(desk, "/oauth/token", **asked(await desk.key(), **changes))
    assert (status, answer["error"]) == (400, error)
    assert answer["error_description"].isascii()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("", b"grant_type=x"),
        ("application/x-www-form-urlencoded", b"\xff=1"),
        ("application/x-www-form-urlencoded", b"nothing"),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(40))),
    ],
)
async def test_what_is_no_form_is_refused(desk: TokenDesk, kind: str, body: bytes) -> None:
    status, _, answer = await desk.oauth.answer("/oauth/token", {"content-type": kind}, body, "")
    assert (status, json.loads(answer)["error"]) in ((400, "invalid_request"), (400, "unsupported_grant_type"))


async def test_a_fault_of_our_own_answers_and_says_nothing(desk: TokenDesk) -> None:
    del desk.tokens.signing
    status, _, answer = await desk.oauth.answer("/oauth/jwks", {}, b"", "")
    assert (status, json.loads(answer)["error"]) == (500, "server_error")
    assert b"signing" not in answer


async def test_it_lives_no_longer_than_was_asked_nor_than_the_key(desk: TokenDesk) -> None:
    key = await desk.key(expires_at=desk.clock.now() + 400 * NS_PER_S)
    assert (await desk.exchange(key, life_s=60)).life_s == 60
    assert (await desk.exchange(key, life_s=10_000)).life_s == 400
    desk.clock.pass_s(400)
    with pytest.raises(Refusal) as caught:
        await desk.exchange(key)
    assert caught.value.word == "key_expired"


async def test_a_replaced_text_of_a_key_gives_no_token_beyond_its_overlap(desk: TokenDesk) -> None:
    key = await desk.key()
    key_id = key.reveal().split("_")[1]
    await desk.keys.rotate(ACTOR, key_id, 120)
    assert (await desk.exchange(key)).life_s == 120


async def test_a_key_bound_to_a_network_is_exchanged_from_there_only(desk: TokenDesk) -> None:
    key = await desk.key(Policy(networks=("10.0.0.0/8",)))
    with pytest.raises(Refusal) as caught:
        await desk.exchange(key)
    assert caught.value.word == "network_not_allowed"


@pytest.mark.parametrize("what", ["key", "team"])
async def test_what_is_switched_off_gives_no_token(desk: TokenDesk, what: str) -> None:
    key = await desk.key()
    issued = await desk.exchange(key)
    asker = await desk.key()
    if what == "key":
        await desk.keys.set_disabled(ACTOR, key.reveal().split("_")[1], True)
    else:
        await desk.teams.set_disabled(ACTOR, "search", True)
    with pytest.raises(Refusal) as caught:
        await desk.exchange(key)
    assert caught.value.word == "key_disabled"
    bearer = {"authorization": f"Bearer {asker.reveal()}"}
    assert await post(desk, "/oauth/introspect", bearer, token=issued.text.reveal()) == (200, {"active": False})


# ---- asking and revoking


async def test_a_living_token_is_told_to_its_team(desk: TokenDesk) -> None:
    key = await desk.key()
    issued = await desk.exchange(key, "max_tokens:100")
    bearer = {"authorization": f"Bearer {key.reveal()}"}
    status, answer = await post(desk, "/oauth/introspect", bearer, token=issued.text.reveal())
    assert (status, answer["active"], answer["jti"], answer["scope"]) == (200, True, issued.jti, "max_tokens:100")
    assert "sid" not in answer
    own = {"authorization": f"Bearer {issued.text.reveal()}"}
    assert (await post(desk, "/oauth/introspect", own, token=issued.text.reveal()))[1]["active"] is True


async def test_nobody_else_learns_anything(desk: TokenDesk) -> None:
    issued = await desk.exchange(await desk.key())
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic YTpi"}):
        status, answer = await post(desk, "/oauth/introspect", headers, token=issued.text.reveal())
        assert (status, answer["error"]) == (401, "invalid_client")
    await desk.teams.create(ACTOR, _team("Other"), "other")
    stranger = (await desk.keys.create(ACTOR, "other", _key_input())).text
    bearer = {"authorization": f"Bearer {stranger.reveal()}"}
    assert await post(desk, "/oauth/introspect", bearer, token=issued.text.reveal()) == (200, {"active": False})


def _team(name: str) -> Any:
    return TeamInput(name=name, owner_id="acme")


def _key_input() -> Any:
    return KeyInput(name="k")


async def test_whatever_is_wrong_with_a_token_it_is_just_inactive(desk: TokenDesk) -> None:
    key = await desk.key()
    bearer = {"authorization": f"Bearer {key.reveal()}"}
    text = (await desk.exchange(key)).text.reveal()
    revoked = (await desk.exchange(key)).text.reveal()
    assert await post(desk, "/oauth/revoke", token=revoked) == (200, None)
    for token in (text[:-2] + "AA", "ey.ey.ey", "nonsense", key.reveal(), revoked, "." * 9, "ey" + "a" * 9000 + ".a.b"):
        assert await post(desk, "/oauth/introspect", bearer, token=token) == (200, {"active": False})
    desk.clock.pass_s(900)
    assert await post(desk, "/oauth/introspect", bearer, token=text) == (200, {"active": False})


async def test_revoking_what_is_unknown_is_fine_and_a_key_is_not_a_token(desk: TokenDesk) -> None:
    key = await desk.key()
    for token in ("nonsense", "ey.ey.ey"):
        assert await post(desk, "/oauth/revoke", token=token) == (200, None)
    status, answer = await post(desk, "/oauth/revoke", token=key.reveal())
    assert (status, answer["error"]) == (400, "unsupported_token_type")
    assert desk.directory.book.all(TokenMark) == []


async def test_marks_that_are_over_go_with_the_next_one(desk: TokenDesk) -> None:
    key = await desk.key()
    for _ in range(3):
        await desk.tokens.revoke((await desk.exchange(key)).text, "")
    assert len(desk.directory.book.all(TokenMark)) == 3
    desk.clock.pass_s(901)
    await desk.tokens.revoke((await desk.exchange(key)).text, "")
    assert len(desk.directory.book.all(TokenMark)) == 1


# ---- signing keys


async def test_no_key_is_made_before_the_first_token(desk: TokenDesk) -> None:
    await desk.key()
    await desk.signing.sync()
    assert desk.directory.book.all(TokenKey) == []
    assert not await desk.signing.due(0)


async def test_rotation_overlaps_on_both_sides(desk: TokenDesk) -> None:
    key = await desk.key()
    first = (await desk.exchange(key)).text
    published = {known.id for known in await desk.signing.public()}
    await desk.signing.rotate(ACTOR)
    second = (await desk.exchange(key)).text
    assert _kid(second) in published - {_kid(first)}  # verifiers had it before the first token under it
    bearer = {"authorization": f"Bearer {key.reveal()}"}
    for text in (first, second):
        assert (await post(desk, "/oauth/introspect", bearer, token=text.reveal()))[1]["active"] is True
    desk.clock.pass_s(3600 + 61)
    await desk.signing.rotate(ACTOR)
    assert _kid(first) not in {known.id for known in desk.directory.book.all(TokenKey)}


async def test_a_key_that_has_signed_long_enough_is_rotated_by_itself(desk: TokenDesk) -> None:
    key = await desk.key()
    first = _kid((await desk.exchange(key)).text)
    rotating = asyncio.ensure_future(desk.signing.keep_rotating(30 * 86_400, look_s=0.001))
    desk.clock.pass_s(30 * 86_400 - 1)
    await asyncio.sleep(0.02)
    assert _kid((await desk.exchange(key)).text) == first
    desk.audit.broken = True  # sealed, and then the directory cannot be changed
    desk.clock.pass_s(2)
    await asyncio.sleep(0.02)
    desk.audit.broken = False
    for _ in range(1000):
        told = {known.id for known in desk.directory.book.all(TokenKey)}
        if {known.kid for known in await desk.signing.shown()} == told and len(told) == 3:
            break
        await asyncio.sleep(0.005)
    assert _kid((await desk.exchange(key)).text) in told - {first}
    rotating.cancel()


async def test_rotation_at_once_ends_every_token(desk: TokenDesk) -> None:
    key = await desk.key()
    text = (await desk.exchange(key)).text.reveal()
    await desk.signing.rotate(ACTOR, at_once=True)
    bearer = {"authorization": f"Bearer {key.reveal()}"}
    assert await post(desk, "/oauth/introspect", bearer, token=text) == (200, {"active": False})


async def test_after_a_restart_the_same_keys_sign_and_a_cut_off_rotation_is_mended(tmp_path: Path) -> None:
    vault = DictVault()
    desk = TokenDesk(tmp_path, vault)
    key = await desk.key()
    text = (await desk.exchange(key)).text
    desk.audit.broken = True  # sealed, and then the directory cannot be changed
    with pytest.raises(Refusal):
        await desk.signing.rotate(ACTOR)
    desk.store.close()
    again = TokenDesk(tmp_path, vault)
    await again.signing.sync()
    told = {known.id for known in again.directory.book.all(TokenKey)}
    assert {_kid((await again.exchange(key)).text), _kid(text)} <= told
    bearer = {"authorization": f"Bearer {key.reveal()}"}
    assert (await post(again, "/oauth/introspect", bearer, token=text.reveal()))[1]["active"] is True
    again.store.close()


async def test_the_private_halves_are_in_the_vault_only(desk: TokenDesk) -> None:
    await desk.exchange(await desk.key())
    await desk.signing.rotate(ACTOR)
    seeds = [known["seed"] for known in json.loads(desk.vault.kept["token-signing-keys"].reveal())["keys"]]
    assert len(seeds) == 3
    shown = repr(await desk.signing.shown()) + repr(desk.audit.lines) + repr(desk.deltas)
    files = b"".join(path.read_bytes() for path in desk.path.parent.iterdir())
    for seed in seeds:
        assert seed not in shown
        assert seed.encode() not in files
        assert bytes.fromhex(seed) not in files


async def test_discovery_says_where_things_are(desk: TokenDesk) -> None:
    for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
        status, _, raw = await desk.oauth.answer(path, {}, b"", "")
        told = json.loads(raw)
        assert (status, told["issuer"], told["token_endpoint"]) == (200, AUDIENCE, f"{AUDIENCE}/oauth/token")
        assert told["grant_types_supported"] == [EXCHANGE]


def _kid(text: Secret) -> str:
    return str(json.loads(base64.urlsafe_b64decode(text.reveal().split(".")[0] + "=="))["kid"])
