"""Trust rules and tokens over the admin API: whose identity is taken, what signs, what is revoked."""

from typing import Annotated, Any

import msgspec

from bursar.control.signing_keys import jwk_set
from bursar.control.trust import USUAL_ISSUERS
from bursar.core.directory import IssuerKind, Policy, TrustRule
from bursar.faces.admin_calls import AdminCall, items, page_of, patched
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape, instant
from bursar.faces.admin_views import policy_view

_ALGORITHMS = ("RS256", "ES256", "EdDSA")


class TrustInput(Shape, frozen=True, kw_only=True):
    """`match`: claim -> values or globs. `issuer` may be left out for GitHub and GitLab, `audience` for this broker."""

    team: str
    kind: IssuerKind = "oidc"
    issuer: str = ""
    audience: str = ""
    match: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - msgspec copies it
    jwks: str = ""
    algorithms: tuple[str, ...] = _ALGORITHMS
    policy: Policy = Policy()
    tags: tuple[str, ...] = ()
    single_use: bool = False
    life_s: int = 900
    allow_private: bool = False


class TrustCreate(TrustInput, frozen=True, kw_only=True):
    id: str


class TrustView(Shape, frozen=True, kw_only=True):
    id: str
    team: str
    kind: IssuerKind
    issuer: str
    audience: str
    match: dict[str, tuple[str, ...]]
    jwks: str
    algorithms: tuple[str, ...]
    policy: dict[str, Any]
    tags: tuple[str, ...]
    single_use: bool
    life_s: int
    allow_private: bool
    state: str  # active | disabled


class TrustTest(Shape, frozen=True, kw_only=True):
    """A token goes in; it is read, not used up, and kept nowhere."""

    token: str

    def __repr__(self) -> str:
        return "TrustTest(***)"


class VerdictView(Shape, frozen=True, kw_only=True):
    rule: str
    fits: bool
    word: str
    why: str


class TrustTested(Shape, frozen=True, kw_only=True):
    """`claims` are the token's own words: believed only where a rule fits."""

    fits: tuple[str, ...]
    claims: dict[str, Any]
    rules: tuple[VerdictView, ...]


class SigningKeyView(Shape, frozen=True, kw_only=True):
    kid: str
    state: str  # signs | next | over
    made_at: str
    read_until: str | None


class SigningKeys(Shape, frozen=True, kw_only=True):
    keys: tuple[SigningKeyView, ...]


class RotateKeys(Shape, frozen=True, kw_only=True):
    at_once: bool = False  # every token issued so far is void


class RevokeToken(Shape, frozen=True, kw_only=True):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]  # its jti, as the audit tells it


class Revoked(Shape, frozen=True, kw_only=True):
    id: str


class JwkSet(Shape, frozen=True, kw_only=True):
    """RFC 7517."""

    keys: tuple[dict[str, Any], ...]


def _view(rule: TrustRule) -> TrustView:
    return TrustView(
        id=rule.id,
        team=rule.team_id,
        kind=rule.kind,
        issuer=rule.issuer,
        audience=rule.audience,
        match=rule.match,
        jwks=rule.jwks,
        algorithms=rule.algorithms,
        policy=policy_view(rule.policy),
        tags=rule.tags,
        single_use=rule.single_use,
        life_s=rule.life_s,
        allow_private=rule.allow_private,
        state="disabled" if rule.disabled else "active",
    )


def _rule(call: AdminCall, rule_id: str, given: TrustInput, disabled: bool) -> TrustRule:
    fields = {name: getattr(given, name) for name in TrustInput.__struct_fields__ if name != "team"}
    fields["issuer"] = given.issuer or USUAL_ISSUERS.get(given.kind, "")
    fields["audience"] = given.audience or call.services.tokens.issuer
    return TrustRule(id=rule_id, team_id=given.team, disabled=disabled, **fields)


async def list_trust(call: AdminCall) -> object:
    rows, following = page_of(call.services.trust.all(), call.query, lambda rule: rule.id)
    return items([_view(rule) for rule in rows], following)


async def add_trust(call: AdminCall) -> object:
    given: TrustCreate = call.body
    return _view(await call.services.trust.put(call.actor, _rule(call, given.id, given, False)))


async def get_trust(call: AdminCall) -> object:
    return _view(call.services.trust.get(call.path["id"]))


async def update_trust(call: AdminCall) -> object:
    present = call.services.trust.get(call.path["id"])
    given = patched(_view(present), call.body, TrustInput)
    return _view(await call.services.trust.put(call.actor, _rule(call, present.id, given, present.disabled), new=False))


async def disable_trust(call: AdminCall) -> object:
    return _view(await call.services.trust.set_disabled(call.actor, call.path["id"], True))


async def enable_trust(call: AdminCall) -> object:
    return _view(await call.services.trust.set_disabled(call.actor, call.path["id"], False))


async def remove_trust(call: AdminCall) -> None:
    await call.services.trust.remove(call.actor, call.path["id"])


async def test_trust(call: AdminCall) -> object:
    given: TrustTest = call.body
    claims, verdicts = await call.services.federation.explain(given.token.strip())
    rules = tuple(VerdictView(rule=v.rule.id, fits=not v.word, word=v.word, why=v.why) for v in verdicts)
    return TrustTested(fits=tuple(v.rule for v in rules if v.fits), claims=dict(claims), rules=rules)


async def list_signing_keys(call: AdminCall) -> object:
    return _keys(await call.services.tokens.signing.shown())


async def rotate_signing_key(call: AdminCall) -> object:
    given: RotateKeys = call.body
    return _keys(list((await call.services.tokens.signing.rotate(call.actor, at_once=given.at_once)).keys))


def _keys(keys: list[Any]) -> SigningKeys:
    return SigningKeys(
        keys=tuple(
            SigningKeyView(
                kid=key.kid,
                state=key.state,
                made_at=instant(key.made_ns),
                read_until=None if key.until_ns is None else instant(key.until_ns),
            )
            for key in keys
        )
    )


async def export_jwks(call: AdminCall) -> object:
    return jwk_set(await call.services.tokens.signing.public())


async def revoke_token(call: AdminCall) -> object:
    given: RevokeToken = call.body
    await call.services.tokens.revoke_id(call.actor, given.id)
    return Revoked(id=given.id)


_ID = ("unknown_id",)
_READ = ("subject_malformed", "subject_too_large", "subject_header_refused")
_RULE: type[msgspec.Struct] = TrustView

ROUTES = (
    Route("GET", "/trust", "List trust rules", list_trust, _RULE, query=Page, page=True),
    Route(
        "POST",
        "/trust",
        "Trust an issuer's tokens",
        add_trust,
        _RULE,
        body=TrustCreate,
        created=True,
        previews=True,
        refusals=("already_exists", "policy_widens", *_ID),
    ),
    Route(
        "POST",
        "/trust/test",
        "Say which rules a token fits, and why it does not fit the others",
        test_trust,
        TrustTested,
        "operate",
        body=TrustTest,
        refusals=_READ,
    ),
    Route("GET", "/trust/{id}", "Read a trust rule", get_trust, _RULE, refusals=_ID),
    Route(
        "PATCH",
        "/trust/{id}",
        "Change a trust rule",
        update_trust,
        _RULE,
        body=TrustInput,
        previews=True,
        refusals=("policy_widens", *_ID),
    ),
    Route(
        "POST",
        "/trust/{id}/disable",
        "Switch a trust rule off",
        disable_trust,
        _RULE,
        "operate",
        previews=True,
        refusals=_ID,
    ),
    Route(
        "POST",
        "/trust/{id}/enable",
        "Switch a trust rule on",
        enable_trust,
        _RULE,
        "operate",
        previews=True,
        refusals=_ID,
    ),
    Route("DELETE", "/trust/{id}", "Remove a trust rule; its tokens end", remove_trust, previews=True, refusals=_ID),
    Route(
        "GET",
        "/tokens/keys",
        "List the keys that sign tokens, without their private halves",
        list_signing_keys,
        SigningKeys,
    ),
    Route("GET", "/tokens/jwks", "The key set by which others verify tokens", export_jwks, JwkSet),
    Route(
        "POST",
        "/tokens/rotate",
        "Let the next key sign tokens",
        rotate_signing_key,
        SigningKeys,
        "operate",
        body=RotateKeys,
    ),
    Route("POST", "/tokens/revoke", "Revoke a token by its id", revoke_token, Revoked, "operate", body=RevokeToken),
)
