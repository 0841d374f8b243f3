"""What a policy may say, and whether a key's policy stays within its team's. Pure."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, get_args

import msgspec
from msgspec.structs import replace

from bursar.core.controls import CONTROLS, STRENGTH
from bursar.core.directory import LimitDef, Mode, Policy
from bursar.core.errors import Refusal
from bursar.core.networks import is_inside, read_networks
from bursar.core.strict import suggest

_MAX_AMOUNT = 10**12
_MAX_MODEL = 200
_MAX_STOPS = 4  # OpenAI's own bound on stop sequences
_COUNTS = ("max_tokens_default", "max_tokens_cap", "max_input_tokens", "max_prompt_chars", "tool_uses_cap")


def check_policy(policy: Policy) -> Policy:
    """The policy with an id on each limit. Raises Refusal(invalid_input) naming the first field that is wrong."""
    for refusal in faults_of(policy):
        raise refusal
    return named(policy)


def named(policy: Policy) -> Policy:
    """The policy with an id on each limit, after its scope, unit and span."""
    if all(limit.id for limit in policy.limits):
        return policy
    return replace(policy, limits=tuple(replace(limit, id=_limit_id(limit)) for limit in policy.limits))


def faults_of(policy: Policy) -> Iterator[Refusal]:
    """Everything that a policy may not say, as Refusals(invalid_input) naming the field."""
    for name in _COUNTS:
        value = getattr(policy, name)
        if value is not None and not 0 < value <= _MAX_AMOUNT:
            yield _invalid(name, "must be a positive whole number")
    if policy.models is not None and not all(0 < len(pattern.strip()) <= _MAX_MODEL for pattern in policy.models):
        yield _invalid("models", "holds an empty or overlong name")
    if policy.user_header is not None and not policy.user_header.replace("-", "").isalnum():
        yield _invalid("user_header", "is not a header name")
    if policy.stop is not None and len(policy.stop) > _MAX_STOPS:
        yield _invalid("stop", f"has more than {_MAX_STOPS} sequences")
    try:
        read_networks(policy.networks or ())
    except ValueError:
        yield _invalid("networks", "holds something that is no CIDR block, such as 10.0.0.0/8")
    for control, mode in policy.modes.items():
        if control not in CONTROLS:
            yield _no_control(control)
        elif mode not in get_args(Mode):
            yield _invalid(f"modes.{control}", f"is none of {', '.join(get_args(Mode))}")
    yield from _limit_faults(policy.limits)


def _limit_faults(limits: Iterable[LimitDef]) -> Iterator[Refusal]:
    seen: set[str] = set()
    for limit in limits:
        its_id = _limit_id(limit)
        if its_id in seen:
            yield _invalid("limits", f"holds {its_id!r} twice; give them ids")
        if not 0 < limit.amount <= _MAX_AMOUNT or limit.per_seconds <= 0:
            yield _invalid(f"limits.{its_id}", "needs a positive amount and span")
        if limit.burst is not None and limit.burst <= 0:
            yield _invalid(f"limits.{its_id}", "needs a positive burst, or none")
        seen.add(its_id)


def _limit_id(limit: LimitDef) -> str:
    return limit.id or f"{limit.scope}-{limit.unit}-{limit.per_seconds}s"


def _invalid(field: str, problem: str, hint: str = "Correct the field and repeat") -> Refusal:
    return Refusal("invalid_input", f"policy.{field} {problem}", hint, facts={"field": field})


def _no_control(name: str) -> Refusal:
    if name == "budgets":
        hint = "A budget has its own mode: bursar budgets update ID --mode shadow"
    else:
        hint = suggest(name, CONTROLS) or f"Controls are: {', '.join(CONTROLS)}"
    return _invalid(f"modes.{name[:40]}", "names no control", hint)


class Widening(msgspec.Struct, frozen=True):
    """One field in which a key would allow more than its team."""

    field: str
    team: str
    key: str


def widened_by(team: Policy, key: Policy) -> list[Widening]:
    """The fields in which `key` reaches beyond `team`. What a policy leaves out, it does not speak about."""
    return [
        Widening(name, _text(getattr(team, name)), _text(getattr(key, name)))
        for name, wider in _WIDER.items()
        if getattr(team, name) is not None and getattr(key, name) is not None
        if wider(getattr(team, name), getattr(key, name))
    ] + [
        Widening(f"modes.{control}", team.modes[control], mode)
        for control, mode in key.modes.items()
        if control in team.modes and STRENGTH[mode] < STRENGTH[team.modes[control]]
    ]


def check_narrows(team_id: str, team: Policy, key: Policy) -> None:
    """Raises Refusal(policy_widens) that names the fields."""
    wider = widened_by(team, key)
    if not wider:
        return
    told = "; ".join(f"{w.field}: the team has {w.team}, the key asks for {w.key}" for w in wider)
    hint = f"Narrow the key's policy, or widen the team's: bursar teams update {team_id} --set FIELD=VALUE"
    fields = ", ".join(w.field for w in wider)
    raise Refusal(
        "policy_widens", f"The key would allow more than team {team_id!r}: {told}", hint, facts={"field": fields}
    )


def _beyond(team: int, key: int) -> bool:
    return key > team


def _uncovered(team: tuple[str, ...], key: tuple[str, ...]) -> bool:
    return not all(any(covers(theirs, pattern) for theirs in team) for pattern in key)


def _outside(team: tuple[str, ...], key: tuple[str, ...]) -> bool:
    return not all(is_inside(network, team) for network in key)


def _looser(*from_strict_to_loose: object) -> Callable[[Any, Any], bool]:
    return lambda team, key: from_strict_to_loose.index(key) > from_strict_to_loose.index(team)


def _different(team: str, key: str) -> bool:
    return key.lower() != team.lower()


_WIDER: dict[str, Callable[[Any, Any], bool]] = {
    "models": _uncovered,
    "purposes": _uncovered,
    "max_tokens_profile": _looser("conservative", "standard"),
    "max_tokens_cap": _beyond,
    "over_max_tokens": _looser("refuse", "clamp"),
    "max_input_tokens": _beyond,
    "max_prompt_chars": _beyond,
    "external": _looser(True, False),
    "user_header": _different,
    "user_missing": _looser("deny", "shared"),
    "unpriced": _looser("refuse", "assume_dearest"),
    "unknown_fields": _looser("refuse", "allow"),
    "tool_uses_cap": _beyond,
    "networks": _outside,
}
"""Fields that permit something. The others choose a manner (defaults, stop sequences, drain or abort), and limits of
key and team both bind, so that no key can loosen them."""


def covers(pattern: str, other: str) -> bool:
    """Whether every name that the glob `other` matches is matched by `pattern`. In doubt (brackets): only if equal.

    `*` stands for any run of characters, `?` for one. An asterisk in `other` must meet an asterisk in `pattern`.
    """
    if pattern in {other, "*"}:
        return True
    if "[" in pattern or "[" in other:
        return False

    @cache
    def matches(i: int, j: int) -> bool:
        if i == len(pattern):
            return j == len(other)
        if pattern[i] == "*":
            return matches(i + 1, j) or (j < len(other) and matches(i, j + 1))
        if j == len(other) or other[j] == "*":
            return False
        return (pattern[i] == "?" or pattern[i] == other[j]) and matches(i + 1, j + 1)

    return matches(0, 0)


def _text(value: object) -> str:
    return (
        ", ".join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )
