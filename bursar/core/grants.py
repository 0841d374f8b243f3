"""What a token may do: its scopes, which only ever narrow what stands behind it.

A scope is one word of the `scope` claim (RFC 6749 §3.3), a name and a value::

    model:gpt-4o-mini  model:claude-*     these models only
    purpose:inference                     these purposes only
    max_tokens:500                        so much output a call
    budget_usd:0.50                       so much money in the token's whole life: a hard budget of its own
    network:10.0.0.0/8                    from there only
    caller:nightly-42                     whom it is for; for the ledger

A name that is left out narrows nothing. `narrow` lays a grant over the plan of the key or trust rule behind it.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from bursar.core.directory import BudgetDef, WindowDef
from bursar.core.errors import Refusal
from bursar.core.ledger_budget import TOKEN_BUDGET
from bursar.core.networks import read_network, read_networks
from bursar.core.units import NS_PER_S, pico_to_usd, usd_to_pico

if TYPE_CHECKING:
    from bursar.core.plans import KeyPlan

MAX_SCOPE = 2_048  # characters
MAX_BUDGET_PICO = 10**6 * 10**12  # a million USD: beyond it somebody mistook the unit
_WORD = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+", re.ASCII)  # RFC 6749 §3.3 scope-token
_CALLER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:/-]{0,99}", re.ASCII)
_MAX_TOKENS = 10**9


class Scopes(msgspec.Struct, frozen=True, kw_only=True):
    """None = says nothing about it."""

    models: tuple[str, ...] | None = None
    purposes: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    max_tokens: int | None = None
    budget_pico: int | None = None
    caller: str = ""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """One token: whose it is, what it may do, until when. `parent` is the id of the plan that it narrows."""

    jti: str
    kind: Literal["token", "federation"]
    parent: str  # a virtual key's public id, or "trust:" and the rule's id
    expires_at: int  # ns
    scopes: Scopes
    kid: str = ""  # of the key that signed it: when that is withdrawn, the token goes
    secret: str = ""  # digest prefix (hex) of the key's secret that was exchanged: when that goes, the token goes


@lru_cache(maxsize=512)  # the tokens of one application say mostly the same
def parse_scopes(text: str) -> Scopes:
    """Raises Refusal(scope_invalid) naming the word."""
    if len(text) > MAX_SCOPE:
        raise Refusal("scope_invalid", f"The scope has more than {MAX_SCOPE} characters", "Ask for less")
    found: dict[str, list[str]] = {}
    for word in text.split(" "):
        if word:
            name, colon, value = word.partition(":")
            if not colon or not value or name not in _READERS or not _WORD.fullmatch(word):
                raise _unknown(word)
            found.setdefault(name, []).append(value)
    values: dict[str, object] = {}
    for name, given in found.items():
        field, many, reader = _READERS[name]
        try:
            read = tuple(dict.fromkeys(reader(value) for value in given))
        except ValueError as fault:
            raise Refusal("scope_invalid", f"The scope {name}: {fault}", _HINT) from None
        if not many and len(given) > 1:
            raise Refusal("scope_invalid", f"The scope {name} is given twice", "Give it once")
        values[field] = read if many else read[0]
    return Scopes(**values)  # type: ignore[arg-type]  # each field by its own reader


def render_scopes(scopes: Scopes) -> str:
    """The text that `parse_scopes` reads back as the same."""
    words = [f"model:{model}" for model in scopes.models or ()]
    words += [f"purpose:{purpose}" for purpose in scopes.purposes or ()]
    words += [f"network:{network}" for network in scopes.networks or ()]
    if scopes.max_tokens is not None:
        words.append(f"max_tokens:{scopes.max_tokens}")
    if scopes.budget_pico is not None:
        words.append(f"budget_usd:{pico_to_usd(scopes.budget_pico)}")
    if scopes.caller:
        words.append(f"caller:{scopes.caller}")
    return " ".join(words)


def narrow(plan: "KeyPlan", grant: Grant) -> "KeyPlan":
    """The plan under a token. Every rule of the plan stays; the grant's come on top, enforced."""
    scopes, rules, tried = grant.scopes, plan.enforced, plan.tried
    budget = budget_of(plan, grant)
    ends = grant.expires_at if plan.expires_at is None else min(plan.expires_at, grant.expires_at)
    return replace(
        plan,
        enforced=replace(
            rules,
            models=rules.models if scopes.models is None else (*rules.models, scopes.models),
            purposes=_both(rules.purposes, scopes.purposes),
            cap=_least(rules.cap, scopes.max_tokens),
            networks=rules.networks if scopes.networks is None else (*rules.networks, read_networks(scopes.networks)),
        ),
        tried=None if tried is None else replace(tried, cap=_least(tried.cap, scopes.max_tokens)),
        expires_at=ends,
        fixed_budgets=plan.fixed_budgets if budget is None else (*plan.fixed_budgets, budget),
        credential=grant.kind,
        caller=scopes.caller,
        grant=grant,
        parent=plan,
        **{name: {} for name in _memos(plan)},  # what the parent remembers was decided by its own rules
    )


def token_revoked(
    message: str = "The token was revoked, or the key or trust rule that it stands on was removed",
) -> Refusal:
    return Refusal("token_revoked", message, "Fetch a new one: POST /oauth/token")


def _memos(plan: "KeyPlan") -> Iterable[str]:
    """The fields in which a plan remembers what it has worked out."""
    return (name for name in plan.__struct_fields__ if name.startswith("_"))


def budget_of(plan: "KeyPlan", grant: Grant) -> BudgetDef | None:
    """The token's own money: hard, for its whole life, in the ledger under an id that says when it may be forgotten."""
    limit = grant.scopes.budget_pico
    if limit is None:
        return None
    return BudgetDef(
        id=f"{TOKEN_BUDGET}{grant.expires_at // NS_PER_S}:{grant.jti}",
        version=1,
        subject_kind="key",
        subject=plan.key_id,
        limit_pico=limit,
        hard=True,
        window=WindowDef(kind="lifetime"),
        thresholds=(),
        name=f"token {grant.jti}",
    )


def _both(rules: frozenset[str] | None, asked: tuple[str, ...] | None) -> frozenset[str] | None:
    if asked is None:
        return rules
    return frozenset(asked) if rules is None else rules & frozenset(asked)


def _least(rule: int | None, asked: int | None) -> int | None:
    return min((value for value in (rule, asked) if value is not None), default=None)


# ---- readers of one value; each raises ValueError


def _model(text: str) -> str:
    if len(text) > 200:
        raise ValueError("a name has at most 200 characters")
    return text


def _purpose(text: str) -> str:
    if not text.replace("_", "").isalnum():
        raise ValueError(f"`{text[:40]}` is no purpose")
    return text


def _network(text: str) -> str:
    try:
        return str(read_network(text))
    except ValueError:
        raise ValueError(f"`{text[:64]}` is no CIDR block") from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:11]) <= _MAX_TOKENS):
        raise ValueError("wants a number of tokens above zero")
    return int(text)


def _money(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text, re.ASCII):
        raise ValueError("wants an amount of USD, such as 0.50")
    amount = usd_to_pico(text)
    if not 0 < amount <= MAX_BUDGET_PICO:
        raise ValueError("wants an amount above 0 and up to 1000000 USD")
    return amount


def _caller(text: str) -> str:
    if not _CALLER.fullmatch(text):
        raise ValueError("wants at most 100 of A-Z a-z 0-9 _ . @ : / -")
    return text


_READERS: dict[str, tuple[str, bool, Callable[[str], object]]] = {
    "model": ("models", True, _model),
    "purpose": ("purposes", True, _purpose),
    "network": ("networks", True, _network),
    "max_tokens": ("max_tokens", False, _count),
    "budget_usd": ("budget_pico", False, _money),
    "caller": ("caller", False, _caller),
}
_HINT = f"Scopes are {', '.join(_READERS)}, each as name:value, with blanks between"


def _unknown(word: str) -> Refusal:
    return Refusal("scope_invalid", f"`{word[:60]}` is no scope", _HINT)


def known_scopes() -> Iterable[str]:
    """Names, for the discovery document."""
    return _READERS
