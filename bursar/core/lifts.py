"""Who can lift a refusal, and by which command: for every word that a call can be refused in.

Pure: from the decision, and from what the directory says now of the key, the team and the budget that it names.
Commands are those of the CLI, ready to be pasted; where a person has to choose, a word in capitals stands.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from bursar.core.compiling import PROFILES
from bursar.core.decisions import Decision, RuleAsked, number
from bursar.core.directory import BudgetDef, LimitDef, Policy, Team, VirtualKey
from bursar.core.ledger_budget import TOKEN_BUDGET
from bursar.core.lift_words import ELSEWHERE, PLAIN, Lift, by_role
from bursar.core.plans import matches
from bursar.core.roles import RIGHTS
from bursar.core.units import PICO_PER_USD, format_duration, pico_to_usd


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the directory and the ledger say now. None = gone, or none is named."""

    decision: Decision
    key: VirtualKey | None = None
    team: Team | None = None
    budget: BudgetDef | None = None
    used_pico: int | None = None  # of that budget, now


def lifts_of(known: Known) -> tuple[Lift, ...]:
    """At least one for every word; none for a call that was allowed."""
    word = known.decision.word
    if not word:
        return ()
    made = tuple(_MAKERS[word](known)) if word in _MAKERS else ()
    return (*made, *PLAIN.get(word, ())) or (ELSEWHERE,)


def explained(word: str) -> bool:
    """Whether this word has ways out of its own: every word that a call can meet has."""
    return word in _MAKERS or word in PLAIN


# ---- who is off


def _key_disabled(known: Known) -> Iterator[Lift]:
    key, team = known.key, known.team
    if key is None:
        team_id = known.decision.team_id or "TEAM"
        create = ("keys", "create", "--team", team_id, "--name", "NAME")
        yield by_role("administer", "The key was removed for ever: make another", *create)
        return
    if key.disabled:
        yield by_role("operate", "Switch the key on", "keys", "enable", key.id)
    if team is not None and team.disabled:
        yield by_role("operate", "Switch the team on", "teams", "enable", team.id)
    if not key.disabled and (team is None or not team.disabled):
        yield Lift(who="nobody", says="It was switched on again since: retry")


def _key_expired(known: Known) -> Iterator[Lift]:
    key_id = known.decision.key_id or "KEY"
    yield Lift(who="caller", says="If the key has been given a new text, use that one")
    yield by_role("administer", "Let the key live on", "keys", "update", key_id, "--expires", "90d")
    yield by_role("operate", "Or give it a new text", "keys", "rotate", key_id)


# ---- policies


def _levels(known: Known) -> list[tuple[str, str, Policy]]:
    """(command group, id, policy) of the team and of the key."""
    found = [("teams", known.team.id, known.team.policy)] if known.team is not None else []
    return found + ([("keys", known.key.id, known.key.policy)] if known.key is not None else [])


def _set(known: Known, says: str, change: Callable[[Policy], str]) -> Iterator[Lift]:
    """A command for each level at which `change` gives FIELD=VALUE."""
    for group, name, policy in _levels(known):
        assignment = change(policy)
        if assignment:
            yield by_role("administer", f"{says} ({group[:-1]} {name})", group, "update", name, "--set", assignment)


def _models(known: Known) -> Iterator[Lift]:
    asked = known.decision.call.model if known.decision.call is not None else ""
    yield Lift(who="caller", says="Ask for a model that GET /v1/models lists")
    if asked and "," not in asked and asked.isprintable():
        yield from _set(
            known,
            "Allow the model",
            lambda policy: (
                ""
                if policy.models is None or matches(policy.models, asked)
                else f"models={','.join((*policy.models, asked))}"
            ),
        )


def _purposes(known: Known) -> Iterator[Lift]:
    asked = known.decision.call.purpose if known.decision.call is not None else "inference"
    yield from _set(
        known,
        "Allow the purpose",
        lambda policy: (
            ""
            if policy.purposes is None or asked in policy.purposes
            else f"purposes={','.join((*policy.purposes, asked))}"
        ),
    )


def _max_tokens(known: Known) -> Iterator[Lift]:
    asked, limit = _numbers(known.decision)
    yield Lift(who="caller", says=f"Ask for at most {limit} output tokens" if limit else "Ask for fewer output tokens")

    def cap(policy: Policy) -> str:
        small = policy.max_tokens_profile == "conservative" or policy.external
        present = policy.max_tokens_cap or (PROFILES["conservative"] if small else None)
        return f"max_tokens_cap={asked}" if present is not None and present < asked else ""

    yield from _set(known, "Raise the cap on output", cap)


def _prompt(known: Known) -> Iterator[Lift]:
    size, _ = _numbers(known.decision)
    rule = known.decision.binding
    field = rule.rule if rule is not None else "max_prompt_chars"

    def cap(policy: Policy) -> str:
        present = getattr(policy, field, None)
        stated = present is not None or (field == "max_prompt_chars" and policy.external)
        return f"{field}={size}" if stated and (present is None or present < size) else ""

    yield Lift(who="caller", says="Shorten or split the prompt")
    yield from _set(known, "Raise the cap on prompts", cap)


def _networks(known: Known) -> Iterator[Lift]:
    address = str(known.decision.facts.get("address", "")) or "ADDRESS"
    yield Lift(who="caller", says="Call from a network that the key is bound to")
    yield from _set(
        known,
        "Let the key be used from there",
        lambda policy: "" if policy.networks is None else f"networks={','.join((*policy.networks, address))}",
    )


def _user(known: Known) -> Iterator[Lift]:
    header = next((policy.user_header for *_, policy in reversed(_levels(known)) if policy.user_header), "the header")
    yield Lift(who="caller", says=f"Name a user in {header}")
    yield from _set(
        known, "Or count calls without one together", lambda policy: "user_missing=shared" if policy.user_header else ""
    )


def _unpriced(known: Known) -> Iterator[Lift]:
    decision = known.decision
    asked = decision.call.model if decision.call is not None else ""
    model = f"{decision.provider or 'PROVIDER'}/{asked or 'MODEL'}"
    says = "Give the model a price: USD per million tokens in the place of IN and OUT"
    yield by_role("administer", says, "prices", "set", model, "--input", "IN", "--output", "OUT")
    yield from _set(
        known,
        "Or price it as the provider's dearest",
        lambda policy: "unpriced=assume_dearest" if policy.unpriced == "refuse" else "",
    )


def _unbounded(known: Known) -> Iterator[Lift]:
    call = known.decision.call
    yield Lift(who="caller", says="Cap or leave out what has no bound: see the message that came with the answer")
    if call is not None and call.unknown_fields:
        says = "Take fields that Bursar does not know as harmless"
        yield from _set(known, says, lambda policy: "" if policy.unknown_fields == "allow" else "unknown_fields=allow")
    if call is not None and any(tool.max_uses is None for tool in call.server_tools):
        yield from _set(known, "Cap the uses of tools", lambda _policy: "tool_uses_cap=5")
    if known.budget is not None:
        says = "Or refuse by what is expected instead of the worst case"
        yield by_role("administer", says, "budgets", "update", known.budget.id, "--soft")


def _numbers(decision: Decision) -> tuple[int, int]:
    """(asked, limit) of the rule that refused."""
    rule = decision.binding
    facts = decision.facts
    asked = number(rule.asked) if rule is not None else 0
    return asked or int(facts.get("asked", 0)), number(rule.limit) if rule is not None else int(facts.get("limit", 0))


# ---- rates


def _rates(known: Known) -> Iterator[Lift]:
    rule = known.decision.binding
    after = known.decision.retry_after
    if known.decision.word == "concurrency_limited":
        yield Lift(who="time", says="Retry when a call in flight has ended")
    else:
        yield Lift(who="time", says=f"Retry after {max(1, round(after))} s" if after else "Slow down")
    if rule is None:
        return
    for group, name, policy in _levels(known):
        limits = policy.limits
        if not any(_is_meant(limit, rule) for limit in limits):
            continue
        if any(limit.on_outage == "closed" for limit in limits):
            says = f"Raise the limit {rule.rule!r} of {group[:-1]} {name} by PATCH /v1/admin/{group}/{name}"
            roles = tuple(role for role, rights in RIGHTS.items() if "administer" in rights)
            yield Lift(who="role", says=says, roles=roles)
            continue
        texts = [_limit_text(_doubled(limit) if _is_meant(limit, rule) else limit) for limit in limits]
        flags = [part for text in texts for part in ("--limit", text)]
        yield by_role("administer", f"Double the limit {rule.rule!r}", group, "update", name, *flags)


def _is_meant(limit: LimitDef, rule: RuleAsked) -> bool:
    return limit.id == rule.rule and limit.unit == rule.unit


def _doubled(limit: LimitDef) -> LimitDef:
    burst = None if limit.burst is None else max(1, limit.burst * 2)
    return msgspec.structs.replace(limit, amount=max(1, limit.amount * 2), burst=burst)


def _limit_text(limit: LimitDef) -> str:
    """As `--limit` takes it."""
    scope = "" if limit.scope == "key" else f"{limit.scope}:"
    span = "" if limit.unit == "concurrency" else f"/{format_duration(limit.per_seconds)}"
    burst = "" if limit.burst is None else f",burst={limit.burst}"
    mode = "" if limit.mode is None else f",mode={limit.mode}"
    return f"{scope}{limit.unit}={limit.amount}{span}{burst}{mode}"


# ---- money


def _budget(known: Known) -> Iterator[Lift]:
    decision, budget = known.decision, known.budget
    word, rule = decision.word, decision.binding
    facts = decision.facts
    if "window_ends" in facts:
        yield Lift(who="time", says=f"Wait until {facts['window_ends']}")
    if word == "held_by_requests_in_flight":
        yield Lift(who="time", says="Retry when calls in flight have ended: what they do not use comes back")
    if word == "can_never_fit":
        yield Lift(who="caller", says="Lower max_tokens, or send less")
    if rule is not None and rule.rule.startswith(TOKEN_BUDGET):
        yield Lift(who="caller", says="The token's own budget is spent: fetch a new token")
        return
    if budget is None or budget.deleted:
        yield Lift(who="nobody", says="The budget was removed since: retry")
        return
    asked = number(rule.asked) if rule is not None else int(facts.get("asked_pico", 0))
    used = known.used_pico if known.used_pico is not None else number(rule.used if rule is not None else 0)
    needed = used + asked
    if needed <= budget.limit_pico and budget.mode == "enforce":
        yield Lift(who="nobody", says="By now this call would fit: retry")
        return
    yield by_role(
        "administer", "Raise the limit so that this call fits", "budgets", "raise", budget.id, _dollars(needed)
    )
    if budget.hard and word != "held_by_requests_in_flight":
        for group, name, policy in _levels(known)[-1:]:  # the key's word counts, else the team's
            if not policy.shrink_to_budget:
                cut = ("update", name, "--set", "shrink_to_budget=yes")
                yield by_role("administer", "Or let answers be cut to what is left", group, *cut)


def _dollars(pico: int) -> str:
    """Rounded up to a cent."""
    cent = PICO_PER_USD // 100
    return f"${pico_to_usd(-(-pico // cent) * cent)}"


Maker = Callable[[Known], Iterable[Lift]]
_MAKERS: dict[str, Maker] = {
    "key_disabled": _key_disabled,
    "key_expired": _key_expired,
    "network_not_allowed": _networks,
    "user_required": _user,
    "model_not_allowed": _models,
    "purpose_not_allowed": _purposes,
    "max_tokens_exceeded": _max_tokens,
    "prompt_too_large": _prompt,
    "unpriced_model": _unpriced,
    "unbounded_request": _unbounded,
    "rate_limited": _rates,
    "concurrency_limited": _rates,
    "budget_exhausted": _budget,
    "held_by_requests_in_flight": _budget,
    "can_never_fit": _budget,
}
