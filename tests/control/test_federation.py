"""Outside identities: whose tokens are taken, and every way in which a token is refused, each by its own word."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bursar.control.subject_jwt import ALGORITHMS
from bursar.core.directory import Policy, TrustRule
from bursar.core.errors import Refusal
from tests.control.issuers import (
    AUDIENCE,
    ISSUER,
    NOW_S,
    b64,
    claims,
    ec_key,
    ed_key,
    jwk,
    key_set,
    mint,
    rsa_key,
)
from tests.control.tenants import ACTOR
from tests.control.token_desk import TokenDesk

DISCOVERY = f"{ISSUER}/.well-known/openid-configuration"
JWKS = f"{ISSUER}/keys"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[TokenDesk]:
    made = TokenDesk(tmp_path)
    yield made
    made.store.close()


async def trust(desk: TokenDesk, rule_id: str = "ci", **changes: Any) -> TrustRule:
    """A rule for the good token of `issuers`; the issuer's keys lie in the rule unless it says otherwise."""
    if not desk.teams.all():
        await desk.team()
    values: dict[str, Any] = {
        "id": rule_id,
        "team_id": "search",
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "match": {"repository": ("octo/app",), "ref": ("refs/heads/main", "refs/heads/release-*")},
        "jwks": key_set(),
    }
    return await desk.trust.put(ACTOR, TrustRule(**(values | changes)))


async def refused(desk: TokenDesk, token: str, **more: Any) -> str:
    before = len(desk.audit.lines)
    with pytest.raises(Refusal) as caught:
        await desk.exchange(token, **more)
    assert len(desk.audit.lines) == before
    assert token not in caught.value.message + caught.value.hint
    return caught.value.word


async def test_a_good_token_is_exchanged_for_what_its_rule_allows(desk: TokenDesk) -> None:
    await trust(desk, policy=Policy(models=("gpt-4o-mini",)), life_s=300)
    issued = await desk.exchange(mint(), "caller:job-1")
    told = desk.claims(issued)
    assert (told.sub, told.client_id, told.exp - told.iat, told.sid) == ("trust/ci", "ci", 300, "")
    facts = desk.audit.lines[-1].facts
    assert (facts["iss"], facts["sub"]) == (ISSUER, "repo:octo/app:ref:refs/heads/main")
    assert await refused(desk, mint(), scope="model:gpt-4o") == "scope_widens"


@pytest.mark.parametrize("alg", sorted(ALGORITHMS))
async def test_every_algorithm_that_may_be_allowed_is_read(desk: TokenDesk, alg: str) -> None:
    kty, crv = ALGORITHMS[alg]
    key = {"RSA": rsa_key, "OKP": ed_key}[kty]() if kty != "EC" else ec_key(crv)
    await trust(desk, jwks=key_set(jwk(key, "k1")), algorithms=(alg,))
    await desk.exchange(mint(alg=alg, key=key))
    other = {"RSA": lambda: rsa_key("other"), "OKP": lambda: ed_key("other"), "EC": lambda: None}[kty]()
    if other is not None:
        assert await refused(desk, mint(alg=alg, key=other)) == "subject_signature_wrong"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"exp": NOW_S - 61}, "subject_expired"),
        ({"exp": None}, "subject_claims_refused"),
        ({"exp": "tomorrow"}, "subject_claims_refused"),
        ({"exp": True}, "subject_claims_refused"),
        ({"nbf": NOW_S + 61}, "subject_not_yet_valid"),
        ({"iat": NOW_S + 61}, "subject_not_yet_valid"),
        ({"aud": "https://elsewhere"}, "subject_audience_wrong"),
        ({"aud": None}, "subject_audience_wrong"),
        ({"aud": AUDIENCE + "/"}, "subject_audience_wrong"),
        ({"aud": [AUDIENCE.upper(), "x"]}, "subject_audience_wrong"),
        ({"aud": {AUDIENCE: 1}}, "subject_audience_wrong"),
        ({"iss": ISSUER + "/"}, "subject_issuer_unknown"),
        ({"iss": None}, "subject_issuer_unknown"),
        ({"iss": [ISSUER]}, "subject_issuer_unknown"),
        ({"sub": 7}, "subject_claims_refused"),
        ({"jti": 7}, "subject_claims_refused"),
        ({"repository": "octo/app2"}, "subject_not_trusted"),
        ({"repository": ["evil/app"]}, "subject_not_trusted"),
        ({"repository": None}, "subject_not_trusted"),
        ({"ref": "refs/heads/mains"}, "subject_not_trusted"),
    ],
)
async def test_a_claim_that_does_not_do_is_named(desk: TokenDesk, changes: Any, word: str) -> None:
    await trust(desk)
    assert await refused(desk, mint(claims(**changes))) == word


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW_S - 59},
        {"nbf": NOW_S + 59, "iat": NOW_S + 59},
        {"exp": NOW_S + 0.5},
        {"aud": ["x", AUDIENCE]},
        {"nbf": None, "iat": None, "jti": None},
        {"repository": ["evil/app", "octo/app"]},
        {"ref": "refs/heads/release-7"},
    ],
)
async def test_a_clock_that_is_a_minute_off_and_other_honest_tokens_pass(desk: TokenDesk, changes: Any) -> None:
    await trust(desk)
    await desk.exchange(mint(claims(**changes)))


def public_pem() -> bytes:
    return rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _none(spelling: str) -> str:
    message = f"{b64(json.dumps({'alg': spelling, 'kid': 'k1'}).encode())}.{b64(json.dumps(claims()).encode())}"
    return f"{message}."


def _twice(where: str) -> str:
    good = json.dumps(claims())
    if where == "header":
        return mint(header='{"alg":"none","alg":"RS256","typ":"JWT","kid":"k1"}')
    if where == "inner":
        return mint(good[:-1] + ',"x":{"a":1,"a":2}}')
    return mint(good[:-1] + ',"repository":"octo/app"}')


def _payload_swapped() -> str:
    head, _, signature = mint().split(".")
    return f"{head}.{b64(json.dumps(claims(repository='octo/app', extra=1)).encode())}.{signature}"


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (lambda: mint(alg="none"), "subject_algorithm_refused"),
        (lambda: _none("nOnE"), "subject_algorithm_refused"),
        (lambda: mint(alg="HS256", key=public_pem()), "subject_algorithm_refused"),
        (lambda: mint(alg="PS256"), "subject_algorithm_refused"),
        (lambda: mint(header={"alg": 7}), "subject_header_refused"),
        (lambda: mint(header={"crit": ["exp"], "exp": 1}), "subject_header_refused"),
        (lambda: mint(header={"crit": []}), "subject_header_refused"),
        (lambda: mint(header={"jku": f"{ISSUER}/evil"}), "subject_header_refused"),
        (lambda: mint(header={"x5u": f"{ISSUER}/evil"}), "subject_header_refused"),
        (lambda: mint(key=rsa_key("evil"), header={"jwk": jwk(rsa_key("evil"), "k1")}), "subject_header_refused"),
        (lambda: mint(header={"b64": False}), "subject_header_refused"),
        (lambda: mint(header={"typ": "secevent+jwt"}), "subject_header_refused"),
        (lambda: mint(header={"kid": ["k1"]}), "subject_header_refused"),
        (lambda: mint(header={"kid": "k" * 257}), "subject_header_refused"),
        (lambda: mint(header={"kid": "../../../../etc/passwd"}), "subject_key_unknown"),
        (lambda: mint(header={"kid": "k1' OR '1'='1"}), "subject_key_unknown"),
        (lambda: mint(header={"kid": "K1"}), "subject_key_unknown"),
        (lambda: mint(key=rsa_key("evil")), "subject_signature_wrong"),
        (lambda: _twice("claim"), "subject_malformed"),
        (lambda: _twice("header"), "subject_malformed"),
        (lambda: _twice("inner"), "subject_malformed"),
        (lambda: mint("[]"), "subject_malformed"),
        (lambda: mint("nothing"), "subject_malformed"),
        (lambda: mint('{"exp":NaN}'), "subject_malformed"),
        (lambda: mint("[" * 5000), "subject_malformed"),
        (lambda: mint(json.dumps({f"c{n}": 1 for n in range(300)})), "subject_malformed"),
        (lambda: mint()[:-2], "subject_signature_wrong"),
        (lambda: mint() + "=", "subject_malformed"),
        (lambda: mint() + "\n", "subject_malformed"),
        (_payload_swapped, "subject_signature_wrong"),
        (lambda: mint(claims(pad="x" * 16_384)), "subject_too_large"),
        (lambda: "ey.ey.", "subject_malformed"),
    ],
)
async def test_a_token_that_was_tampered_with_is_named(desk: TokenDesk, token: Any, word: str) -> None:
    await trust(desk)
    assert await refused(desk, token()) == word


async def test_the_keys_of_one_issuer_sign_nothing_for_another(desk: TokenDesk) -> None:
    await trust(desk)
    other = "https://other.example.org"
    await trust(desk, "other", issuer=other, jwks=key_set(jwk(rsa_key("other"), "k1")))
    assert await refused(desk, mint(key=rsa_key("other"))) == "subject_signature_wrong"
    assert await refused(desk, mint(claims(iss=other))) == "subject_signature_wrong"
    await desk.exchange(mint(claims(iss=other), key=rsa_key("other")))


@pytest.mark.parametrize(
    "more", [{"use": "enc"}, {"alg": "RS512"}, {"key_ops": ["sign"]}, {"kty": "oct", "k": "AAAA"}, {"d": "AAAA"}]
)
async def test_a_key_that_says_it_is_for_something_else_is_not_used(desk: TokenDesk, more: Any) -> None:
    await trust(desk, jwks=JWKS)
    desk.web.pages[JWKS] = key_set(jwk(rsa_key(), "k1") | more).encode()
    assert await refused(desk, mint()) == "subject_key_unknown"


async def test_a_short_rsa_key_proves_nothing(desk: TokenDesk) -> None:
    key = rsa_key("short", 1024)
    await trust(desk, jwks=key_set(jwk(key, "k1")))
    assert await refused(desk, mint(key=key)) == "subject_signature_wrong"


# ---- once only


async def test_a_subject_is_taken_once_where_the_rule_says_so(desk: TokenDesk, tmp_path: Path) -> None:
    await trust(desk, single_use=True)
    token = mint()
    await desk.exchange(token)
    with pytest.raises(Refusal) as caught:
        await desk.exchange(token)
    assert caught.value.word == "subject_replayed"
    again = TokenDesk(tmp_path, desk.vault)  # a restart does not forget it
    with pytest.raises(Refusal) as caught:
        await again.exchange(token)
    assert caught.value.word == "subject_replayed"
    await again.exchange(mint(claims(jti="two")))
    again.store.close()
    assert await refused(desk, mint(claims(jti=None))) == "subject_claims_refused"


async def test_without_that_it_may_be_used_again(desk: TokenDesk) -> None:
    await trust(desk)
    assert (await desk.exchange(mint())).jti != (await desk.exchange(mint())).jti


# ---- several rules


async def test_of_several_rules_that_fit_one_must_be_named(desk: TokenDesk) -> None:
    await trust(desk, "a")
    await trust(desk, "b", match={"repository": ("octo/*",)})
    assert await refused(desk, mint()) == "subject_ambiguous"
    assert desk.claims(await desk.exchange(mint(), rule_id="b")).sub == "trust/b"
    assert await refused(desk, mint(), rule_id="c") == "subject_ambiguous"
    await desk.trust.set_disabled(ACTOR, "a", True)
    assert desk.claims(await desk.exchange(mint())).sub == "trust/b"
    assert await refused(desk, mint(), rule_id="a") == "subject_not_trusted"


async def test_the_test_says_of_each_rule_why(desk: TokenDesk) -> None:
    await trust(desk, "fits")
    await trust(desk, "elsewhere", issuer="https://other.example.org")
    await trust(desk, "branch", match={"repository": ("octo/app",), "environment": ("prod",)})
    await trust(desk, "audience", audience="https://else")
    found = {verdict.rule.id: verdict for verdict in (await desk.federation.explain(mint()))[1]}
    assert found["fits"].word == ""
    assert found["elsewhere"].word == "subject_issuer_unknown"
    assert (found["branch"].word, found["branch"].why) == (
        "subject_not_trusted",
        "environment: the token has no such claim",
    )
    assert found["audience"].word == "subject_audience_wrong"


# ---- where keys come from


async def test_by_discovery_the_issuer_must_call_itself_the_same(desk: TokenDesk) -> None:
    await trust(desk, jwks="")
    desk.web.pages[DISCOVERY] = json.dumps({"issuer": ISSUER + "/", "jwks_uri": JWKS}).encode()
    desk.web.pages[JWKS] = key_set().encode()
    assert await refused(desk, mint()) == "subject_keys_unavailable"
    desk.web.pages[DISCOVERY] = json.dumps({"issuer": ISSUER, "jwks_uri": JWKS}).encode()
    desk.clock.pass_s(31)
    await desk.exchange(mint())
    assert desk.web.asked[-2:] == [DISCOVERY, JWKS]


async def test_keys_are_asked_for_once_an_hour_and_a_new_one_at_once(desk: TokenDesk) -> None:
    await trust(desk, jwks=JWKS)
    desk.web.pages[JWKS] = key_set().encode()
    for _ in range(3):
        await desk.exchange(mint())
    assert len(desk.web.asked) == 1
    assert await refused(desk, mint(header={"kid": "k2"})) == "subject_key_unknown"
    assert len(desk.web.asked) == 1  # just asked: strangers cannot make us ask again and again
    desk.clock.pass_s(31)
    desk.web.pages[JWKS] = key_set(jwk(rsa_key("new"), "k2")).encode()
    await desk.exchange(mint(key=rsa_key("new"), header={"kid": "k2"}))
    assert len(desk.web.asked) == 2


async def test_an_issuer_that_is_away_is_believed_for_a_day(desk: TokenDesk) -> None:
    await trust(desk, jwks=JWKS)
    assert await refused(desk, mint()) == "subject_keys_unavailable"
    asked = len(desk.web.asked)
    assert await refused(desk, mint()) == "subject_keys_unavailable"
    assert len(desk.web.asked) == asked  # and is not asked by every caller meanwhile
    desk.clock.pass_s(31)
    desk.web.pages[JWKS] = key_set().encode()
    await desk.exchange(mint(claims(exp=NOW_S + 10**6)))
    del desk.web.pages[JWKS]
    desk.clock.pass_s(86_000)
    await desk.exchange(mint(claims(exp=NOW_S + 10**6)))
    desk.clock.pass_s(600)
    assert await refused(desk, mint(claims(exp=NOW_S + 10**6))) == "subject_keys_unavailable"


@pytest.mark.parametrize("page", [b"", b"{}", b"[]", b'{"keys":1}', b'{"keys":[1]}', b"\xff", b"<html>"])
async def test_what_is_no_key_set_is_named(desk: TokenDesk, page: bytes) -> None:
    await trust(desk, jwks=JWKS)
    desk.web.pages[JWKS] = page
    assert await refused(desk, mint()) == "subject_keys_unavailable"


async def test_keys_of_a_file_are_those_that_are_in_it_now(desk: TokenDesk, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    await trust(desk, jwks=str(file))
    assert await refused(desk, mint()) == "subject_keys_unavailable"
    file.write_text(key_set(jwk(rsa_key("new"), "k1")))
    assert await refused(desk, mint()) == "subject_signature_wrong"
    file.write_text(key_set())
    await desk.exchange(mint())
    file.write_bytes(b" " * 300_000)
    await desk.exchange(mint())  # the last ones that could be read


# ---- the issuers by name


KUBERNETES = {
    "iss": "https://kubernetes.default.svc.cluster.local",
    "sub": "system:serviceaccount:shop:checkout",
    "aud": [AUDIENCE],
    "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "checkout", "uid": "u"}, "pod": {"name": "p"}},
}


async def test_a_service_account_of_kubernetes(desk: TokenDesk) -> None:
    match = {"kubernetes.io/namespace": ("shop",), "kubernetes.io/serviceaccount/name": ("check*",)}
    await trust(desk, kind="kubernetes", issuer=KUBERNETES["iss"], match=match)
    await desk.exchange(mint(claims(**KUBERNETES)))
    other = KUBERNETES | {"kubernetes.io": {"namespace": "shop", "serviceaccount": "checkout"}}
    assert await refused(desk, mint(claims(**other))) == "subject_not_trusted"


async def test_a_job_of_gitlab(desk: TokenDesk) -> None:
    match = {"project_path": ("group/app",), "ref_protected": ("true",)}
    await trust(desk, kind="gitlab", issuer="https://gitlab.com", match=match)
    job = {"iss": "https://gitlab.com", "project_path": "group/app", "ref_protected": "true"}
    await desk.exchange(mint(claims(**job)))
    assert await refused(desk, mint(claims(**job | {"ref_protected": "false"}))) == "subject_not_trusted"


async def test_a_svid_is_known_by_its_trust_domain(desk: TokenDesk) -> None:
    key = ec_key()
    bundle = json.dumps({"keys": [jwk(key, "k1", use="jwt-svid"), jwk(ed_key(), "x", use="x509-svid")]})
    rule = {"kind": "spiffe", "issuer": "spiffe://example.org", "match": {"sub": ("spiffe://example.org/shop/*",)}}
    await trust(desk, **rule, jwks=bundle, algorithms=("ES256",))
    svid = {"iss": None, "sub": "spiffe://example.org/shop/checkout"}
    await desk.exchange(mint(claims(**svid), alg="ES256", key=key))
    for sub, word in (
        ("spiffe://example.org.evil/shop/x", "subject_issuer_unknown"),
        ("spiffe://example.org/other", "subject_not_trusted"),
        ("https://example.org/shop/x", "subject_issuer_unknown"),
    ):
        assert await refused(desk, mint(claims(**svid | {"sub": sub}), alg="ES256", key=key)) == word


# ---- rules


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://issuer.example.org"},
        {"issuer": "issuer"},
        {"issuer": ""},
        {"issuer": "spiffe://example.org"},
        {"audience": ""},
        {"match": {}},
        {"match": {"repository": ()}},
        {"match": {"repository": ("*",)}},
        {"match": {"repository": ("",)}},
        {"match": {"iss": (ISSUER,)}},
        {"match": {"repository": ("x" * 600,)}},
        {"kind": "github", "match": {"ref": ("refs/heads/main",)}},
        {"kind": "github", "match": {"sub": ("repo:*",)}},
        {"kind": "kubernetes", "match": {"kubernetes.io/pod/name": ("x",)}},
        {"algorithms": ()},
        {"algorithms": ("none",)},
        {"algorithms": ("HS256",)},
        {"jwks": "http://issuer.example.org/keys"},
        {"jwks": "keys.json"},
        {"jwks": "{}"},
        {"jwks": '{"keys":[]}'},
        {"life_s": 59},
        {"life_s": 3601},
        {"id": "Not An Id"},
        {"policy": Policy(max_tokens_cap=0)},
    ],
)
async def test_a_rule_that_trusts_anybody_or_nobody_is_refused(desk: TokenDesk, changes: Any) -> None:
    with pytest.raises(Refusal) as caught:
        await trust(desk, **changes)
    assert caught.value.word == "invalid_input"


async def test_a_rule_only_narrows_its_team_and_needs_one(desk: TokenDesk) -> None:
    await desk.team(Policy(models=("gpt-4o-mini",)))
    with pytest.raises(Refusal) as caught:
        await trust(desk, policy=Policy(models=("gpt-4o",)))
    assert caught.value.word == "policy_widens"
    with pytest.raises(Refusal) as caught:
        await trust(desk, team_id="nobody")
    assert caught.value.word == "unknown_id"


async def test_a_team_with_rules_cannot_go(desk: TokenDesk) -> None:
    await trust(desk)
    with pytest.raises(Refusal) as caught:
        await desk.teams.remove(ACTOR, "search")
    assert caught.value.word == "in_use"
    await desk.trust.remove(ACTOR, "ci")
    await desk.teams.remove(ACTOR, "search")
