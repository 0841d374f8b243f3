"""The acts as Redis takes them. What does not change from call to call is written once for each list of limits.

Names begin with `PREFIX:{OWNER}:`, so that all that a billing owner's call touches lies in one slot. Limits that count
across owners (by tag, by provider key, of the node) have `*` in the owner's place.
"""

from collections.abc import Sequence
from hashlib import blake2b, sha1
from importlib.resources import files

import msgspec

from bursar.core.limits import Bound, Key

LEASE_S = 25.0  # a slot lapses so long after its node was heard last
_RECORD_S = 21_600  # what was taken can be given back for so long; no call lasts that long
_ACROSS_OWNERS = ("tag ", "provider_key ", "node ")
_LONGEST_SUBJECT = 128  # a user's name comes from a header
_KINDS = {"requests": b"r", "concurrency": b"c", "tokens": b"t", "input_tokens": b"i", "output_tokens": b"o"}
_ACTS = ("take", "settle", "leave", "renew", "beat")


class Scripts:
    """The acts as scripts, and the names by which Redis knows them. Tests may give another clock than the server's."""

    def __init__(self, clock: str = "", lease_s: float = LEASE_S) -> None:
        before = (clock or _read("clock")) + _read("bucket")
        texts = [before + _read(act) for act in _ACTS]
        self.texts = tuple(texts)
        self.lease = bulk(f"{lease_s:g}".encode())
        names = [sha1(text.encode()).hexdigest() for text in texts]  # noqa: S324 - so does Redis name them
        self._names = {act: bulk(name.encode()) for act, name in zip(_ACTS, names, strict=True)}

    def head(self, act: str, keys: int, arguments: int) -> bytes:
        """The call up to its keys."""
        return b"*%d\r\n$7\r\nEVALSHA\r\n%s%s" % (3 + keys + arguments, self._names[act], bulk(b"%d" % keys))


class _Fixed(msgspec.Struct, frozen=True, gc=False):
    """An act's parts that stay."""

    head: bytes
    keys: bytes
    arguments: bytes


class Form(msgspec.Struct, frozen=True, gc=False):
    """One list of limits of one owner, ready to be asked for."""

    limits: Sequence[Bound]  # as given
    bounds: tuple[Bound, ...]  # in the order in which they are looked at: tokens first
    keys: tuple[Key, ...]  # of these
    slots: tuple[bytes, ...]  # names of those with slots
    closed: Bound | None  # one that may not hold without its store
    reserves: bool  # some are on tokens
    leases: bool  # some are not
    records: bytes
    take: _Fixed
    settle: _Fixed
    leave: _Fixed


def make_form(scripts: Scripts, prefix: str, owner: str, limits: Sequence[Bound]) -> Form:
    bounds = tuple(sorted(limits, key=lambda bound: not (bound.of_input or bound.of_output)))
    names = [_name(prefix, owner, bound) for bound in bounds]
    split = sum(1 for bound in bounds if bound.of_input or bound.of_output)
    keys = [bulk(name) for name in names]
    kinds = [bulk(_KINDS[bound.unit]) for bound in bounds]
    units = [kind + _number(bound.seconds_per_unit) for kind, bound in zip(kinds, bounds, strict=True)]
    rules = [kind + _rule(bound) for kind, bound in zip(kinds, bounds, strict=True)]
    count, rest = len(bounds), len(bounds) - split
    take = scripts.head("take", 2 + count, 5 + 3 * count)
    settle = scripts.head("settle", 1 + split, 2 + 2 * split)
    leave = scripts.head("leave", 1 + rest, 2 + 2 * rest)
    return Form(
        limits=limits,
        bounds=bounds,
        keys=tuple(bound.key for bound in bounds),
        slots=tuple(name for name, bound in zip(names, bounds, strict=True) if bound.unit == "concurrency"),
        closed=next((bound for bound in bounds if bound.closed), None),
        reserves=split > 0,
        leases=rest > 0,
        records=f"{prefix}:{{{owner}}}:".encode(),
        take=_Fixed(take, b"".join(keys), scripts.lease + bulk(b"%d" % _RECORD_S) + b"".join(rules)),
        settle=_Fixed(settle, b"".join(keys[:split]), b"".join(units[:split])),
        leave=_Fixed(leave, b"".join(keys[split:]), b"".join(units[split:])),
    )


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def take_frame(form: Form, tokens: bytes, lease: bytes, counts: tuple[int, int]) -> bytes:
    """`tokens` and `lease` name the records of what is taken; the lease is also the member of slots."""
    fixed, records = form.take, form.records
    return b"".join(
        (
            fixed.head,
            bulk(records + b"t:" + tokens),
            bulk(records + b"l:" + lease),
            fixed.keys,
            bulk(b"%d" % counts[0]),
            bulk(b"%d" % counts[1]),
            bulk(lease),
            fixed.arguments,
        )
    )


def settle_frame(form: Form, tokens: bytes, counts: tuple[int, int]) -> bytes:
    fixed = form.settle
    record = bulk(form.records + b"t:" + tokens)
    used = bulk(b"%d" % counts[0]) + bulk(b"%d" % counts[1])
    return b"".join((fixed.head, record, fixed.keys, used, fixed.arguments))


def forget_frame(form: Form, tokens: bytes) -> bytes:
    """What was reserved stays taken, and nobody will settle it."""
    return b"*2\r\n$6\r\nUNLINK\r\n" + bulk(form.records + b"t:" + tokens)


def leave_frame(form: Form, lease: bytes, *, give_back: bool) -> bytes:
    fixed = form.leave
    record = bulk(form.records + b"l:" + lease)
    return b"".join(
        (fixed.head, record, fixed.keys, bulk(lease), b"$1\r\n1\r\n" if give_back else b"$1\r\n0\r\n", fixed.arguments)
    )


def renew_frame(scripts: Scripts, slots: bytes, members: Sequence[bytes]) -> bytes:
    head = scripts.head("renew", 1, 1 + len(members))
    return b"".join((head, bulk(slots), scripts.lease, *(bulk(member) for member in members)))


def beat_frame(scripts: Scripts, prefix: str, session: bytes) -> bytes:
    return b"".join((scripts.head("beat", 1, 2), bulk(f"{prefix}:nodes".encode()), scripts.lease, bulk(session)))


def _read(act: str) -> str:
    return (files("bursar.stores") / "rates" / f"{act}.lua").read_text("utf-8")


def _name(prefix: str, owner: str, bound: Bound) -> bytes:
    """The definition's length stands before it: whatever a subject is called, no two limits share a name."""
    definition, subject = bound.key
    text = subject.encode("utf-8", "surrogatepass")
    if len(text) > _LONGEST_SUBJECT:
        text = b"#" + blake2b(text, digest_size=24).hexdigest().encode()
    owner = "*" if definition.startswith(_ACROSS_OWNERS) else owner
    return f"{prefix}:{{{owner}}}:{len(definition)}:{definition}:".encode() + text


def _rule(bound: Bound) -> bytes:
    if bound.unit == "concurrency":
        return _number(bound.amount) + b"$1\r\n0\r\n"
    return _number(bound.seconds_per_unit) + _number(bound.full_s)


def _number(value: float) -> bytes:
    """Every digit of a double: Lua's numbers are doubles as well."""
    return bulk(repr(value).encode())
