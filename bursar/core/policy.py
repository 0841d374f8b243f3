"""May this call run, and with how much output: one pure decision per call.

Refuses with a Refusal, or allows with the edits to make. What a rule in shadow would have refused is returned, not
raised. Money comes after: a hard budget only makes sure here that the output is capped at all.
"""

from collections.abc import Mapping

import msgspec

from bursar.core.calls import Call, Edits, Purpose
from bursar.core.compiling import compile_policy
from bursar.core.controls import would_clamp, would_refuse
from bursar.core.decisions import RuleAsked
from bursar.core.errors import Refusal
from bursar.core.explain import listed_models, output_rule, prompt_rule
from bursar.core.plans import (
    SHARED_USER,
    BoundSet,
    BudgetIndex,
    BudgetSet,
    CallBounds,
    KeyPlan,
    Rules,
    Shown,
    matches_all,
)
from bursar.core.prices import Price

__all__ = [
    "Allowed",
    "BoundSet",
    "BudgetIndex",
    "BudgetSet",
    "CallBounds",
    "KeyPlan",
    "Rules",
    "Shown",
    "compile_policy",
    "decide",
    "resolve_user",
    "unpriced_refusal",
    "user_refusal",
]

HARD_DEFAULT = 4_096  # output tokens under a hard budget when neither caller nor policy gives a number
UNCAPPED = 1_000_000  # stands for "no cap" without a hard budget; no model writes more in one answer
THINKING_ROOM = 1_024  # output tokens left to answer in beside a thinking budget
_USER_LENGTH = 256


class Allowed(msgspec.Struct, kw_only=True, gc=False):
    """A call that may run."""

    edits: Edits
    output_cap: int  # tokens per choice that the ceiling counts with
    max_tokens_applied: int | None  # what Bursar set; None = the caller's own word stands
    truncated: bool  # the caller asked for more
    shadowed: list[RuleAsked]  # what rules in shadow would have done
    price: Price | None  # None = unpriced, and no hard budget minds
    billed_as: str  # canonical model name, for counters
    budgets: tuple[str, ...]  # ids
    strict: bool  # a hard budget applies: no finite ceiling, no call
    allow_unknown: bool


def decide(  # noqa: PLR0913 - facts of one call
    plan: KeyPlan,
    call: Call,
    price: Price | None,
    *,
    user: str = "",
    tag_default: int | None = None,
    hard_way: bool = False,
    allowed_by_tag: bool = True,
    expected_input: int = 0,
) -> Allowed:
    """Apply a plan to a call.

    `price`: of the first candidate, or the provider's dearest where the plan assumes that.
    `hard_way`: a hard budget binds a provider key that may serve it.
    `tag_default`, `allowed_by_tag`: what the provider key's tags say. `expected_input`: estimated input tokens; 0 =
    take a quarter of the bytes. Raises Refusal: model_not_allowed, purpose_not_allowed, prompt_too_large,
    unpriced_model, max_tokens_exceeded.
    """
    rules = plan.enforced
    if rules.models and not plan.allows_model(call.model):
        raise _model_refusal(call)
    if not allowed_by_tag:
        raise Refusal(
            "model_not_allowed", f"No provider key may be used for {call.model[:100]!r}", "See GET /v1/models"
        )
    tokens = expected_input or call.rough_tokens
    refusal = _content_refusal(rules, call, tokens)
    if refusal is not None:
        raise refusal
    billed_as = call.model if price is None else price.model
    budgets = plan.budget_set(call.model, billed_as, user)
    if price is None and (budgets.hard or rules.refuses_unpriced):
        raise unpriced_refusal(call)
    edits = Edits(stop=rules.stop)
    if call.server_tools:
        edits.tool_uses_cap = rules.tool_uses_cap
    hard = budgets.hard or hard_way  # whichever way is taken, its hold bounds what is capped
    cap = _output(rules, call, price, tag_default, hard)
    truncated = call.max_tokens is not None and cap is not None and cap < call.max_tokens
    shadowed: list[RuleAsked] = []
    if plan.shadowed is not None:
        shadowed = _shadowed(plan.shadowed, rules, call, tokens, priced=price is not None)
    if plan.tried is not None or budgets.tried:
        shadowed += _shadowed_output(plan, call, price, tag_default, budgets._replace(hard=hard), cap)
    applied = None
    if cap is None:
        cap = UNCAPPED if price is None or price.max_output is None else price.max_output
    elif cap != call.max_tokens:
        applied = edits.max_tokens = cap
        edits.max_tokens_field = call.max_tokens_field or _field(call, price)
    return Allowed(
        edits=edits,
        output_cap=cap,
        max_tokens_applied=applied,
        truncated=truncated,
        shadowed=shadowed,
        price=price,
        billed_as=billed_as,
        budgets=budgets.ids,
        strict=hard,
        allow_unknown=plan.allow_unknown,
    )


def resolve_user(plan: KeyPlan, headers: Mapping[str, str]) -> str:
    """The user on whose behalf the key calls, by the header its policy trusts; "" when it trusts none.

    `headers` by lower-case name. Raises Refusal(user_required) when the header is missing and the policy says deny.
    """
    if not plan.user_header:
        return ""
    refusal = user_refusal(plan, headers)
    if refusal is None:
        return headers[plan.user_header].strip()
    if plan.user_missing == "shared" or plan.user_mode != "enforce":
        return SHARED_USER
    raise refusal


def user_refusal(plan: KeyPlan, headers: Mapping[str, str]) -> Refusal | None:
    """None where the header that the plan trusts names a user."""
    user = headers.get(plan.user_header, "").strip()
    if 0 < len(user) <= _USER_LENGTH and user.isprintable():
        return None
    return Refusal(
        "user_required",
        f"The header {plan.user_header} does not name a user",
        f"Send one of at most {_USER_LENGTH} printable characters",
    )


# ---- what a call is and holds ----------------------------------------------------------------------------------------


def _model_refusal(call: Call) -> Refusal:
    return Refusal("model_not_allowed", f"The key may not use the model {call.model[:100]!r}", "See GET /v1/models")


def check_content(plan: KeyPlan, call: Call) -> None:
    """Purpose and size alone, of what is put somewhere for later. Raises Refusal."""
    refusal = _content_refusal(plan.enforced, call, call.rough_tokens)
    if refusal is not None:
        raise refusal


def check_purpose(plan: KeyPlan, purpose: Purpose) -> None:
    """Of what is no call: a file. Raises Refusal(purpose_not_allowed)."""
    refusal = _purpose_refusal(plan.enforced, purpose)
    if refusal is not None:
        raise refusal


def _purpose_refusal(rules: Rules, purpose: Purpose) -> Refusal | None:
    if rules.purposes is None or purpose in rules.purposes:
        return None
    return Refusal(
        "purpose_not_allowed",
        f"The key may not be used for {purpose}",
        f"It may be used for: {', '.join(sorted(rules.purposes)) or 'nothing'}",
    )


def _content_refusal(rules: Rules, call: Call, tokens: int) -> Refusal | None:
    """Purpose and size of the prompt."""
    if rules.purposes is not None and (refusal := _purpose_refusal(rules, call.purpose)) is not None:
        return refusal
    most = rules.max_prompt_chars
    if most is not None and call.prompt_chars > most:
        return _too_large("characters", call.prompt_chars, most)
    most = rules.max_input_tokens
    if most is not None and tokens > most:
        return _too_large("tokens (estimated)", tokens, most)
    return None


def _too_large(unit: str, size: int, most: int) -> Refusal:
    return Refusal(
        "prompt_too_large",
        f"The prompt has {size} {unit}; the policy allows {most}",
        "Shorten or split it, or ask the team's owner for a larger cap",
        facts={"size": size, "limit": most},
    )


def unpriced_refusal(call: Call) -> Refusal:
    """Without a price there is no ceiling: a hard budget refuses in any mode, the rest as the policy says."""
    return Refusal(
        "unpriced_model",
        f"There is no price for the model {call.model[:100]!r}, so its cost cannot be bounded",
        "Give it one: `bursar prices set`",
    )


# ---- what is in shadow -----------------------------------------------------------------------------------------------


def _shadowed(rules: Rules, enforced: Rules, call: Call, tokens: int, *, priced: bool) -> list[RuleAsked]:
    """What these rules would refuse or change beyond the enforced ones, all but the output's cap."""
    found = []
    if not matches_all(rules.models, call.model):
        found.append(would_refuse("models", "models", "model_not_allowed", listed_models(rules)))
    if rules.purposes is not None and call.purpose not in rules.purposes:
        says = ", ".join(sorted(rules.purposes))
        found.append(would_refuse("purposes", "purposes", "purpose_not_allowed", says))
    sizes = (("max_prompt_chars", "characters", call.prompt_chars), ("max_input_tokens", "tokens", tokens))
    for name, unit, size in sizes:
        most: int | None = getattr(rules, name)
        if most is not None and size > most:
            found.append(prompt_rule("shadow", name, unit, most, size, "prompt_too_large"))
    if rules.refuses_unpriced and not priced:
        found.append(would_refuse("unpriced", "unpriced", "unpriced_model", "refuse"))
    cap = rules.tool_uses_cap
    lower = cap is not None and (enforced.tool_uses_cap is None or cap < enforced.tool_uses_cap)
    if lower and any(tool.max_uses is None for tool in call.server_tools):
        found.append(would_clamp("tools", "tool_uses_cap", "uses", None, cap))
    if set(rules.stop) - set(enforced.stop):
        found.append(would_clamp("stop", "stop", "", None, None))
    return found


def _shadowed_output(
    plan: KeyPlan, call: Call, price: Price | None, tag_default: int | None, budgets: BudgetSet, cap: int | None
) -> list[RuleAsked]:
    """What caps in shadow, and what hard budgets in shadow demand of a call, would do to its output and to itself."""
    found = []
    tried = plan.tried or plan.enforced
    try:
        changed = _output(tried, call, price, tag_default, budgets.hard)
        if changed != cap:
            rule = "max_tokens_default" if call.max_tokens is None else "max_tokens_cap"
            found.append(would_clamp("max_tokens", rule, "tokens", cap, changed))
        elif budgets.tried and not budgets.hard:
            changed = _output(tried, call, price, tag_default, hard=True)
            if changed != cap:
                found.append(would_clamp("budgets", "hard", "tokens", cap, changed))
    except Refusal as refusal:
        asked, limit = (int(refusal.facts[name]) for name in ("asked", "limit"))
        found.append(output_rule("shadow", "refuses", limit, asked, refusal.word))
    if budgets.tried and not budgets.hard and price is None:
        found.append(would_refuse("budgets", "hard", "unpriced_model"))
    return found


# ---- how much it may answer ------------------------------------------------------------------------------------------


def _too_much(asked: int, cap: int, hint: str = "") -> Refusal:
    return Refusal(
        "max_tokens_exceeded",
        f"{asked} output tokens are asked for; the policy allows {cap}",
        hint or f"Ask for at most {cap}",
        facts={"asked": asked, "limit": cap},
    )


def _field(call: Call, price: Price | None) -> str:
    """The field that this model takes its output cap in."""
    return "max_tokens" if price is None or call.dialect == "anthropic" else price.max_tokens_field


def _floor(price: Price | None) -> int:
    """A cap below this would let a reasoning model think, bill, and not answer."""
    return 0 if price is None else price.reasoning_floor


def _output(rules: Rules, call: Call, price: Price | None, tag_default: int | None, hard: bool) -> int | None:
    """The cap that the call is sent with; None = leave it as it is. Raises Refusal(max_tokens_exceeded)."""
    if call.max_tokens is None:
        return _default_output(rules, call, price, tag_default, hard)
    return _capped_output(rules, call, price)


def _default_output(rules: Rules, call: Call, price: Price | None, tag_default: int | None, hard: bool) -> int | None:
    """The cap for a caller who gave none; None = leave the call as it is."""
    floor = _floor(price)
    cap = rules.cap
    default = rules.default if rules.default is not None else tag_default
    if default is None:
        default = cap if cap is not None else HARD_DEFAULT if hard else None
        if default is None:
            return None
    if cap is not None:
        cap = max(cap, floor)
        default = min(default, cap)
    default = max(default, floor)
    if price is not None and price.max_output is not None:
        default = min(default, price.max_output)
    if call.thinking_budget and default < call.thinking_budget + THINKING_ROOM:
        default = call.thinking_budget + THINKING_ROOM
        if cap is not None and default > cap:
            raise _too_much(default, cap, f"Lower the thinking budget below {cap}")
    return default


def _capped_output(rules: Rules, call: Call, price: Price | None) -> int:
    """The cap for a caller who gave one: never raised, clamped or refused above the policy's."""
    asked, cap = call.max_tokens, rules.cap
    assert asked is not None
    if cap is None or asked <= cap:
        return asked
    cap = max(cap, _floor(price))
    if asked <= cap:
        return asked
    if rules.over == "refuse":
        raise _too_much(asked, cap)
    if call.thinking_budget >= cap:
        raise _too_much(asked, cap, f"Lower the thinking budget below {cap}: the output cap must stay above it")
    return cap
