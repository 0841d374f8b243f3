"""The login of people against an issuer that misbehaves in every way: what is refused, and by which word."""

import asyncio
import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bursar.control.admin_login import MOST_PENDING_OF_A_PEER, PENDING_S, TICKET_S, Logins, LoginTerms, challenge_of
from bursar.control.admin_sessions import Sessions
from bursar.control.issuer_keys import IssuerKeys
from bursar.control.oidc_provider import OidcProvider
from bursar.core.audit import AuditFailed
from bursar.core.directory import TrustRule
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from tests.control.issuers import ISSUER, claims, ec_key, jwk, key_set, mint, rsa_key
from tests.control.tenants import PEPPER, SeededEntropy, SetClock
from tests.control.token_desk import Web

CLIENT, SECRET = "bursar", "the-client-secret"
PORT, PEER = 40_000, "192.0.2.7"
VERIFIER = "v" * 43
PLACES = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize?tenant=a",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/jwks",
}


class Trail:
    """An audit that can be read, and be away."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str, dict[str, str | int]]] = []
        self.away = False

    async def append(self, actor: str, action: str, target: str, facts: Mapping[str, str | int]) -> None:
        if self.away:
            raise AuditFailed("The audit is away")
        self.lines.append((actor, action, target, dict(facts)))


class Desk:
    """A terminal, a browser and an issuer around the login; `token` is what the issuer answers with."""

    def __init__(self, secret: str | None = SECRET) -> None:
        self.clock, self.trail, self.web = SetClock(), Trail(), Web()
        self.slowed: list[str] = []
        self.posted: list[tuple[dict[str, str], str]] = []
        self.answer: tuple[int, bytes] | None = None
        self.token: Any = None
        self.claims: dict[str, Any] = {}
        self.web.pages[f"{ISSUER}/.well-known/openid-configuration"] = json.dumps(PLACES).encode()
        self.web.pages[f"{ISSUER}/jwks"] = key_set().encode()
        entropy = SeededEntropy()
        self.sessions = Sessions(self.trail, self.clock, entropy, PEPPER)
        rule = TrustRule(id="login", team_id="", issuer=ISSUER, audience=CLIENT, match={})
        keys = IssuerKeys(self.web, self.clock)
        kept = Secret(secret) if secret else None
        provider = OidcProvider(rule, kept, keys, self.web, self.post, self.clock)
        terms = LoginTerms(
            redirect_url="http://127.0.0.1:4001/login/callback",
            scopes=("openid", "email"),
            claim="groups",
            roles={"admins": "admin", "ops": "operator", "finance": "viewer"},
            session_s=3600,
        )
        self.logins = Logins(terms, provider, self.sessions, self.trail, self.clock, entropy)

    async def post(
        self, url: str, form: Mapping[str, Secret | str], authorization: Secret | None, *, private: bool
    ) -> tuple[int, bytes]:
        del private
        assert url == PLACES["token_endpoint"]
        plain = {name: value.reveal() if isinstance(value, Secret) else value for name, value in form.items()}
        self.posted.append((plain, authorization.reveal() if authorization else ""))
        assert challenge_of(plain["code_verifier"]) == self.asked["code_challenge"]
        if self.answer is not None:
            return self.answer
        good = claims(aud=CLIENT, sub="ann", groups=["finance", "ops"], nonce=self.asked["nonce"])
        merged = {name: value for name, value in (good | self.claims).items() if value is not None}
        self.minted = self.token(merged) if self.token else mint(merged)
        return 200, json.dumps({"id_token": self.minted, "access_token": "unused"}).encode()

    async def begin(self, peer: str = PEER) -> dict[str, str]:
        begun = await self.logins.begin(challenge_of(VERIFIER), PORT, peer)
        self.cookie = begun.cookie.reveal()
        self.asked = {name: value[0] for name, value in parse_qs(urlsplit(begun.url).query).items()}
        return self.asked

    async def slow(self, peer: str) -> None:
        self.slowed.append(peer)

    async def finish(self, cookie: str | None = None, **query: str) -> str:
        """The ticket that the browser brings to the terminal."""
        whole = {"state": self.asked["state"], "code": "the-code", **query}
        given = {name: value for name, value in whole.items() if value}
        back = await self.logins.finish(given, self.cookie if cookie is None else cookie, PEER, self.slow)
        parts = urlsplit(back.url)
        assert (parts.scheme, parts.netloc, parts.path) == ("http", f"127.0.0.1:{PORT}", f"/{challenge_of(VERIFIER)}")
        return parse_qs(parts.query)["ticket"][0]

    async def login(self, **query: str) -> str:
        """The text of a session's token."""
        await self.begin()
        ticket = await self.finish(**query)
        return (await self.logins.redeem(ticket, VERIFIER, PEER, self.slow))[1].reveal()

    def word(self, **query: str) -> str:
        """Why a login is refused, as its terminal is told; the audit says the same and nothing secret is told."""
        with pytest.raises(Refusal) as caught:
            asyncio.run(self.login(**query))
        told = f"{caught.value.message} {caught.value.hint} {caught.value.facts} {self.trail.lines}"
        for secret in (self.cookie, self.asked["nonce"], "the-code", SECRET, getattr(self, "minted", "the-code")):
            assert secret not in told
        assert not self.sessions.live()
        assert [line[1:] for line in self.trail.lines] == [
            ("login.refused", f"peer/{PEER}", {"word": caught.value.word})
        ]
        return caught.value.word


def test_a_person_is_let_in_with_the_highest_role_and_recorded() -> None:
    desk = Desk()
    text = asyncio.run(desk.login())
    caller = desk.sessions.recognise(text)
    assert caller is not None
    assert (caller.actor, caller.role) == ("oidc:ann", "operator")
    ((actor, action, target, facts),) = desk.trail.lines
    assert (actor, action, target) == ("oidc:ann", "login.granted", f"session/{caller.session}")
    assert facts == {"role": "operator", "issuer": ISSUER, "peer": PEER}
    assert desk.slowed == []


def test_what_the_issuer_is_asked() -> None:
    desk = Desk()
    asyncio.run(desk.login(iss=ISSUER))
    asked = {name: desk.asked[name] for name in ("response_type", "client_id", "scope", "code_challenge_method")}
    expected = {"response_type": "code", "client_id": CLIENT, "scope": "openid email", "code_challenge_method": "S256"}
    assert asked == expected
    assert desk.asked["tenant"] == "a"  # of the endpoint's own query
    ((form, authorization),) = desk.posted
    assert "client_secret" not in form
    assert b64decode(authorization.removeprefix("Basic ")).decode() == f"{CLIENT}:{SECRET}"


def test_a_public_client_names_itself_and_one_by_form_its_secret() -> None:
    public = Desk(secret=None)
    asyncio.run(public.login())
    assert (public.posted[0][0]["client_id"], public.posted[0][1]) == (CLIENT, "")
    by_form = Desk()
    page = {**PLACES, "token_endpoint_auth_methods_supported": ["client_secret_post"]}
    by_form.web.pages[f"{ISSUER}/.well-known/openid-configuration"] = json.dumps(page).encode()
    asyncio.run(by_form.login())
    assert (by_form.posted[0][0]["client_secret"], by_form.posted[0][1]) == (SECRET, "")


@pytest.mark.parametrize(
    ("verified", "actor"), [(True, "oidc:ann@example.org"), (False, "oidc:ann"), (None, "oidc:ann")]
)
def test_an_address_names_a_person_only_if_the_issuer_has_verified_it(verified: bool | None, actor: str) -> None:
    desk = Desk()
    desk.claims = {"email": "ann@example.org", "email_verified": verified}
    caller = desk.sessions.recognise(asyncio.run(desk.login()))
    assert caller is not None
    assert caller.actor == actor


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"aud": "another-client"},
        {"aud": [CLIENT, "another"]},
        {"azp": "another-client"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": 1_763_999_000},
        {"exp": None},
        {"iat": 1_764_001_000},
        {"iat": None},
        {"nbf": 1_764_001_000},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 300},
    ],
    ids=str,
)
def test_a_token_with_a_wrong_claim_is_refused(changes: dict[str, Any]) -> None:
    desk = Desk()
    desk.claims = changes
    assert desk.word() == "login_token_refused"
    assert desk.slowed == [PEER]


@pytest.mark.parametrize(
    "make",
    [
        lambda found: mint(found, key=rsa_key("foreign")),
        lambda found: mint(found, alg="none"),
        lambda found: mint(found, alg="HS256", key=key_set().encode()),
        lambda found: mint(found, header={"kid": "nobody's"}),
        lambda found: mint(found, header={"jwk": jwk(rsa_key("foreign"), "k1")}, key=rsa_key("foreign")),
        lambda found: mint(found, alg="ES256", key=ec_key()),
        lambda _: "no.jwt",
        lambda _: "x" * 20_000,
    ],
)
def test_a_token_of_foreign_making_is_refused(make: Any) -> None:
    desk = Desk()
    desk.token = make
    assert desk.word() == "login_token_refused"


def test_several_audiences_are_fine_where_the_party_is_named() -> None:
    desk = Desk()
    desk.claims = {"aud": [CLIENT, "another"], "azp": CLIENT}
    assert desk.sessions.recognise(asyncio.run(desk.login())) is not None


@pytest.mark.parametrize("groups", [None, [], "nobody", ["Admins"], ["*"], {"admins": "x"}, [["admins"]], 7], ids=str)
def test_who_has_no_matching_claim_has_no_role(groups: object) -> None:
    desk = Desk()
    desk.claims = {"groups": groups}
    assert desk.word() == "login_no_role"
    assert desk.trail.lines[0][0] == "oidc:ann"


def test_what_the_issuer_refuses_is_told_without_its_words() -> None:
    desk = Desk()
    assert desk.word(error="access_denied", error_description="canary", code="") == "login_denied"
    assert "canary" not in str(desk.trail.lines)
    assert desk.posted == []
    assert Desk().word(error="<script>the-code</script>", code="") == "login_denied"
    assert Desk().word(code="") == "login_denied"
    assert Desk().word(iss="https://evil.example") == "login_token_refused"


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (400, b'{"error": "invalid_grant", "error_description": "the-code"}', "login_denied"),
        (400, b'{"error": "the-code"}', "login_denied"),
        (200, b"{}", "login_denied"),
        (200, b"<html>", "login_denied"),
        (503, b"", "login_issuer_unavailable"),
    ],
)
def test_a_code_that_is_not_taken(status: int, body: bytes, word: str) -> None:
    desk = Desk()
    desk.answer = status, body
    assert desk.word() == word


def test_an_issuer_that_is_away_or_calls_itself_otherwise() -> None:
    async def away(page: bytes | None) -> str:
        desk = Desk()
        where = f"{ISSUER}/.well-known/openid-configuration"
        desk.web.pages.pop(where)
        if page is not None:
            desk.web.pages[where] = page
        words = []
        for _ in range(50):
            with pytest.raises(Refusal) as caught:
                await desk.begin()
            words.append(caught.value.word)
        assert len(desk.web.asked) == 1  # not once for each who tries
        assert set(words) == {words[0]}
        return words[0]

    foreign = json.dumps({**PLACES, "issuer": "https://evil.example"}).encode()
    clear = json.dumps({**PLACES, "authorization_endpoint": "http://issuer.example.org/authorize"}).encode()
    for page in (None, b"{}", b"\xff", foreign, clear):
        assert asyncio.run(away(page)) == "login_issuer_unavailable"


def unknown(desk: Desk, act: Any) -> None:
    with pytest.raises(Refusal) as caught:
        asyncio.run(act())
    assert caught.value.word == "login_unknown"
    assert desk.slowed == [PEER]
    assert not desk.sessions.live()


@pytest.mark.parametrize("how", ["state", "cookie", "late", "twice"])
def test_an_answer_that_nobody_waits_for(how: str) -> None:
    desk = Desk()

    async def act() -> None:
        await desk.begin()
        if how == "late":
            desk.clock.pass_s(PENDING_S + 1)
        if how == "twice":
            await desk.finish()
        await desk.finish(**({"state": "another"} if how == "state" else {}), cookie="x" if how == "cookie" else None)

    unknown(desk, act)
    assert len(desk.posted) == (how == "twice")  # the code of the second was not even looked at


@pytest.mark.parametrize("how", ["ticket", "verifier", "late"])
def test_a_ticket_is_for_the_terminal_that_began(how: str) -> None:
    desk = Desk()

    async def act() -> None:
        await desk.begin()
        ticket = await desk.finish()
        if how == "late":
            desk.clock.pass_s(TICKET_S + 1)
        verifier = "w" * 43 if how == "verifier" else VERIFIER
        await desk.logins.redeem("another" if how == "ticket" else ticket, verifier, PEER, desk.slow)

    unknown(desk, act)


def test_a_ticket_is_taken_once_also_by_a_wrong_verifier() -> None:
    desk = Desk()

    async def act() -> list[str]:
        words = []
        for verifiers in ((VERIFIER, VERIFIER), ("w" * 43, VERIFIER)):
            await desk.begin()
            ticket = await desk.finish()
            for verifier in verifiers:
                try:
                    await desk.logins.redeem(ticket, verifier, PEER, desk.slow)
                    words.append("")
                except Refusal as refusal:
                    words.append(refusal.word)
        return words

    assert asyncio.run(act()) == ["", "login_unknown", "login_unknown", "login_unknown"]


def test_a_flood_of_logins_locks_out_its_own_address_alone_and_not_for_long() -> None:
    desk = Desk()

    async def act() -> None:
        for _ in range(MOST_PENDING_OF_A_PEER):
            await desk.begin()
        with pytest.raises(Refusal) as caught:
            await desk.begin()
        assert caught.value.word == "too_many_logins"
        await desk.begin("198.51.100.1")
        desk.clock.pass_s(PENDING_S + 1)
        await desk.begin()

    asyncio.run(act())


@pytest.mark.parametrize(("challenge", "port"), [("", PORT), ("x" * 42, PORT), ("/" * 43, PORT), ("c" * 43, 80)])
def test_a_beginning_that_no_terminal_of_ours_makes(challenge: str, port: int) -> None:
    with pytest.raises(Refusal) as caught:
        asyncio.run(Desk().logins.begin(challenge, port, PEER))
    assert caught.value.word == "invalid_input"


def test_a_session_ends_by_time_and_by_hand() -> None:
    desk = Desk()
    text = asyncio.run(desk.login())
    other = asyncio.run(desk.login())
    caller = desk.sessions.recognise(text)
    assert caller is not None
    asyncio.run(desk.logins.end(caller))
    assert desk.sessions.recognise(text) is None
    assert desk.trail.lines[-1][1] == "login.ended"
    assert desk.sessions.recognise(other[:-1] + "A") is None
    desk.clock.pass_s(3600)
    with pytest.raises(Refusal) as caught:
        desk.sessions.recognise(other)
    assert caught.value.word == "admin_token_expired"
    assert desk.sessions.live() == []
    assert text not in repr(desk.sessions.__dict__)


def test_nobody_enters_unrecorded_and_everybody_may_leave() -> None:
    desk = Desk()

    async def act() -> None:
        await desk.begin()
        ticket = await desk.finish()
        desk.trail.away = True
        with pytest.raises(AuditFailed):
            await desk.logins.redeem(ticket, VERIFIER, PEER, desk.slow)

    asyncio.run(act())
    assert not desk.sessions.live()
    desk.trail.away = False
    caller = desk.sessions.recognise(asyncio.run(desk.login()))
    desk.trail.away = True
    assert caller is not None
    with pytest.raises(AuditFailed):
        asyncio.run(desk.logins.end(caller))
    assert not desk.sessions.live()
