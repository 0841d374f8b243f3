"""Trust rules: made, changed, switched off, removed. A rule that would trust anybody is refused.

A rule has to pin who is meant by a claim that the issuer's other customers cannot have: on GitHub `ref` alone is true
of every repository in the world.
"""

import re
from urllib.parse import urlsplit

from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.issuer_keys import read_keys
from bursar.control.naming import check_id, check_tags
from bursar.control.policies import check_narrows, check_policy
from bursar.control.signing_keys import MAX_LIFE_S
from bursar.control.subject_jwt import ALGORITHMS
from bursar.core.directory import IssuerKind, Team, TrustRule
from bursar.core.errors import Refusal
from bursar.core.trust import MAX_PATTERN

_MIN_LIFE_S = 60
_MAX_JWKS = 65_536
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

USUAL_ISSUERS: dict[str, str] = {
    "github": "https://token.actions.githubusercontent.com",
    "gitlab": "https://gitlab.com",
}

# Claims that say who it is, with what a pattern of theirs must begin with, up to its first `*`.
_PINS: dict[IssuerKind, dict[str, str]] = {
    "oidc": {},
    "kubernetes": {
        "sub": r"system:serviceaccount:[^:*]+:",
        "kubernetes.io/namespace": r"[^*]+",
    },
    "github": {
        "sub": r"repo:[^/*]+/",
        "repository": r"[^/*]+/",
        "job_workflow_ref": r"[^/*]+/",
        **dict.fromkeys(("repository_id", "repository_owner", "repository_owner_id", "enterprise_id"), r"[^*]+\Z"),
    },
    "gitlab": {
        "sub": r"project_path:[^/*]+/",
        "project_path": r"[^/*]+/",
        **dict.fromkeys(("project_id", "namespace_id", "namespace_path"), r"[^*]+\Z"),
    },
    "spiffe": {"sub": r"spiffe://[^/*]+/"},
}


class TrustRules:
    def __init__(self, directory: Directory, *, http_loopback: bool = False) -> None:
        self._directory = directory
        self._http_loopback = http_loopback

    def all(self) -> list[TrustRule]:
        return self._directory.book.all(TrustRule)

    def get(self, rule_id: str) -> TrustRule:
        return self._directory.book.get(TrustRule, rule_id)

    async def put(self, actor: str, rule: TrustRule, *, new: bool = True) -> TrustRule:
        """Make a rule, or with `new` False replace it. Refuses with invalid_input, unknown_id, already_exists,
        policy_widens.
        """
        made: list[TrustRule] = []

        def decide(book: Book) -> Change:
            known = book.find(TrustRule, rule.id)
            if new and known is not None:
                raise Refusal("already_exists", f"There is a trust rule {rule.id!r}", "Choose another --id")
            if not new:
                book.get(TrustRule, rule.id)
            team = book.get(Team, rule.team_id)
            made.append(self.checked(rule, team))
            facts: dict[str, str | int] = {"team": team.id, "issuer": rule.issuer}
            return Change(action="trust.add" if new else "trust.update", target=_target(rule.id), put=made, facts=facts)

        await self._directory.change(actor, decide)
        return made[0]

    async def set_disabled(self, actor: str, rule_id: str, disabled: bool) -> TrustRule:
        """Takes effect on its tokens at their next hold."""

        def decide(book: Book) -> Change:
            rule = replace(book.get(TrustRule, rule_id), disabled=disabled)
            return Change(action=f"trust.{'disable' if disabled else 'enable'}", target=_target(rule_id), put=[rule])

        await self._directory.change(actor, decide)
        return self.get(rule_id)

    async def remove(self, actor: str, rule_id: str) -> None:
        """Its tokens end at their next hold."""

        def decide(book: Book) -> Change:
            book.get(TrustRule, rule_id)
            return Change(action="trust.remove", target=_target(rule_id), gone=[("trust", rule_id)])

        await self._directory.change(actor, decide)

    def checked(self, rule: TrustRule, team: Team) -> TrustRule:
        """The rule as it may stand in the directory. Raises Refusal(invalid_input | policy_widens)."""
        check_id(rule.id)
        self._check_issuer(rule)
        _check_match(rule)
        if not rule.audience.strip():
            raise _invalid("audience", "is empty", "--audience https://bursar.example.org")
        if not rule.algorithms or not set(rule.algorithms) <= ALGORITHMS.keys():
            raise _invalid("algorithms", f"are some of {', '.join(ALGORITHMS)}", "--algorithm RS256")
        if not _MIN_LIFE_S <= rule.life_s <= MAX_LIFE_S:
            raise _invalid("life", "is from 1m to 1h", "--life 15m")
        policy = check_policy(rule.policy)
        check_narrows(team.id, team.policy, policy)
        return replace(rule, policy=policy, tags=check_tags(rule.tags))

    def _check_issuer(self, rule: TrustRule) -> None:
        bundle = rule.kind == "spiffe" and rule.issuer.startswith("spiffe://")
        if bundle and not rule.jwks:
            raise _invalid("jwks", "is needed: a trust domain has no discovery document", "--jwks FILE")
        if not bundle and not self._is_https(rule.issuer):
            raise _invalid("issuer", "is not an https address", "--issuer https://issuer.example.org")
        jwks = rule.jwks
        if jwks.startswith("{"):
            if len(jwks) > _MAX_JWKS or not _keys_in(jwks):
                raise _invalid("jwks", "holds no public key that could verify anything", "--jwks FILE")
        elif jwks and not jwks.startswith("/") and not self._is_https(jwks):
            raise _invalid("jwks", "is no https address, no absolute path and no key set", "--jwks https://...")

    def _is_https(self, text: str) -> bool:
        try:
            url = urlsplit(text)
        except ValueError:
            return False
        loopback = self._http_loopback and url.hostname in _LOOPBACK
        return (
            (url.scheme == "https" or (url.scheme == "http" and loopback)) and bool(url.hostname) and not url.username
        )


def _check_match(rule: TrustRule) -> None:
    for claim, patterns in rule.match.items():
        if not claim or not patterns or not all(0 < len(pattern) <= MAX_PATTERN for pattern in patterns):
            raise _invalid("match", "has an empty or overlong claim or pattern", "--match repository=octo/app")
    pins = _PINS[rule.kind]
    if not any(_pins(claim, patterns, pins) for claim, patterns in rule.match.items()):
        known = ", ".join(pins) or "a claim other than iss and aud"
        raise _invalid(
            "match", f"does not say who is meant: it would trust anybody at {rule.issuer}", f"--match on {known}"
        )


def _pins(claim: str, patterns: tuple[str, ...], pins: dict[str, str]) -> bool:
    if not pins:
        return claim not in ("iss", "aud") and all(pattern.strip("*") for pattern in patterns)
    begin = pins.get(claim)
    return begin is not None and all(re.match(begin, pattern, re.ASCII) for pattern in patterns)


def _keys_in(jwks: str) -> bool:
    try:
        return bool(read_keys(jwks.encode()))
    except Refusal:
        return False


def _target(rule_id: str) -> str:
    return f"trust/{rule_id}"


def _invalid(field: str, problem: str, write: str) -> Refusal:
    return Refusal("invalid_input", f"{field} {problem}", f"Write {write}", facts={"field": field})
