"""From what was decided to what is told of it: each rule that was asked about a call, with its numbers.

Pure. A gateway calls these after the answer has left, with what it knows at that instant; the numbers of the rule that
refused are those of the refusal itself.
"""

from collections.abc import Iterator

import msgspec

from bursar.core.calls import Call
from bursar.core.decisions import Control, RuleAsked, Verdict
from bursar.core.directory import Mode
from bursar.core.errors import Refusal
from bursar.core.ledger_records import BudgetStand, money
from bursar.core.limits import Bound
from bursar.core.plans import KeyPlan, Rules
from bursar.core.units import NS_PER_S

QUOTING = frozenset(
    {
        "malformed_request",
        "duplicate_field",
        "invalid_field",
        "guard_blocked",
        "not_found",
        "unbounded_request",
        "deployment_unknown",
    }
)
"""Words whose message can quote what the caller sent: it is told to him, and not kept."""

_KEY_WORDS = frozenset({"key_disabled", "key_expired", "token_expired", "token_revoked"})
_PROMPT_SIZES = (("max_input_tokens", "tokens"), ("max_prompt_chars", "characters"))


def limit_rule(
    bound: Bound,
    now_ns: int,
    left: int | None,
    full_in_s: float,
    asked: int,
    *,
    mode: Mode = "enforce",
    refused: tuple[str, float] | None = None,
) -> RuleAsked:
    """A rate or a number of slots. `refused` = (word, seconds after which to come back)."""
    slots = bound.unit == "concurrency"
    most = bound.amount if slots else bound.burst
    word, resets_s = refused or ("", full_in_s)
    left = 0 if refused and slots else left
    return RuleAsked(
        control="limits",
        rule=bound.name,
        mode=mode,
        verdict="refuses" if refused else "allows",
        word=word,
        subject=bound.subject,
        unit=bound.unit,
        per_seconds=0 if slots else bound.per_seconds,
        limit=bound.amount,
        used=None if left is None else max(0, most - left),
        asked=asked,
        left=left,
        resets_ns=None if slots or not resets_s else now_ns + int(resets_s * NS_PER_S),
    )


def budget_rule(
    stand: BudgetStand, asked: int, *, mode: Mode | None = None, refusal: Refusal | None = None, word: str = ""
) -> RuleAsked:
    """A budget. `refusal`: this budget's own; its numbers are then the refusal's."""
    used, held = stand.used_pico, stand.held_pico
    if refusal is not None and "posted_pico" in refusal.facts:
        held = int(refusal.facts["held_pico"])
        used, asked = int(refusal.facts["posted_pico"]) + held, int(refusal.facts["asked_pico"])
    word = refusal.word if refusal is not None else word
    return RuleAsked(
        control="budgets",
        rule=stand.budget_id,
        mode=mode or ("shadow" if stand.mode == "shadow" else "enforce"),
        verdict="refuses" if word else "allows",
        word=word,
        subject=stand.subject,
        unit="pico_usd",
        limit=money(stand.limit_pico),
        used=money(used),
        held=None if held is None else money(held),
        asked=money(asked),
        left=0 if stand.closed else money(max(0, stand.limit_pico - used)),
        resets_ns=stand.ends_ns,
        says="hard" if stand.hard else "soft",
    )


def budget_in_shadow(stand: BudgetStand, asked: int) -> RuleAsked:
    """One that would have refused: this call is held on it already, which its numbers must not count twice."""
    used = max(0, stand.used_pico - asked)
    held = None if stand.held_pico is None else max(0, stand.held_pico - asked)
    before = msgspec.structs.replace(stand, used_pico=used, held_pico=held)
    over = "can_never_fit" if asked > stand.limit_pico else "budget_exhausted"
    return budget_rule(before, asked, mode="shadow", word=over)


def door_rules(plan: KeyPlan | None, refusal: Refusal | None) -> Iterator[RuleAsked]:
    """What is asked before the body is read, besides limits."""
    word = "" if refusal is None else refusal.word
    if plan is None:
        return
    subject = f"key/{plan.key_id}"
    dead = word in _KEY_WORDS
    verdict: Verdict = "refuses" if dead else "allows"
    yield RuleAsked(control="key", rule="alive", verdict=verdict, word=word if dead else "", subject=subject)
    if dead:
        return
    if plan.enforced.networks:
        says = " and ".join(", ".join(str(network) for network in level) for level in plan.enforced.networks)
        yield _said("networks", "networks", says, word, "network_not_allowed")
    if plan.user_header and plan.user_mode == "enforce":
        yield _said("user", "user_header", plan.user_header, word, "user_required")


def policy_rules(
    plan: KeyPlan, call: Call, applied: int | None, truncated: bool, refusal: Refusal | None
) -> Iterator[RuleAsked]:
    """The enforced rules about what the call is, in the order in which they are asked, up to the one that refused.

    `applied`, `truncated`: what Bursar made of max_tokens, as in `bursar.core.policy.Allowed`.
    """
    rules, word = plan.enforced, "" if refusal is None else refusal.word
    for rule in _content_rules(rules, call, word):
        yield rule
        if rule.verdict == "refuses":
            return
    unpriced = "refuse" if rules.refuses_unpriced else "assume_dearest" if plan.assume_dearest else ""
    if unpriced or word == "unpriced_model":
        yield _said("unpriced", "unpriced", unpriced, word, "unpriced_model")
        if word == "unpriced_model":
            return
    if rules.cap is not None or applied is not None or word == "max_tokens_exceeded":
        verdict: Verdict = "refuses" if word == "max_tokens_exceeded" else "clamps" if truncated else "allows"
        limit = rules.cap if rules.cap is not None else applied
        yield output_rule("enforce", verdict, limit, call.max_tokens, word if verdict == "refuses" else "")
    if word == "guard_blocked":
        yield RuleAsked(control="guard", rule="guard", verdict="refuses", word=word)


def _content_rules(rules: Rules, call: Call, word: str) -> Iterator[RuleAsked]:
    if rules.models:
        yield _said("models", "models", listed_models(rules), word, "model_not_allowed")
    if rules.purposes is not None:
        yield _said("purposes", "purposes", ", ".join(sorted(rules.purposes)), word, "purpose_not_allowed")
    sizes = {"max_input_tokens": call.rough_tokens, "max_prompt_chars": call.prompt_chars}
    for name, unit in _PROMPT_SIZES:
        most: int | None = getattr(rules, name)
        if most is not None:
            over = word == "prompt_too_large" and sizes[name] > most
            yield prompt_rule("enforce", name, unit, most, sizes[name], word if over else "")


def output_rule(mode: Mode, verdict: Verdict, limit: int | None, asked: int | None, word: str) -> RuleAsked:
    """The cap on output tokens. `asked` None = the caller gave none."""
    return RuleAsked(
        control="max_tokens",
        rule="max_tokens_cap",
        mode=mode,
        verdict=verdict,
        word=word,
        unit="tokens",
        limit=limit,
        asked=asked,
    )


def prompt_rule(mode: Mode, name: str, unit: str, most: int, size: int, word: str) -> RuleAsked:
    """A cap on the size of the prompt."""
    verdict: Verdict = "refuses" if word else "allows"
    return RuleAsked(
        control="prompt", rule=name, mode=mode, verdict=verdict, word=word, unit=unit, limit=most, asked=size
    )


def listed_models(rules: Rules) -> str:
    """Each level's names and globs, as text."""
    return " and ".join(", ".join(level) for level in rules.models)


def _said(control: Control, rule: str, says: str, word: str, its_word: str) -> RuleAsked:
    """A rule without numbers; it refuses in `its_word`."""
    refuses = word == its_word
    verdict: Verdict = "refuses" if refuses else "allows"
    word = word if refuses else ""
    return RuleAsked(control=control, rule=rule, verdict=verdict, word=word, says=says[:300])
