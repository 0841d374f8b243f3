"""A token at the data port: read by the gateway alone, narrower than its key, and dead with whatever it stands on."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bursar.app.signatures import Ed25519
from bursar.control.signing_keys import thumbprint
from bursar.core.directory import Delta, Policy, TokenKey, TokenMark, TrustRule
from bursar.core.ledger import Held, HoldRequest
from bursar.core.networks import read_networks
from bursar.core.tokens import digest
from bursar.core.units import NS_PER_S
from bursar.gateway.tokens import MOST_REMEMBERED
from tests.gateway.answers import IN, MODEL, OUT, chat, completion, usage
from tests.gateway.fakes import NOON, FakeExchange
from tests.gateway.ground import PEPPER, Stand, budget

MakeStand = Callable[..., Stand]
ISSUER = "http://127.0.0.1:4000"
NOW = NOON // NS_PER_S
SIGNER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
PUBLIC = SIGNER.public_key().public_bytes_raw()
KID = thumbprint(PUBLIC)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def mint(sub: str, scope: str = "", *, signer: Any = SIGNER, header: Any = None, **changes: Any) -> str:
    """As RFC 9068 has it, by `cryptography` and `json` alone."""
    head = {"typ": "at+jwt", "alg": "EdDSA", "kid": KID} | (header or {})
    claims = {"iss": ISSUER, "sub": sub, "aud": ISSUER, "client_id": "c", "iat": NOW, "exp": NOW + 900, "jti": "j1"}
    body = {name: value for name, value in (claims | {"scope": scope} | changes).items() if value is not None}
    message = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(body).encode())}"
    return f"{message}.{b64(signer.sign(message.encode()))}"


@pytest.fixture
def stand(make_stand: MakeStand) -> Stand:
    return opened(make_stand(budgets=[budget(10**15)]))


def opened(stand: Stand) -> Stand:
    """With the public key that control would have sent."""
    stand.node.tokens.issuer = ISSUER
    stand.node.tokens.verify = Ed25519()
    change(stand, token_keys=[TokenKey(id=KID, public=PUBLIC)])
    return stand


def watched(stand: Stand) -> list[HoldRequest]:
    """What is held from now on."""
    seen: list[HoldRequest] = []
    hold = stand.journal.hold

    async def noted(request: HoldRequest, token: str = "") -> Held:
        seen.append(request)
        return await hold(request, token)

    stand.journal.hold = noted  # type: ignore[method-assign]
    return seen


def change(stand: Stand, **what: Any) -> None:
    stand.node.tenants.change(Delta(version=stand.node.tenants.version + 1, **what))


async def ask(stand: Stand, token: str, *, answered: bool = True, **more: Any) -> FakeExchange:
    answers = [completion("Hi", usage(10, 5))] if answered else []
    return await stand.ask(*answers, headers={"authorization": f"Bearer {token}"}, **more)


def own(stand: Stand, scope: str = "", **more: Any) -> str:
    return mint(f"key/{stand.key.id}", scope, **more)


async def test_a_token_calls_as_its_key_does(stand: Stand) -> None:
    holds = watched(stand)
    for _ in range(2):  # read, then remembered
        exchange = await ask(stand, own(stand, "caller:nightly-42"))
        assert exchange.status == 200
    assert [(h.key_id, h.team_id, h.credential, h.caller) for h in holds] == [
        (stand.key.id, "team-1", "token", "nightly-42")
    ] * 2
    assert stand.balance()[0] == 2 * (10 * IN + 5 * OUT)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"signer": Ed25519PrivateKey.from_private_bytes(b"x" * 32)}, "token_invalid"),
        ({"header": {"alg": "none"}}, "token_invalid"),
        ({"header": {"alg": "HS256"}}, "token_invalid"),
        ({"header": {"typ": "JWT"}}, "token_invalid"),
        ({"header": {"crit": ["exp"]}}, "token_invalid"),
        ({"header": {"jku": "https://x"}}, "token_invalid"),
        ({"header": {"kid": "../../etc/passwd"}}, "token_invalid"),
        ({"header": {"kid": "A" * 43}}, "token_invalid"),
        ({"iss": "https://elsewhere"}, "token_invalid"),
        ({"aud": "https://elsewhere"}, "token_invalid"),
        ({"aud": [ISSUER]}, "token_invalid"),
        ({"exp": NOW}, "token_expired"),
        ({"exp": None}, "token_invalid"),
        ({"exp": "soon"}, "token_invalid"),
        ({"iat": NOW + 61}, "token_invalid"),
        ({"jti": ""}, "token_invalid"),
        ({"sub": "key/unknown"}, "token_revoked"),
        ({"sub": "trust/unknown"}, "token_revoked"),
        ({"sub": "root/1"}, "token_invalid"),
        ({"scope": "everything"}, "scope_invalid"),
        ({"sid": "0" * 16}, "token_revoked"),
        ({"pad": "x" * 8192}, "token_invalid"),
    ],
)
async def test_a_token_that_is_not_ours_or_over_is_refused(stand: Stand, changes: Any, word: str) -> None:
    token = mint(**({"sub": f"key/{stand.key.id}"} | changes))
    exchange = await ask(stand, token, answered=False)
    assert exchange.word == word
    assert not exchange.body_asked
    assert token not in exchange.sent.decode()
    assert token.split(".")[1] not in exchange.sent.decode()


@pytest.mark.parametrize("spoil", [lambda t: t + "=", lambda t: t + "A", lambda t: t[:-1], lambda t: "ey." + t])
async def test_a_second_spelling_of_a_token_is_none(stand: Stand, spoil: Callable[[str], str]) -> None:
    assert (await ask(stand, spoil(own(stand)), answered=False)).word in ("token_invalid", "key_invalid")


@pytest.mark.parametrize(
    ("scope", "body", "word"),
    [
        ("model:gpt-4o-mini", None, "model_not_allowed"),
        ("purpose:embeddings", None, "purpose_not_allowed"),
        ("network:10.0.0.0/8", None, "network_not_allowed"),
        (f"model:{MODEL} purpose:inference network:127.0.0.0/8", None, None),
    ],
)
async def test_its_scopes_bind(stand: Stand, scope: str, body: Any, word: str | None) -> None:
    exchange = await ask(stand, own(stand, scope), answered=word is None, body=body)
    assert exchange.word == word


async def test_its_output_cap_clamps(stand: Stand) -> None:
    exchange = await ask(stand, own(stand, "max_tokens:7"), body=chat(max_tokens=100))
    assert exchange.header("x-bursar-max-tokens-applied") == "7"


async def test_its_money_is_a_hard_budget_of_its_own(stand: Stand) -> None:
    dollars = "0.000003"
    token = own(stand, f"budget_usd:{dollars}")
    name = f"token:{NOW + 900}:j1"
    refused = await ask(stand, token, answered=False, body=chat(max_tokens=10_000))
    assert refused.word == "can_never_fit"
    assert stand.balance(name) == (0, 0)
    assert (await stand.ask(completion("Hi", usage(10, 5)), body=chat(max_tokens=10_000))).status == 200


async def test_what_it_has_spent_outlives_a_restart(tmp_path: Path) -> None:
    stand = opened(Stand(tmp_path))
    token = own(stand, "budget_usd:0.01")
    name = f"token:{NOW + 900}:j1"
    await ask(stand, token, body=chat(max_tokens=5))
    spent, held = stand.balance(name)
    assert (spent, held) == (10 * IN + 5 * OUT, 0)
    stand.close()
    again = opened(Stand(stand.folder))
    await ask(again, token, body=chat(max_tokens=5))
    assert again.balance(name) == (2 * spent, 0)
    again.close()


# ---- what kills it


async def test_switching_off_what_it_stands_on_kills_it(stand: Stand) -> None:
    token = own(stand)
    await ask(stand, token)
    for what, word in (
        ({"keys": [msgspec.structs.replace(stand.key, disabled=True)]}, "key_disabled"),
        ({"keys": [stand.key], "teams": [msgspec.structs.replace(stand.team, disabled=True)]}, "key_disabled"),
        ({"teams": [stand.team], "gone": [("key", stand.key.id)]}, "token_revoked"),
    ):
        change(stand, **what)
        assert (await ask(stand, token, answered=False)).word == word
    change(stand, keys=[stand.key])
    assert (await ask(stand, token)).status == 200


async def test_a_token_of_a_trust_rule_dies_with_the_rule(stand: Stand) -> None:
    rule = TrustRule(
        id="ci",
        team_id="team-1",
        issuer="https://i",
        audience="a",
        match={"sub": ("x",)},
        policy=Policy(models=(MODEL,)),
    )
    change(stand, trust=[rule])
    token = mint("trust/ci")
    holds = watched(stand)
    assert (await ask(stand, token)).status == 200
    request = holds[-1]
    assert (request.key_id, request.credential) == ("trust:ci", "federation")
    change(stand, trust=[msgspec.structs.replace(rule, policy=Policy(models=("other",)))])
    assert (await ask(stand, token, answered=False)).word == "model_not_allowed"
    change(stand, trust=[msgspec.structs.replace(rule, disabled=True)])
    assert (await ask(stand, token, answered=False)).word == "key_disabled"
    change(stand, gone=[("trust", "ci")])
    assert (await ask(stand, token, answered=False)).word == "token_revoked"


async def test_a_revoked_token_is_refused_at_its_next_hold(stand: Stand) -> None:
    token = own(stand)
    await ask(stand, token)
    mark = TokenMark(id="revoked/j1", until=NOON + 900 * NS_PER_S)

    exchange = stand.exchange(headers={"authorization": f"Bearer {token}"})
    body = exchange.body

    async def revoked_meanwhile() -> bytes:
        read = await body()
        change(stand, token_marks=[mark])
        return read

    exchange.body = revoked_meanwhile  # type: ignore[method-assign]
    await stand.pipeline.serve(exchange)
    assert exchange.word == "token_revoked"
    stand.at_rest()
    assert (await ask(stand, token, answered=False)).word == "token_revoked"
    change(stand, gone=[("token_mark", mark.id)])
    assert (await ask(stand, token)).status == 200


async def test_the_text_that_was_exchanged_goes_and_the_token_with_it(stand: Stand) -> None:
    secret = digest(stand.key_text, PEPPER).hex()[:16]
    token = own(stand, sid=secret)
    assert (await ask(stand, token)).status == 200
    fresh = msgspec.structs.replace(stand.key.secrets[0], digest=b"n" * 32)
    change(stand, keys=[msgspec.structs.replace(stand.key, secrets=(fresh, *stand.key.secrets))])
    assert (await ask(stand, token)).status == 200
    change(stand, keys=[msgspec.structs.replace(stand.key, secrets=(fresh,))])
    assert (await ask(stand, token, answered=False)).word == "token_revoked"


async def test_a_rotated_signing_key_is_read_until_its_end(stand: Stand) -> None:
    change(stand, token_keys=[TokenKey(id=KID, public=PUBLIC, until=NOON + 100 * NS_PER_S)])
    token = own(stand)
    assert (await ask(stand, token)).status == 200
    stand.clock.advance(100)
    assert (await ask(stand, own(stand, jti="j2"), answered=False)).word == "token_invalid"


async def test_a_withdrawn_signing_key_takes_its_tokens_with_it(stand: Stand) -> None:
    token = own(stand)
    assert (await ask(stand, token)).status == 200
    change(stand, gone=[("token_key", KID)])
    assert (await ask(stand, token, answered=False)).word == "token_revoked"
    assert (await ask(stand, own(stand, jti="j2"), answered=False)).word == "token_invalid"


async def test_a_stream_begun_in_time_outlives_its_token(stand: Stand) -> None:
    token = own(stand)
    stand.clock.advance(899)
    gate, sent = asyncio.Event(), asyncio.Event()
    exchange = stand.exchange(headers={"authorization": f"Bearer {token}"})
    stand.upstream.will(completion("Hi", usage(10, 5)))
    request = stand.upstream.request

    async def slow(*args: Any) -> Any:
        sent.set()
        await gate.wait()
        return await request(*args)

    stand.node.upstream.request = slow  # type: ignore[method-assign]
    task = asyncio.ensure_future(stand.pipeline.serve(exchange))
    await sent.wait()
    stand.clock.advance(500)
    gate.set()
    await task
    assert exchange.status == 200
    assert (await ask(stand, token, answered=False)).word == "token_expired"


# ---- the memory of tokens


async def test_what_is_remembered_of_tokens_is_bounded(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.gateway.tokens.MOST_REMEMBERED", 10)
    assert MOST_REMEMBERED > 1000
    for number in range(30):
        await ask(stand, own(stand, jti=f"j{number}"))
    assert len(stand.node.tokens._known) == 10
    assert (await ask(stand, own(stand, jti="j0"))).status == 200


async def test_a_change_of_the_directory_reaches_a_remembered_token(stand: Stand) -> None:
    token = own(stand)
    await ask(stand, token)
    change(stand, keys=[msgspec.structs.replace(stand.key, policy=Policy(models=("other",)))])
    assert (await ask(stand, token, answered=False)).word == "model_not_allowed"


async def test_the_ledger_forgets_the_budget_of_a_token_that_is_over(make_stand: MakeStand) -> None:
    stand = opened(make_stand(segment_bytes=1 << 14))
    name = f"token:{NOW + 900}:j1"
    await ask(stand, own(stand, "budget_usd:0.01"), body=chat(max_tokens=5))
    assert name in stand.journal._ledger.budgets
    stand.clock.advance(900 + 86_400)
    for _ in range(200):
        assert (await stand.ask(completion("Hi", usage(10, 5)))).status == 200
    assert len(list(stand.folder.glob("journal-*.log"))) > 1
    assert name not in stand.journal._ledger.budgets


# ---- networks


async def test_a_key_is_bound_to_its_networks(make_stand: MakeStand) -> None:
    stand = make_stand(policy=Policy(networks=("10.1.0.0/16",)), team_policy=Policy(networks=("10.0.0.0/8",)))
    for peer, status in (
        ("10.1.2.3", 200),
        ("10.2.0.1", 403),
        ("::ffff:10.1.0.9", 200),
        ("", 403),
        ("2001:db8::1", 403),
    ):
        exchange = stand.exchange()
        exchange.peer = peer
        if status == 200:
            stand.upstream.will(completion("Hi", usage(1, 1)))
        await stand.pipeline.serve(exchange)
        assert (exchange.status, peer) == (status, peer)


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        ("10.9.9.9", "10.1.2.3", 200),
        ("10.9.9.9", "6.6.6.6, 10.1.2.3", 200),  # what the caller himself wrote counts for nothing
        ("10.9.9.9", "10.1.2.3, 6.6.6.6", 403),
        ("10.9.9.9", "10.1.2.3, 10.9.0.1", 200),
        ("10.9.9.9", "nonsense", 403),
        ("6.6.6.6", "10.1.2.3", 403),  # no trusted proxy said so
        ("10.1.2.3", "6.6.6.6", 200),
    ],
)
async def test_only_a_trusted_proxy_speaks_for_the_caller(
    make_stand: MakeStand, peer: str, forwarded: str, status: int
) -> None:
    stand = make_stand(policy=Policy(networks=("10.1.0.0/16",)))
    stand.node.proxies = read_networks(["10.9.0.0/16"])
    exchange = stand.exchange(headers={"x-forwarded-for": forwarded})
    exchange.peer = peer
    if status == 200:
        stand.upstream.will(completion("Hi", usage(1, 1)))
    await stand.pipeline.serve(exchange)
    assert exchange.status == status
