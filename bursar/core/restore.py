"""What a node that was restored from a backup may have forgotten, and what its later audit tells of it. Pure.

A restored node is paused: it serves nobody until the audit after the backup was replayed, or a person has
acknowledged what may be missing. What the audit cannot tell exactly is paused one by one and listed for a person; what
cannot even be paused keeps the whole node paused.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from bursar.core.audit import Record
from bursar.core.errors import Refusal
from bursar.core.units import usd_to_pico

MARKER = "restored.json"
"""In the data folder: while it stands there, the node is paused."""

BALANCES_ACTION = "ledger.balances"
ERASURE_ACTION = "audit.erase"  # of a person, whose key a backup from before brings back
_BUDGET = "budget/"
_SILENT = ("audit.", "node.", "backup.", "restore.", "ledger", "secret.use", "secret.release", "secret.rewrap")
_QUIET = (
    "secret.unowned",
    "provider_key.sync",
    "provider_key.import",
    "admin.guess",
    "token.issue",  # tokens end within minutes, and with the key behind them
    "token.use_up",
    "token.keys_synced",
)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds and up to where. Instants are ns; hashes and digests hex."""

    format: int
    version: str  # of the Bursar that took it
    node: str
    taken_ns: int
    audit_seq: int
    audit_hash: str
    directory_version: int
    wrapped_by: tuple[str, ...]  # ids of the wrapping keys of which one opens the secrets; the keys are not in it
    files: tuple["BackedUp", ...]


class BackedUp(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: int
    sha256: str


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """How far a replay came."""

    audit_seq: int
    until_ns: int  # instant of the last record: what happened later is not known
    repeat: tuple[str, ...]  # for a person to look at


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """The marker's content."""

    restored_ns: int
    taken_ns: int  # when the backup was taken: what happened later is not in it
    node: str
    audit_seq: int
    replayed: Replayed | None = None


def paused_refusal() -> Refusal:
    return Refusal(
        "restore_unacknowledged",
        "This node was restored from a backup: newer revocations and spending may be missing, so it serves nobody yet",
        "Replay the audit with `bursar restore --replay FILE`, or `bursar restore ack`",
    )


class Known(NamedTuple):
    """What was last said of a budget before the end: pico-USD in the window of these ns."""

    window_start: int
    window_end: int
    posted: int
    held: int

    def written(self) -> str:
        return " ".join(map(str, self))

    @classmethod
    def read(cls, text: str) -> "Known":
        """Raises ValueError."""
        start, end, posted, held = map(int, text.split(" "))
        return cls(start, end, posted, held)


def written_balances(known: Mapping[str, Known]) -> dict[str, str | int]:
    """The facts of a record of `BALANCES_ACTION`."""
    return {_BUDGET + name: at.written() for name, at in known.items()}


class Effects(msgspec.Struct):
    """What to do to a restored node. Each reason is for a person to read."""

    keys: dict[str, str] = {}  # to be switched off: id -> why
    teams: dict[str, str] = {}
    admins: dict[str, str] = {}
    secrets: dict[str, str] = {}
    destroyed: set[str] = set()  # provider keys that were shredded
    erased: set[str] = set()  # pseudonyms of persons whose key was shredded
    limits: dict[str, int] = {}  # budgets whose limit was lowered -> pico-USD
    balances: dict[str, Known] = {}
    repeat: list[str] = []
    unknown: list[str] = []  # nothing that can be paused by itself: the node stays paused


def effects_of(records: Iterable[Record]) -> Effects:
    """What the records after the backup mean for the node as it was restored."""
    effects = Effects()
    for record in records:
        if record.action == ERASURE_ACTION and record.outcome == "allowed":
            effects.erased.add(record.target.removeprefix("audit/"))
        elif record.outcome == "allowed" and not record.action.startswith(_SILENT):
            _apply(record, effects)
        elif record.action == BALANCES_ACTION:
            known = {name.removeprefix(_BUDGET): Known.read(str(text)) for name, text in record.facts.items()}
            effects.balances.update(known)
    return effects


def _apply(record: Record, effects: Effects) -> None:
    if record.action in _QUIET:
        return
    kind, _, name = record.target.partition("/")
    head, _, verb = record.action.partition(".")
    rule = _RULES.get(head)
    if rule is not None:
        rule(record, verb, name, effects)
    elif "directory_version" in record.facts or kind not in ("audit", "peer"):
        effects.unknown.append(_line(record))


def _line(record: Record) -> str:
    return f"#{record.seq} {record.action} {record.target}"


def _switch(table: Callable[[Effects], dict[str, str]]) -> Callable[..., None]:
    """Things that can be switched off. After what is neither that nor its end, a person must look."""

    def rule(record: Record, verb: str, name: str, effects: Effects) -> None:
        off = table(effects)
        if verb == "enable":
            if off.get(name) == "disable":
                del off[name]
        elif verb == "disable":
            off.setdefault(name, verb)
        elif verb not in ("create", "demote"):  # from enforced to shadow: takes nothing away
            off[name] = verb
        if verb not in ("enable", "disable", "remove"):
            effects.repeat.append(_line(record))

    return rule


def _secret(record: Record, verb: str, name: str, effects: Effects) -> None:
    """`secret.put` names an address; what was put is gone. The others name an id."""
    if verb == "destroy":
        effects.destroyed.add(name)
    elif verb in ("put", "recovery"):
        effects.repeat.append(_line(record))
    else:
        _switch(lambda it: it.secrets)(record, verb, name, effects)


def _budget(record: Record, verb: str, name: str, effects: Effects) -> None:
    """A lowered limit is told; of one that is new, enforced now or has other rules, what it binds is paused."""
    effects.repeat.append(_line(record))
    if verb == "lower":
        effects.limits[name] = usd_to_pico(str(record.facts["limit_usd"]))
    elif verb not in ("raise", "remove", "demote"):
        kind, _, subject = str(record.facts.get("subject", "")).partition("/")
        tables = {"key": effects.keys, "team": effects.teams, "provider_key": effects.secrets}
        if kind in tables:
            tables[kind][subject] = f"budget.{verb}"
        else:
            effects.unknown.append(_line(record))


def _told(record: Record, _verb: str, _name: str, effects: Effects) -> None:
    effects.repeat.append(_line(record))


def _files(record: Record, _verb: str, _name: str, effects: Effects) -> None:
    """Many objects in one act, of which the record names the first few: any may have lost something, so that only the
    whole node can be paused; but where nothing changed except who manages it."""
    changed = any(record.facts.get(act) != 0 for act in ("create", "change", "remove"))
    (effects.unknown if changed else effects.repeat).append(_line(record))


def _doors(record: Record, verb: str, _name: str, effects: Effects) -> None:
    """Trust rules and signing keys: what was closed would be open again, and only the whole node can be paused."""
    (effects.repeat if verb in ("add", "make_keys", "revoke") else effects.unknown).append(_line(record))


def _grant(record: Record, verb: str, _name: str, effects: Effects) -> None:
    """One that was revoked would allow again, and only the whole node can be paused."""
    (effects.repeat if verb == "create" else effects.unknown).append(_line(record))


def _observe(record: Record, verb: str, name: str, effects: Effects) -> None:
    """A provider key that was refused at the door would be let in again: its virtual key is paused."""
    if verb == "close":
        effects.keys[name] = "observe.close"
    effects.repeat.append(_line(record))


_RULES: dict[str, Callable[[Record, str, str, Effects], None]] = {
    "key": _switch(lambda it: it.keys),
    "team": _switch(lambda it: it.teams),
    "admin": _switch(lambda it: it.admins),
    "secret": _secret,
    "budget": _budget,
    "owner": _told,
    "price": _told,
    "apply": _files,
    "rollback": _files,
    "managed": _told,  # files manage it again; what it is stays
    "deployment": _told,  # which model a name stands for; what a key may use of it is the policy's
    "breaker": _told,  # circuits that a person opened: upstreams that fail are left alone by themselves
    "grant": _grant,
    "observe": _observe,
    "trust": _doors,
    "token": _doors,
}
