"""Audit records, the chain that binds them, and the lines in which they travel. Pure: who writes them is elsewhere.

A record says that an act was about to happen: it is durable before the act. A record without its act is possible (the
act was then refused or failed, mostly with a record of its own), an act without its record is not.

    payload      one JSON object: seq, at_ns, actor, action, target, outcome, facts
    hash         SHA-256(hash of the record before || payload); before the first: SHA-256("bursar audit chain 1")
    line         {"hash":"<64 hex>","record":<payload>}
    checkpoint   {"signature":"<128 hex>","checkpoint":{"seq":..,"hash":"..","at_ns":..,"public_key":".."}}
                 Ed25519 (RFC 8032) over "bursar audit checkpoint 1" || NUL || the inner object as it stands

    pruned       {"pruned":{"first":..,"last":..,"hash":"<64 hex>","pass":"<64 hex>"}} in the place of records that
                 retention took away: the hash of the last of them goes on in the chain. `pass` is the SHA-256 over all
                 runs of one pass (first and last as 8 bytes, big-endian, then the hash). A record `audit.prune` has
                 it signed: Ed25519 over "bursar audit prune 1" || NUL || its fact `statement`

The hash covers the payload's very bytes, so that a verifier needs no canonical encoding, only the line.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from bursar.core.errors import Refusal
from bursar.core.tokens import mask_bytes

Outcome = Literal["allowed", "refused", "failed"]

GENESIS = hashlib.sha256(b"bursar audit chain 1").digest()
CHECKPOINT_ACTION = "audit.checkpoint"
CHECKPOINT_CONTEXT = b"bursar audit checkpoint 1\0"
PRUNE_ACTION = "audit.prune"
PRUNE_CONTEXT = b"bursar audit prune 1\0"
MAX_CHARACTERS = 256 * 1024

CLASSES: dict[str, tuple[str, ...]] = {
    "uses": ("secret.use",),
    "releases": ("secret.release",),
    "reads": ("audit.search", "audit.export", "audit.verify"),
    "access": ("admin.guess", "login.", "token."),
    "events": ("ledger_", "upstream_", "secret.unowned"),
}
"""Classes of acts for retention, by how the act begins. Every other act is of class `changes`, and what the proof
itself needs (the rest of `audit.`) is of none: it stays."""

_HASH_OPENS, _RECORD_OPENS, _CLOSES = b'{"hash":"', b'","record":', b"}"
_RECORD_AT = len(_HASH_OPENS) + 64


class AuditFailed(Refusal):
    """The audit cannot be written: what needed the record must not happen."""

    def __init__(self, message: str, hint: str = "", facts: dict[str, str | int] | None = None) -> None:
        super().__init__("audit_unavailable", message, hint, retry_after=5, facts=facts)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What is about to happen. Facts never hold a secret; credentials of our own are blotted out all the same."""

    actor: str  # "admin", "node:<id>", "control"
    action: str  # "secret.release", "key.create", "secret.put.failed"
    target: str  # "secret/<id>", "key/<id>"
    facts: dict[str, str | int] = {}
    outcome: Outcome = "allowed"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An event at its place in the chain."""

    seq: int  # 1, 2, 3, ... without gaps
    at_ns: int
    actor: str
    action: str
    target: str
    outcome: Outcome
    facts: dict[str, str | int]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A signed word that the chain stood at `seq` with this hash."""

    seq: int
    hash: str  # hex
    at_ns: int
    public_key: str  # hex, 32 bytes


class Run(msgspec.Struct, frozen=True):
    """Records that stood one after the other and were taken away together. `hash` is that of the last of them."""

    first: int
    last: int
    hash: bytes


def class_of(action: str) -> str | None:
    """The class of an act for retention; None for what is never taken away."""
    for name, beginnings in CLASSES.items():
        if action.startswith(beginnings):
            return name
    return None if action.startswith("audit.") else "changes"


def pass_digest(runs: Iterable[Run]) -> bytes:
    """Names a pass of retention, and binds it to every record that it took."""
    whole = hashlib.sha256()
    for run in runs:
        whole.update(run.first.to_bytes(8) + run.last.to_bytes(8) + run.hash)
    return whole.digest()


def frame_pruned(run: Run, digest: bytes) -> bytes:
    """The line in the place of a run, without its end."""
    return b'{"pruned":{"first":%d,"last":%d,"hash":"%s","pass":"%s"}}' % (
        run.first,
        run.last,
        run.hash.hex().encode(),
        digest.hex().encode(),
    )


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are looked for. Texts match exactly, or with `*` for anything; "" matches every one."""

    since_ns: int = 0
    until_ns: int = 2**63 - 1  # exclusive
    actor: str = ""
    action: str = ""
    target: str = ""
    outcome: Literal["", "allowed", "refused", "failed"] = ""

    def facts(self) -> dict[str, str | int]:
        """What was asked, for the record of the reading itself."""
        given = msgspec.structs.asdict(self)
        return {name: value for name, value in given.items() if value not in ("", 0, 2**63 - 1)}


def check_event(event: Event) -> None:
    """Raises TypeError for a fact that is neither text nor whole number (a Secret, say), ValueError if too long."""
    size = len(event.actor) + len(event.action) + len(event.target)
    for name, fact in event.facts.items():
        kind = type(fact)
        if kind is str:
            size += len(name) + len(fact)  # type: ignore[arg-type]
        elif kind is int:
            size += len(name) + 20
        else:
            raise TypeError(f"the fact {name!r} of {event.action} is neither a text nor a whole number")
    if size > MAX_CHARACTERS:
        raise ValueError(f"the record of {event.action} is longer than {MAX_CHARACTERS} characters")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def encode_record(seq: int, at_ns: int, event: Event) -> bytes:
    """The payload of an event that `check_event` let pass."""
    record = Record(
        seq=seq,
        at_ns=at_ns,
        actor=event.actor,
        action=event.action,
        target=event.target,
        outcome=event.outcome,
        facts=event.facts,
    )
    try:
        payload = _encoder.encode(record)
    except UnicodeEncodeError:
        return encode_record(seq, at_ns, _plain(event))
    return mask_bytes(payload)


def decode_record(payload: bytes) -> Record:
    """Raises msgspec.MsgspecError."""
    return _decoder.decode(payload)


def chain_hash(before: bytes, payload: bytes) -> bytes:
    return hashlib.sha256(before + payload).digest()


def frame(record_hash: bytes, payload: bytes) -> bytes:
    """One line, without its end."""
    return b"".join((_HASH_OPENS, record_hash.hex().encode(), _RECORD_OPENS, payload, _CLOSES))


def unframe(line: bytes) -> tuple[bytes, bytes]:
    """A line -> (hash, payload). Raises ValueError when it is not one."""
    record_hash, payload = line[len(_HASH_OPENS) : _RECORD_AT], line[_RECORD_AT + len(_RECORD_OPENS) : -1]
    if len(record_hash) != 64 or record_hash.strip(b"0123456789abcdef"):
        raise ValueError("not a line of the audit")
    record_hash = bytes.fromhex(record_hash.decode())
    if frame(record_hash, payload) != line:
        raise ValueError("not a line of the audit")
    return record_hash, payload


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The inner object of a checkpoint, over which it is signed (after `CHECKPOINT_CONTEXT`)."""
    return _encoder.encode(checkpoint)


def frame_checkpoint(signature: bytes, inner: bytes) -> bytes:
    return b"".join((b'{"signature":"', signature.hex().encode(), b'","checkpoint":', inner, b"}"))


def _plain(event: Event) -> Event:
    """The event with what UTF-8 cannot hold written as escapes: an odd byte in a name must not stop the audit."""
    return Event(
        actor=_escaped(event.actor),
        action=_escaped(event.action),
        target=_escaped(event.target),
        outcome=event.outcome,
        facts={_escaped(k): v if isinstance(v, int) else _escaped(v) for k, v in event.facts.items()},
    )


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
