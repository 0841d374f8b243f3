"""An outside token and the trust rules: which of them it fits, and why not the others.

The `iss` of an unread token only chooses which rules are looked at; the signature is checked with the keys that the
rule itself pins, never with keys that the token names.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bursar.control.directory import Directory
from bursar.control.issuer_keys import IssuerKeys
from bursar.control.subject_jwt import SubjectJwt, check_claims, read_subject
from bursar.control.token_marks import TokenMarks
from bursar.control.tokens import Behind, Wish
from bursar.core.access_tokens import SKEW_S
from bursar.core.directory import Team, TrustRule
from bursar.core.errors import Refusal
from bursar.core.trust import is_issuer, mismatches
from bursar.core.units import NS_PER_S

_SHOWN = 200
_FURTHEST = (
    "subject_ambiguous",
    "subject_not_trusted",
    "subject_audience_wrong",
    "subject_expired",
    "subject_not_yet_valid",
    "subject_claims_refused",
    "subject_signature_wrong",
    "subject_key_unknown",
    "subject_keys_unavailable",
    "subject_algorithm_refused",
)
"""Of several rules that refuse, the one that got furthest speaks."""


class Verdict(NamedTuple):
    """What one rule says of a token. `word` "" = it fits."""

    rule: TrustRule
    word: str = ""
    why: str = ""
    hint: str = ""
    retry_after: float | None = None


class Federation:
    def __init__(self, directory: Directory, keys: IssuerKeys, marks: TokenMarks) -> None:
        self._directory = directory
        self._keys = keys
        self._marks = marks

    async def behind(self, wish: Wish) -> Behind:
        """What a token for this subject will stand on; a single-use subject is used up. Raises Refusal(subject_...)."""
        token = read_subject(wish.subject.reveal())
        rule = self._choose(await self._verdicts(token), wish.rule_id)
        team = self._directory.book.get(Team, rule.team_id)
        if team.disabled:
            raise Refusal("key_disabled", "The team of the trust rule is switched off", "Ask the team's owner")
        if rule.single_use:
            await self._use_up(rule, token)
        claims = token.claims
        return Behind(
            sub=f"trust/{rule.id}",
            name=rule.id,
            team=team,
            levels=(team.policy, rule.policy),
            ends=None,
            life_s=rule.life_s,
            facts={name: str(claims[name])[:_SHOWN] for name in ("iss", "sub") if name in claims},
        )

    async def explain(self, text: str) -> tuple[Mapping[str, Any], list[Verdict]]:
        """The claims of a token, and what every rule says of it, without using it up.

        Raises Refusal when it is no JWT to begin with.
        """
        token = read_subject(text)
        return token.claims, await self._verdicts(token)

    async def _verdicts(self, token: SubjectJwt) -> list[Verdict]:
        checked: dict[object, Refusal | None] = {}  # many rules of one issuer pin the same keys
        return [await self._verdict(rule, token, checked) for rule in self._directory.book.all(TrustRule)]

    async def _verdict(self, rule: TrustRule, token: SubjectJwt, checked: dict[object, Refusal | None]) -> Verdict:
        if not is_issuer(rule, token.claims):
            return Verdict(rule, "subject_issuer_unknown", f"is for the issuer {rule.issuer}")
        if rule.disabled:
            return Verdict(rule, "subject_issuer_unknown", "is switched off")
        try:
            await self._check_signature_once(rule, token, checked)
            check_claims(token.claims, rule.audience, self._directory.now() / NS_PER_S)
        except Refusal as refusal:
            return Verdict(rule, refusal.word, refusal.message, refusal.hint, refusal.retry_after)
        wrong = mismatches(rule, token.claims)
        return Verdict(rule, "subject_not_trusted", "; ".join(wrong)) if wrong else Verdict(rule)

    async def _check_signature_once(
        self, rule: TrustRule, token: SubjectJwt, checked: dict[object, Refusal | None]
    ) -> None:
        pinned = (rule.issuer, rule.jwks, rule.algorithms, rule.allow_private)
        if pinned not in checked:
            try:
                await self._keys.verify(rule, token)
                checked[pinned] = None
            except Refusal as refusal:
                checked[pinned] = refusal
        refused = checked[pinned]
        if refused is not None:
            raise refused

    def _choose(self, verdicts: list[Verdict], wanted: str) -> TrustRule:
        fitting = [verdict.rule for verdict in verdicts if not verdict.word]
        named = [rule for rule in fitting if rule.id == wanted] if wanted else fitting
        if len(named) == 1:
            return named[0]
        if len(fitting) > 1:
            hint = "Name one: trust_rule=ID"
            raise Refusal("subject_ambiguous", "More than one trust rule fits the subject token", hint)
        for word in _FURTHEST:
            for verdict in verdicts:
                if verdict.word == word:
                    raise _told(verdict)
        if fitting:
            raise Refusal("subject_not_trusted", "The trust rule that was named does not fit the subject token")
        hint = "Whoever runs this broker can trust it: `bursar trust add`"
        raise Refusal("subject_issuer_unknown", "No trust rule names the issuer of the subject token", hint)

    async def _use_up(self, rule: TrustRule, token: SubjectJwt) -> None:
        claims = token.claims
        jti = claims.get("jti")
        if not isinstance(jti, str) or not jti:
            message = "The trust rule takes a subject token once, and this one has no jti to know it by"
            raise Refusal("subject_claims_refused", message, "Have its issuer add one")
        until = int((float(claims["exp"]) + SKEW_S + 1) * NS_PER_S)
        await self._marks.use_up(f"trust/{rule.id}", rule.issuer, jti, until)


def _told(verdict: Verdict) -> Refusal:
    """To a stranger: what is wrong with his token, not what the rules are."""
    if verdict.word == "subject_not_trusted":
        hint = "Whoever runs this broker sees why with `bursar trust test`"
        return Refusal("subject_not_trusted", "No trust rule fits the claims of the subject token", hint)
    return Refusal(verdict.word, verdict.why, verdict.hint, verdict.retry_after)
