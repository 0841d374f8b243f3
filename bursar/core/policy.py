"""May this call run, and with how much output: one pure decision per call.

Refuses with a Refusal, or allows with the edits to make. What a rule in shadow would have refused is returned, not
raised. Money comes after: a hard budget only makes sure here that the output is capped at all.
"""

from collections.abc import Mapping

import msgspec

from bursar.core.calls import Call, Edits
from bursar.core.errors import Refusal
from bursar.core.plans import (
    SHARED_USER,
    BoundSet,
    BudgetIndex,
    BudgetSet,
    KeyPlan,
    Rules,
    Shown,
    compile_policy,
    matches_all,
    provider_key_bounds,
)
from bursar.core.prices import Price

__all__ = [
    "Allowed",
    "BoundSet",
    "BudgetIndex",
    "BudgetSet",
    "KeyPlan",
    "Rules",
    "Shown",
    "compile_policy",
    "decide",
    "provider_key_bounds",
    "resolve_user",
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
    shadowed: list[Refusal]  # what rules in shadow would have refused
    price: Price | None  # None = unpriced, and no hard budget minds
    billed_as: str  # canonical model name, for counters
    budgets: tuple[str, ...]  # ids
    strict: bool  # a hard budget applies: no finite ceiling, no call
    allow_unknown: bool


def decide(
    plan: KeyPlan,
    call: Call,
    price: Price | None,
    *,
    user: str = "",
    tag_default: int | None = None,
    allowed_by_tag: bool = True,
    expected_input: int = 0,
) -> Allowed:
    """Apply a plan to a call.

    `price`: of the first candidate, or the provider's dearest where `plan.unpriced` is "assume_dearest".
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
    tokens = expected_input or call.input_bytes >> 2
    refusal = _content_refusal(rules, call, tokens)
    if refusal is not None:
        raise refusal
    billed_as = call.model if price is None else price.model
    budgets = plan.budget_set(call.model, billed_as, user)
    shadowed: list[Refusal] = [] if plan.shadowed is None else _shadowed(plan.shadowed, call, tokens)
    if price is None:
        _check_unpriced(plan, call, budgets.hard, shadowed)
    edits = Edits(stop=plan.stop)
    if call.server_tools:
        edits.tool_uses_cap = plan.tool_uses_cap
    if call.max_tokens is None:
        cap = _default_output(plan, call, price, tag_default, budgets.hard)
        truncated = False
    else:
        cap = _capped_output(rules, call, price)
        truncated = cap < call.max_tokens
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
        strict=budgets.hard,
        allow_unknown=plan.allow_unknown,
    )


def resolve_user(plan: KeyPlan, headers: Mapping[str, str]) -> str:
    """The user on whose behalf the key calls, by the header its policy trusts; "" when it trusts none.

    `headers` by lower-case name. Raises Refusal(user_required) when the header is missing and the policy says deny.
    """
    if not plan.user_header:
        return ""
    user = headers.get(plan.user_header, "").strip()
    if 0 < len(user) <= _USER_LENGTH and user.isprintable():
        return user
    if plan.user_missing == "shared":
        return SHARED_USER
    raise Refusal(
        "user_required",
        f"The header {plan.user_header} does not name a user",
        f"Send one of at most {_USER_LENGTH} printable characters",
    )


# ---- what a call is and holds ----------------------------------------------------------------------------------------


def _model_refusal(call: Call) -> Refusal:
    return Refusal("model_not_allowed", f"The key may not use the model {call.model[:100]!r}", "See GET /v1/models")


def _content_refusal(rules: Rules, call: Call, tokens: int) -> Refusal | None:
    """Purpose and size of the prompt."""
    if rules.purposes is not None and call.purpose not in rules.purposes:
        return Refusal(
            "purpose_not_allowed",
            f"The key may not be used for {call.purpose}",
            f"It may be used for: {', '.join(sorted(rules.purposes)) or 'nothing'}",
        )
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


def _shadowed(rules: Rules, call: Call, tokens: int) -> list[Refusal]:
    """What these rules would refuse or clamp, were they enforced."""
    found = []
    if not matches_all(rules.models, call.model):
        found.append(_model_refusal(call))
    refusal = _content_refusal(rules, call, tokens)
    if refusal is not None:
        found.append(refusal)
    if rules.cap is not None and call.max_tokens is not None and call.max_tokens > rules.cap:
        found.append(_too_much(call.max_tokens, rules.cap))
    return found


def _check_unpriced(plan: KeyPlan, call: Call, hard: bool, shadowed: list[Refusal]) -> None:
    """Without a price there is no ceiling: a hard budget refuses in any mode, the rest as the policy says."""
    if not hard and (plan.unpriced != "refuse" or plan.unpriced_mode == "off"):
        return
    refusal = Refusal(
        "unpriced_model",
        f"There is no price for the model {call.model[:100]!r}, so its cost cannot be bounded",
        "Give it one: `bursar prices set`",
    )
    if hard or plan.unpriced_mode == "enforce":
        raise refusal
    shadowed.append(refusal)


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


def _default_output(plan: KeyPlan, call: Call, price: Price | None, tag_default: int | None, hard: bool) -> int | None:
    """The cap for a caller who gave none; None = leave the call as it is."""
    floor = _floor(price)
    cap = plan.enforced.cap
    default = plan.default if plan.default is not None else tag_default
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
