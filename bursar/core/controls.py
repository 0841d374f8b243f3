"""The controls of a policy, each `off`, `shadow` or `enforce` on every team and key, and what one in shadow says.

A level's mode for a control governs what that level itself states: a key that tries a rule in shadow neither loosens
the team's enforced one nor tightens it. A limit may have a mode of its own; a budget always has its own.
"""

from typing import Literal, get_args

from bursar.core import decisions as recorded
from bursar.core.decisions import RuleAsked
from bursar.core.directory import LimitDef, Mode, Policy

Control = Literal[
    "networks",
    "user",
    "limits",
    "models",
    "purposes",
    "prompt",
    "max_tokens",
    "tools",
    "stop",
    "unpriced",
    "guard",
]
CONTROLS: dict[str, tuple[str, ...]] = {
    "networks": ("networks",),
    "user": ("user_missing", "user_header"),
    "limits": ("limits",),
    "models": ("models",),
    "purposes": ("purposes",),
    "prompt": ("max_prompt_chars", "max_input_tokens", "external"),
    "max_tokens": ("max_tokens_cap", "max_tokens_default", "max_tokens_profile", "external"),
    "tools": ("tool_uses_cap",),
    "stop": ("stop",),
    "unpriced": ("unpriced",),
    "guard": (),
}
"""Each control with the policy fields that it governs; the guard's screens are the node's, and a level only says how
they are taken. The other fields permit something or choose a manner: there is nothing in them to refuse a call by."""

STRENGTH: dict[Mode, int] = {"off": 0, "shadow": 1, "enforce": 2}
assert set(CONTROLS) == set(get_args(Control))


def would_refuse(control: recorded.Control, rule: str, word: str, says: str = "") -> RuleAsked:
    """A rule without numbers, in shadow, that would have refused a call. `says`: what it allows."""
    return RuleAsked(control=control, rule=rule, mode="shadow", verdict="refuses", word=word, says=says[:300])


def would_clamp(control: recorded.Control, rule: str, unit: str, asked: int | None, limit: int | None) -> RuleAsked:
    """A rule in shadow that would have changed a call. `asked` None = the caller gave no number."""
    return RuleAsked(control=control, rule=rule, mode="shadow", verdict="clamps", unit=unit, asked=asked, limit=limit)


def mode_of(policy: Policy, control: Control) -> Mode:
    """How a level wants what it states on a control to be taken."""
    return policy.modes.get(control, "enforce")


def mode_of_limit(policy: Policy, limit: LimitDef) -> Mode:
    """A limit's own mode, or that of its policy's limits."""
    return limit.mode or mode_of(policy, "limits")


def states(policy: Policy, control: Control) -> bool:
    """Whether a level says anything that the control could refuse or change a call by."""
    return any(getattr(policy, field) not in (None, False, ()) for field in CONTROLS[control])
