"""The playbook as live lines: each passes, fails with the commands that mend it, or cannot be seen from here.

Computed from what the directory, the stores and the ledger say now; nothing is kept, nothing is called.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from bursar.control.directory import Directory
from bursar.control.key_map import MapLine
from bursar.control.observing import is_closed
from bursar.control.usage import Usage
from bursar.control.wrapping_keys import RingState
from bursar.core.directory import Admin, BudgetDef, LimitDef, LimitUnit, Owner, Policy, Team, VirtualKey
from bursar.core.ledger_records import OBSERVED, SWAPPED, UsageRow
from bursar.core.observing import is_passed_on
from bursar.core.units import NS_PER_S

Verdict = Literal["pass", "fail", "unseen"]

_DAY_NS = 86_400 * NS_PER_S
_WINDOW_NS = 7 * _DAY_NS  # how far back use is looked at
_LONGEST_KEY_NS = 91 * _DAY_NS  # 90, and a day for clocks that differ
_MOST_GROUPS = 10_000  # a team has three at most
_NAMED = 3  # so many of those concerned are named; the count says the rest
_STATIC = ("/key", f"/{OBSERVED}", f"/{SWAPPED}")  # what was shown, behind the team's name
_TOKENS: frozenset[LimitUnit] = frozenset({"tokens", "input_tokens", "output_tokens"})


class CheckLine(msgspec.Struct, frozen=True, kw_only=True):
    """`mend`: commands to type, in order; words in capitals are for the reader to choose."""

    id: str
    title: str
    verdict: Verdict
    told: str
    mend: tuple[str, ...] = ()


class Reads(Protocol):
    async def read(self) -> list[MapLine]: ...


class Ring(Protocol):
    async def state(self) -> RingState: ...


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the lines are decided from. `by_credential`: calls of the last seven days."""

    now: int  # ns
    provider_keys: Sequence[MapLine]
    owners: Sequence[Owner]
    teams: Mapping[str, Team]  # enabled ones
    keys: Sequence[VirtualKey]  # enabled, of an enabled team, not expired; without those that are observed only
    presented: Sequence[VirtualKey]  # ... those whose provider key still lets its application in
    budgets: Sequence[BudgetDef]
    admins: Sequence[Admin]
    by_credential: Sequence[UsageRow]
    ring: RingState
    copies: Sequence[str]  # sinks and files that hold the audit outside its own database
    open_stores: frozenset[str]  # secret stores whose values lie open: environment variables


class Checklist:
    """`copies`, `open_stores`: see `Facts`; they are the node's configuration."""

    def __init__(
        self,
        directory: Directory,
        key_map: Reads,
        usage: Usage,
        ring: Ring,
        copies: Sequence[str],
        open_stores: frozenset[str],
    ) -> None:
        self._directory, self._key_map, self._usage, self._ring = directory, key_map, usage, ring
        self._copies, self._open_stores = tuple(copies), open_stores

    async def read(self) -> list[CheckLine]:
        """Every line, in the order in which a first day goes. Raises the refusals of stores and ledger."""
        facts = await self._facts()
        return [check(facts) for check in CHECKS]

    async def _facts(self) -> Facts:
        book, now = self._directory.book, self._directory.now()
        teams = {team.id: team for team in book.all(Team) if not team.disabled}
        living = [key for key in book.all(VirtualKey) if _lives(key, teams, now)]
        used = await self._usage.report(("credential",), now - _WINDOW_NS, now, _MOST_GROUPS, "")
        return Facts(
            now=now,
            provider_keys=[line for line in await self._key_map.read() if not line.disabled],
            owners=book.all(Owner),
            teams=teams,
            keys=[key for key in living if not is_passed_on(key.observed)],
            presented=[key for key in living if key.observed is not None and not is_closed(key, now)],
            budgets=[one for one in book.all(BudgetDef) if not one.deleted],
            admins=[admin for admin in book.all(Admin) if not admin.disabled],
            by_credential=used.rows,
            ring=await self._ring.state(),
            copies=self._copies,
            open_stores=self._open_stores,
        )


def _lives(key: VirtualKey, teams: Mapping[str, Team], now: int) -> bool:
    return not key.disabled and key.team_id in teams and (key.expires_at is None or key.expires_at > now)


# ---- the lines


def _stored(facts: Facts) -> CheckLine:
    title, put = "Provider keys are in a vault", "bursar secrets put PROVIDER < FILE"
    lying_open = [line for line in facts.provider_keys if line.store in facts.open_stores]
    if not facts.provider_keys:
        return _failed("vault", title, "none is stored yet: the emulator answers", put)
    if lying_open:
        told = f"{_some(lying_open, lambda line: line.address)} in environment variables"
        return _failed(
            "vault", title, told, *(f"bursar secrets put {one.address} < FILE" for one in lying_open[:_NAMED])
        )
    return _passed("vault", title, f"{len(facts.provider_keys)}, sealed or in a store of secrets")


def _swapped(facts: Facts) -> CheckLine:
    """Applications that still hold a provider key of their own."""
    title = "No application calls with a provider key"
    if facts.presented:
        mend = [
            f"bursar observe {'seal' if is_passed_on(key.observed) else 'close'} {key.id}"
            + (" < FILE" if is_passed_on(key.observed) else "")
            for key in facts.presented[:_NAMED]
        ]
        loose = sum(is_passed_on(key.observed) for key in facts.presented)
        told = f"{_some(facts.presented, lambda key: key.name)}: {loose} not in the vault"
        return _failed("swapped", title, told, *mend)
    return _passed("swapped", title, "none is observed, or let in beside its virtual key")


def _owned(facts: Facts) -> CheckLine:
    lost = [line for line in facts.provider_keys if {"unowned", "owner_gone"} & set(line.flags)]
    title = "Each provider key has a billing owner"
    if lost:
        mend = (f"bursar secrets tag {line.id} billing_owner=OWNER" for line in lost[:_NAMED])
        return _failed("owned", title, f"{_some(lost, lambda line: line.address)} without one", *mend)
    return _passed("owned", title, _all(facts.provider_keys, "provider key"))


def _tidy(facts: Facts) -> CheckLine:
    """Twins, strangers, the dead and the all too mighty."""
    title = "The inventory of provider keys is clean"
    ours = {"unowned", "owner_gone"}  # told by the line above
    odd = [line for line in facts.provider_keys if set(line.flags) - ours]
    if odd:
        flags = sorted({flag.replace("_", " ") for line in odd for flag in line.flags if flag not in ours})
        told = f"{_some(odd, lambda line: line.address)}: {', '.join(flags)}"
        return _failed("inventory", title, told, "bursar secrets map --flagged")
    return _passed("inventory", title, "nothing double, unused, expired or wider than it needs to be")


def _ending(facts: Facts) -> CheckLine:
    title = "Virtual keys end within 90 days"
    far = facts.now + _LONGEST_KEY_NS
    endless = [key for key in facts.keys if key.expires_at is None or key.expires_at > far]
    if endless:
        mend = (f"bursar keys update {key.id} --expires 90d" for key in endless[:_NAMED])
        return _failed("keys-end", title, f"not these: {_some(endless, lambda key: key.name)}", *mend)
    return _passed("keys-end", title, _all(facts.keys, "key"))


def _short_lived(facts: Facts) -> CheckLine:
    title = "Applications use 15-minute tokens"
    total = sum(row.attempts for row in facts.by_credential)
    static = sum(row.attempts for row in facts.by_credential if row.group.endswith(_STATIC))  # team/what was shown
    if not total:
        return _unseen("tokens", title, "no call in the last seven days")
    share = f"{total - static:,} of {total:,} calls of the last seven days came with a token"
    if static:
        return _failed("tokens", title, share, "bursar usage --by credential", "bursar token --watch FILE")
    return _passed("tokens", title, share)


def _rates(facts: Facts) -> CheckLine:
    title = "Requests and tokens are limited for each key"
    bare = [key for key in facts.keys if not _is_limited(key, facts.teams[key.team_id])]
    if bare:
        mend = (f"bursar teams update {team} --limit requests=60/1m --limit tokens=100000/1m" for team in _teams(bare))
        return _failed("rates", title, f"{_some(bare, lambda key: key.name)} without a limit of both", *mend)
    return _passed("rates", title, _all(facts.keys, "key"))


def _money(facts: Facts) -> CheckLine:
    title = "A hard budget stands over each key: its cost is held before it is sent"
    over = {(one.subject_kind, one.subject) for one in facts.budgets if one.hard and one.mode == "enforce"}
    bare = [key for key in facts.keys if not over & _subjects(key, facts.teams[key.team_id])]
    if bare:
        mend = (f"bursar budgets create team/{team} --limit '$50' --window month" for team in _teams(bare))
        return _failed("preflight", title, f"{_some(bare, lambda key: key.name)} under none", *mend)
    return _passed("preflight", title, _all(facts.keys, "key"))


def _capped(facts: Facts) -> CheckLine:
    title = "Answers have a cap"
    bare = [
        key for key in facts.keys if not (_caps_output(key.policy) or _caps_output(facts.teams[key.team_id].policy))
    ]
    if bare:
        mend = (f"bursar teams update {team} --set max_tokens_profile=standard" for team in _teams(bare))
        return _failed("caps", title, f"{_some(bare, lambda key: key.name)} without max_tokens", *mend)
    return _passed("caps", title, _all(facts.keys, "key"))


def _told(facts: Facts) -> CheckLine:
    title = "Each billing owner can be reached"
    silent = [owner for owner in facts.owners if not owner.contacts]
    if silent:
        mend = (f"bursar owners update {owner.id} --contact NAME@EXAMPLE.COM" for owner in silent[:_NAMED])
        return _failed("contacts", title, f"{_some(silent, lambda owner: owner.name)} without a contact", *mend)
    return _passed("contacts", title, _all(facts.owners, "owner"))


def _copied(facts: Facts) -> CheckLine:
    title = "The audit has a copy elsewhere"
    if facts.copies:
        return _passed("audit", title, ", ".join(facts.copies))
    told = "it lies in its own database alone: name a sink under audit.sinks in bursar.yaml (docs/audit.md)"
    return _failed("audit", title, told, "bursar check --connect")


def _people(facts: Facts) -> CheckLine:
    title = "Administrators have a name and a role"
    living = [admin for admin in facts.admins if admin.expires_at is None or admin.expires_at > facts.now]
    if living:
        return _passed("admins", title, f"{len(living)} besides the node's own token")
    return _failed("admins", title, "only the node's own token", "bursar admins create --name NAME --role operator")


def _recoverable(facts: Facts) -> CheckLine:
    title = "A second key opens the vault if the first is lost"
    if sum(key.seals for key in facts.ring.keys) < 2:
        return _failed("recovery", title, "there is one wrapping key", "bursar secrets recovery make --out FILE")
    if facts.ring.left:
        told = f"{facts.ring.left} of {facts.ring.values} values are not yet under both"
        return _failed("recovery", title, told, "bursar secrets rewrap")
    return _passed("recovery", title, "every value is sealed under both")


def _rotated(facts: Facts) -> CheckLine:
    del facts
    told = "this version neither schedules rotations nor knows of those done elsewhere"
    return _unseen("rotation", "Rotation is scheduled", told)


def _drilled(facts: Facts) -> CheckLine:
    del facts
    return _unseen("drill", "A leak was drilled", "this version knows of no drills: keep the record of yours elsewhere")


def _layers(facts: Facts) -> CheckLine:
    del facts
    told = "what limits calls before they reach Bursar, and inside the application, cannot be seen from here"
    return _unseen("layers", "The edge and the application have limits of their own", told)


CHECKS: tuple[Callable[[Facts], CheckLine], ...] = (
    *(_stored, _swapped, _owned, _tidy, _ending, _short_lived),
    *(_rates, _money, _capped, _layers),
    *(_told, _copied, _people, _recoverable, _rotated, _drilled),
)


# ---- what they look for


def _is_limited(key: VirtualKey, team: Team) -> bool:
    """By both kinds, each by whichever level."""
    units = {one.unit for policy in (key.policy, team.policy) for one in policy.limits if _binds(one, policy)}
    return "requests" in units and bool(units & _TOKENS)


def _binds(limit: LimitDef, policy: Policy) -> bool:
    return (limit.mode or policy.modes.get("limits", "enforce")) == "enforce"


def _caps_output(policy: Policy) -> bool:
    given = (policy.max_tokens_profile, policy.max_tokens_default, policy.max_tokens_cap)
    return policy.external is True or any(value is not None for value in given)


def _subjects(key: VirtualKey, team: Team) -> set[tuple[str, str]]:
    """Whose budgets bind every call of the key."""
    tags = {("tag", tag) for tag in (*key.tags, *team.tags)}
    return {("key", key.id), ("team", team.id), ("owner", team.owner_id), ("node", "node")} | tags


def _teams(keys: Sequence[VirtualKey]) -> list[str]:
    return list(dict.fromkeys(key.team_id for key in keys))[:_NAMED]


def _some(found: Sequence[msgspec.Struct], name: Callable[..., str]) -> str:
    """A few names, and how many more."""
    named = ", ".join(name(one) for one in found[:_NAMED])
    return named if len(found) <= _NAMED else f"{named} and {len(found) - _NAMED:,} more"


def _all(found: Sequence[object], noun: str) -> str:
    """That there is nothing to look at is no praise."""
    return f"all {len(found):,}" if len(found) > 1 else f"the one {noun}" if found else f"there is no {noun}"


def _passed(name: str, title: str, told: str) -> CheckLine:
    return CheckLine(id=name, title=title, verdict="pass", told=told)


def _failed(name: str, title: str, told: str, *mend: str) -> CheckLine:
    return CheckLine(id=name, title=title, verdict="fail", told=told, mend=mend)


def _unseen(name: str, title: str, told: str) -> CheckLine:
    return CheckLine(id=name, title=title, verdict="unseen", told=told)
