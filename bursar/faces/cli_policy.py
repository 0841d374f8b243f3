"""Policies as people write them on the command line: ``--set field=value`` and ``--limit requests=60/1m``."""

from typing import Annotated, Any, get_args

import msgspec
import typer
from msgspec import inspect

from bursar.core.directory import LimitUnit, Mode, Policy
from bursar.core.strict import suggest
from bursar.core.units import format_duration
from bursar.faces.cli_terminal import USAGE, Trouble, seconds

SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A policy field; lists with commas; `none` clears it. Repeat.",
        default_factory=list,
        show_default=False,
    ),
]
LimitOption = Annotated[
    list[str],
    typer.Option(
        "--limit",
        metavar="UNIT=N/SPAN",
        help="requests=60/1m, tokens=100000/1m, concurrency=8; then ,burst=N or ,mode=shadow. Repeat.",
        default_factory=list,
        show_default=False,
    ),
]

_FIELDS = {field.encode_name: field.type for field in inspect.type_info(Policy).fields if field.name != "limits"}  # type: ignore[attr-defined]


def policy_patch(sets: list[str], limits: list[str]) -> dict[str, Any] | None:
    """A merge patch for the API's `policy`; None when nothing was said. Raises Trouble."""
    patch: dict[str, Any] = {}
    for item in sets:
        name, equals, value = item.partition("=")
        name, _, inner = name.strip().replace("-", "_").partition(".")
        if not equals or name not in _FIELDS:
            known = suggest(name, _FIELDS)
            raise Trouble(f"`{item}` names no field of a policy", known or "Write --set models='gpt-4o*'", USAGE)
        if inner:
            patch.setdefault(name, {})[inner] = None if value == "none" else value
        else:
            patch[name] = _value(name, value.strip())
    if limits:
        patch["limits"] = None if limits == ["none"] else [_limit(item) for item in limits]
    return patch or None


def _value(name: str, text: str) -> Any:
    if text == "none":
        return None
    kinds = _kinds(_FIELDS[name])
    if inspect.VarTupleType in kinds:
        return [part.strip() for part in text.split(",") if part.strip()]
    if inspect.IntType in kinds:
        try:
            return int(text.replace("_", ""))
        except ValueError:
            raise Trouble(f"{name} wants a whole number, not `{text}`", f"Write --set {name}=512", USAGE) from None
    if inspect.BoolType in kinds:
        if text.lower() not in {"true", "false", "yes", "no"}:
            raise Trouble(f"{name} is yes or no, not `{text}`", f"Write --set {name}=yes", USAGE)
        return text.lower() in {"true", "yes"}
    return text


def _kinds(kind: inspect.Type) -> set[type]:
    return {type(part) for part in kind.types} if isinstance(kind, inspect.UnionType) else {type(kind)}


def _limit(text: str) -> dict[str, Any]:
    """``[SCOPE:]UNIT=AMOUNT[/SPAN][,burst=N][,mode=shadow]`` -> a LimitDef without its id."""
    head, *more = text.split(",")
    said = dict(item.partition("=")[::2] for item in more)
    burst, mode = said.pop("burst", ""), said.pop("mode", "")
    if said or mode not in ("", *get_args(Mode)):
        raise Trouble(f"`{text}` is not a limit", "Write --limit requests=60/1m,burst=10,mode=shadow", USAGE)
    unit_text, equals, amount_text = head.partition("=")
    scope, _, unit = unit_text.rpartition(":")
    amount, _, span = amount_text.partition("/")
    units = get_args(LimitUnit)
    if not equals or unit not in units:
        raise Trouble(f"`{text}` is not a limit", f"Write --limit requests=60/1m; units: {', '.join(units)}", USAGE)
    try:
        limit: dict[str, Any] = {"unit": unit, "amount": int(amount.replace("_", ""))}
        if burst:
            limit["burst"] = int(burst.replace("_", ""))
    except ValueError:
        raise Trouble(f"`{text}` has no number", "Write --limit requests=60/1m,burst=10", USAGE) from None
    if span:
        limit["per_seconds"] = seconds(span if span[0].isdigit() else f"1{span}")
    if scope:
        limit["scope"] = scope
    if mode:
        limit["mode"] = mode
    return limit


def policy_facts(policy: dict[str, Any]) -> dict[str, str]:
    """A policy as lines for a card."""
    facts = {name: _shown(value) for name, value in policy.items() if name != "limits"}
    limits = msgspec.convert(policy.get("limits", []), list[dict[str, Any]])
    return facts | {f"limit {limit.get('id', '')}": limit_text(limit) for limit in limits}


def limit_text(limit: dict[str, Any]) -> str:
    mode = f" ({limit['mode']})" if limit.get("mode") else ""
    if limit["unit"] == "concurrency":
        return f"{limit['amount']} calls in flight per {limit.get('scope', 'key')}{mode}"
    burst = f", burst {limit['burst']}" if limit.get("burst") else ""
    span = format_duration(limit.get("per_seconds", 60))
    return (
        f"{limit['amount']:,} {limit['unit'].replace('_', ' ')} in {span} per {limit.get('scope', 'key')}{burst}{mode}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
