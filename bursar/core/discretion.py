"""What of a counter's figures a caller is told: all of his own key's and team's, and of nobody else's any.

A budget or limit of an owner, a tag, a model, a user, a provider key or the node counts many tenants: what is left of
it says what the others spend. Of such a one a caller learns its kind, that it binds, when to come back and whom to ask.
The record of the decision keeps the whole, for who may `bursar explain` it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bursar.core.decisions import RuleAsked
from bursar.core.errors import Refusal
from bursar.core.limits import Bound
from bursar.core.units import pico_to_usd

if TYPE_CHECKING:
    from bursar.core.plans import KeyPlan

_WITHIN = ("user", "model")  # limits on these count within the key or team that states them
_KEPT = ("asked_pico", "window_ends")  # facts of the call itself, and of time
_STANDS = {
    "budget_exhausted": "is spent",
    "held_by_requests_in_flight": "is held by calls in flight",
    "can_never_fit": "is smaller than that",
    "store_unavailable": "is not in the ledger yet",
}
_CALLER = {"can_never_fit": "Lower max_tokens, or ", "held_by_requests_in_flight": "Retry when they have ended, or "}


def is_own(plan: "KeyPlan", control: str, subject: str) -> bool:
    """Whether a counter is of the plan's key or team alone. `subject`: "kind/name" as in `RuleAsked`, "" = nobody's."""
    kind, _, name = subject.partition("/")
    if not subject or (kind == "key" and name == plan.key_id) or (kind == "team" and name == plan.team_id):
        return True
    return control == "limits" and kind in _WITHIN and name.startswith((f"{plan.key_id}/", f"{plan.team_id}/"))


def own_bounds(bounds: Iterable[Bound]) -> tuple[Bound, ...]:
    """Of a plan's limits those that count its key or team alone."""
    return tuple(bound for bound in bounds if bound.scope in ("key", "team", *_WITHIN))


def own_budgets(plan: "KeyPlan", budgets: Iterable[str]) -> tuple[str, ...]:
    """Of a call's budgets, by id, those of its key, its token and its team."""
    own = {it.id for it in plan.fixed_budgets if is_own(plan, "budgets", f"{it.subject_kind}/{it.subject}")}
    return tuple(budget for budget in budgets if budget in own)


def told_rule(plan: "KeyPlan", rule: RuleAsked) -> RuleAsked:
    """As the caller may see it: of another's counter the kind, and what it says to the call."""
    if is_own(plan, rule.control, rule.subject):
        return rule
    kind = rule.subject.partition("/")[0]
    return RuleAsked(
        control=rule.control, rule=kind, mode=rule.mode, verdict=rule.verdict, word=rule.word, subject=kind
    )


def told_refusal(plan: "KeyPlan | None", refusal: Refusal) -> Refusal:
    """As the caller may hear it: the same word, the same time to come back."""
    counter = refusal.counter
    if counter is None or (plan is not None and is_own(plan, *counter)):
        return refusal
    control, subject = counter
    kind = subject.partition("/")[0]
    of = f" of the {kind.replace('_', ' ')}" if kind else ""
    facts: dict[str, str | int] = {"of": kind} if kind else {}
    facts |= {name: refusal.facts[name] for name in ("unit", *_KEPT) if name in refusal.facts}
    if control == "limits":
        message = f"A limit on {str(refusal.facts['unit']).replace('_', ' ')}{of} is reached"
    else:
        asked = refusal.facts.get("asked_pico")
        costs = f"this call can cost {pico_to_usd(int(asked))} USD, and " if asked is not None else ""
        message = f"{costs}a budget{of} that binds it {_STANDS[refusal.word]}"
    ends = refusal.facts.get("window_ends")
    first = f"Wait until {ends}, or " if ends else "Slow down, or " if control == "limits" else ""
    hint = first or _CALLER.get(refusal.word, "")
    hint += f"ask {'the billing owner' if kind == 'owner' else 'whoever runs this broker'} for more"
    return Refusal(refusal.word, message, hint[0].upper() + hint[1:], refusal.retry_after, facts)
