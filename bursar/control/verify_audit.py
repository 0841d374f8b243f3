"""Offline proof of an audit: a reader of its own, which shares no code with the writer.

Standard library and `cryptography` only; the format is written down in `bursar.core.audit`. It checks that

- every record stands in its place (1, 2, 3, ...), is well-formed, and hashes together with all before it;
- in a database, the columns for searching say what the hashed record says;
- every checkpoint, in the chain and in the second place, is rightly signed and agrees with the chain;
- what retention took away was signed for, run by run, and the chain goes on over it;
- nothing is missing at the end that a checkpoint has seen.

Without a known public key the keys that the chain itself declares are believed: then an audit rewritten as a whole,
checkpoints included, is not noticed. Note the key when Bursar first prints it.
"""

import hashlib
import hmac
import json
import re
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_FIRST = hashlib.sha256(b"bursar audit chain 1").digest()
_SIGNED_AS = b"bursar audit checkpoint 1\0"
_PRUNED_AS = b"bursar audit prune 1\0"
_RUN = re.compile(rb'\{"pruned":\{"first":(\d+),"last":(\d+),"hash":"([0-9a-f]{64})","pass":"([0-9a-f]{64})"\}\}\n')
_FIELDS = {
    "seq": int,
    "at_ns": int,
    "actor": str,
    "action": str,
    "target": str,
    "outcome": str,
    "facts": dict,
}
_REMEMBERED = 200_000  # records that a checkpoint in the chain may lie behind it


class Report(NamedTuple):
    """What was found. `fault` is "" when all is well; `broken` is then None, else the seq of the first bad record
    (0 = the file of checkpoints).

    `signed` is the last record covered by a good checkpoint, `public_keys` those that signed (hex).
    """

    records: int
    pruned: int
    checkpoints: int
    signed: int
    public_keys: tuple[str, ...]
    broken: int | None
    fault: str


class Row(NamedTuple):
    """A record as stored: the stated hash, the hashed bytes, the columns beside them, what is wrong with the form."""

    record_hash: bytes
    payload: bytes
    columns: tuple[object, ...] | None
    fault: str


class Run(NamedTuple):
    """In the place of records that retention took away."""

    first: int
    last: int
    record_hash: bytes
    digest: bytes  # of every run of the same pass


class _Checkpoint(NamedTuple):
    seq: int
    record_hash: bytes
    public_key: str


class Broken(Exception):
    """The first thing found wrong: (seq of the record, what)."""

    def __init__(self, seq: int, fault: str) -> None:
        super().__init__(fault)
        self.seq = seq
        self.fault = fault


def verify_file(path: Path, checkpoints: Path | None = None, public_key: str | None = None) -> Report:
    """Check a file of JSON lines; `checkpoints` is the file in the second place. Raises OSError."""
    with path.open("rb") as file:
        return Verifier(public_key).run(map(_row_of_line, file), checkpoints)


def verify_database(path: Path, checkpoints: Path | None = None, public_key: str | None = None) -> Report:
    """Check `audit.db`; read only, the file may be in use. Raises sqlite3.Error, OSError."""
    sql = "SELECT hash, payload, seq, at_ns, actor, action, target, outcome FROM record ORDER BY seq"
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        rows: Iterator[tuple[int, Row | Run]] = (
            (row[2], Row(row[0], row[1], row[2:], "")) for row in database.execute(sql)
        )
        merged = merge(rows, _runs_of(database), key=itemgetter(0))
        return Verifier(public_key).run((row for _, row in merged), checkpoints)


def _runs_of(database: sqlite3.Connection) -> Iterator[tuple[int, Row | Run]]:
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'pruned'").fetchone():
        return  # written before there was any retention
    for row in database.execute("SELECT first, last, hash, pass FROM pruned ORDER BY first"):
        yield row[0], Run(*row)


class Verifier:
    """One chain, taken record by record: `begin`, `take` each, `end`, `report`; or all at once, `run`."""

    def __init__(self, public_key: str | None) -> None:
        self._pinned = public_key.lower() if public_key else None
        self._declared: set[str] = set()
        self._signers: dict[str, None] = {}
        self._hashes: dict[int, bytes] = {}  # of the last records, in order
        self._seq = 0
        self._last = _FIRST
        self._pruned = 0
        self._passes: dict[bytes, tuple[int, Any]] = {}  # digest as stated -> (first record, digest as found)
        self._vouched: set[bytes] = set()
        self._checked = 0
        self._signed = 0
        self._outside: deque[_Checkpoint] = deque()

    def run(self, rows: Iterable[Row | Run], checkpoints: Path | None) -> Report:
        try:
            self.begin(checkpoints)
            for row in rows:
                self.take(row)
            self.end()
        except Broken as found:
            return self.report(found)
        return self.report()

    def begin(self, checkpoints: Path | None) -> None:
        """Raises Broken, as all of these do, for the first thing found wrong; OSError."""
        if checkpoints:
            self._outside.extend(sorted(_read_checkpoints(checkpoints), key=lambda found: found.seq))

    def take(self, row: Row | Run) -> None:
        """The next of the chain, in its order."""
        if isinstance(row, Run):
            self._take_run(row)
        else:
            self._record(row)
        self._compare_outside()

    def end(self) -> None:
        """There is nothing more: whether that is right."""
        if self._outside:
            last = self._outside[-1].seq
            raise Broken(self._seq + 1, f"records are missing: a checkpoint has seen record {last}")
        self._check_passes()

    def report(self, broken: Broken | None = None) -> Report:
        where, fault = (None, "") if broken is None else (broken.seq, broken.fault)
        standing = self._seq - self._pruned
        return Report(standing, self._pruned, self._checked, self._signed, tuple(self._signers), where, fault)

    def _take_run(self, run: Run) -> None:
        if run.first != self._seq + 1 or run.last < run.first:
            raise Broken(self._seq + 1, f"record {self._seq + 1} is missing, and was not taken away by retention")
        _, found = self._passes.setdefault(run.digest, (run.first, hashlib.sha256()))
        found.update(run.first.to_bytes(8) + run.last.to_bytes(8) + run.record_hash)
        self._pruned += run.last - run.first + 1
        self._seq, self._last = run.last, run.record_hash
        self._remember()

    def _check_passes(self) -> None:
        for stated, (first, found) in self._passes.items():
            if found.digest() != stated or stated not in self._vouched:
                raise Broken(first, f"records from {first} on were taken away without a signed word")

    def _compare_outside(self) -> None:
        """Checkpoints of the second place up to here; one of a record that was taken away has nothing to agree with."""
        while self._outside and self._outside[0].seq <= self._seq:
            checkpoint = self._outside.popleft()
            self._agree(checkpoint, self._hashes.get(checkpoint.seq, checkpoint.record_hash))

    def _remember(self) -> None:
        self._hashes[self._seq] = self._last
        if len(self._hashes) > _REMEMBERED:
            del self._hashes[next(iter(self._hashes))]

    def _record(self, row: Row) -> None:
        seq = self._seq + 1
        if row.fault:
            raise Broken(seq, row.fault)
        record = _parse(row.payload, seq)
        if record["seq"] != seq:
            raise Broken(seq, f"record {seq} is missing: record {record['seq']} stands in its place")
        if not hmac.compare_digest(hashlib.sha256(self._last + row.payload).digest(), row.record_hash):
            raise Broken(seq, f"record {seq} was changed: it does not hash to what is stated")
        if row.columns is not None and row.columns != tuple(record[name] for name in list(_FIELDS)[:-1]):
            raise Broken(seq, f"the columns of record {seq} do not say what the record says")
        self._seq, self._last = seq, row.record_hash
        self._remember()
        self._read(record)

    def _read(self, record: dict[str, Any]) -> None:
        """The three kinds of record that the verifier itself understands."""
        facts = record["facts"]
        if record["action"] == "audit.start":
            self._declared.add(str(facts.get("public_key")))
        elif record["action"] == "audit.checkpoint":
            inner, signature = facts.get("checkpoint"), facts.get("signature")
            if not isinstance(inner, str) or not isinstance(signature, str):
                raise Broken(self._seq, f"record {self._seq} is a checkpoint without its signature")
            checkpoint = _check_signature(inner.encode(), signature, self._seq, f"record {self._seq}")
            if not 1 <= checkpoint.seq < self._seq:
                raise Broken(self._seq, f"record {self._seq} signs record {checkpoint.seq}, which is not before it")
            self._agree(checkpoint, self._hashes.get(checkpoint.seq, checkpoint.record_hash))
        elif record["action"] == "audit.prune":
            self._vouched.add(self._read_pruning(facts))

    def _read_pruning(self, facts: dict[str, Any]) -> bytes:
        """The digest of a pass, rightly signed."""
        try:
            statement = str(facts["statement"]).encode()
            fields = json.loads(statement, object_pairs_hook=_no_duplicates)
            public_key, digest = str(fields["public_key"]), bytes.fromhex(fields["pass"])
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
            key.verify(bytes.fromhex(facts["signature"]), _PRUNED_AS + statement)
        except (ValueError, TypeError, KeyError, RecursionError, InvalidSignature):
            raise Broken(self._seq, f"the signature in record {self._seq} is not right") from None
        if public_key != self._pinned if self._pinned else public_key not in self._declared:
            raise Broken(self._seq, f"record {self._seq} is signed by an unknown key {public_key}")
        return digest

    def _agree(self, checkpoint: _Checkpoint, record_hash: bytes) -> None:
        key = checkpoint.public_key
        if key != self._pinned if self._pinned else key not in self._declared:
            raise Broken(checkpoint.seq, f"the checkpoint of record {checkpoint.seq} is signed by an unknown key {key}")
        if not hmac.compare_digest(checkpoint.record_hash, record_hash):
            between = f"{self._signed + 1} to {checkpoint.seq}"
            raise Broken(checkpoint.seq, f"records {between} were rewritten: the checkpoint has seen another chain")
        self._checked += 1
        self._signed = max(self._signed, checkpoint.seq)
        self._signers[key] = None


def _row_of_line(line: bytes) -> Row | Run:
    """``{"hash":"<64 hex>","record":<payload>}`` and a line end, to the byte; or the place of a run taken away."""
    run = _RUN.fullmatch(line)
    if run:
        return Run(int(run[1]), int(run[2]), bytes.fromhex(run[3].decode()), bytes.fromhex(run[4].decode()))
    opens, middle, closes = b'{"hash":"', b'","record":', b"}\n"
    stated = line[9:73]
    if not line.endswith(b"\n"):
        return Row(b"", b"", None, "the last line is cut off (a crash leaves this; the next start mends it)")
    if line[:9] != opens or line[73:84] != middle or not line.endswith(closes) or not _is_hex(stated):
        return Row(b"", b"", None, "the line is not a record of the audit")
    return Row(bytes.fromhex(stated.decode()), line[84 : -len(closes)], None, "")


def _parse(payload: bytes, seq: int) -> dict[str, Any]:
    try:
        record = json.loads(payload.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise Broken(seq, f"record {seq} cannot be read") from None
    fits = isinstance(record, dict) and list(record) == list(_FIELDS)
    if not fits or any(type(record[name]) is not kind for name, kind in _FIELDS.items()):
        raise Broken(seq, f"record {seq} has not the fields of a record")
    return dict(record)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _read_checkpoints(path: Path) -> Iterator[_Checkpoint]:
    """``{"signature":"<128 hex>","checkpoint":<inner>}`` and a line end, to the byte."""
    opens, middle, closes = b'{"signature":"', b'","checkpoint":', b"}\n"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"line {number} of the checkpoints"
            if line[:14] != opens or line[142:157] != middle or not line.endswith(closes):
                raise Broken(0, f"{where} is not a checkpoint")
            yield _check_signature(line[157 : -len(closes)], line[14:142].decode("ascii", "replace"), 0, where)


def _check_signature(inner: bytes, signature: str, seq: int, where: str) -> _Checkpoint:
    try:
        fields = json.loads(inner.decode(), object_pairs_hook=_no_duplicates)
        checkpoint = _Checkpoint(int(fields["seq"]), bytes.fromhex(fields["hash"]), str(fields["public_key"]))
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(checkpoint.public_key))
        if not _is_hex(signature.encode()):
            raise ValueError("not hex")
        key.verify(bytes.fromhex(signature), _SIGNED_AS + inner)
    except (ValueError, TypeError, KeyError, RecursionError, InvalidSignature):
        raise Broken(seq, f"the signature in {where} is not right") from None
    return checkpoint


def _is_hex(text: bytes) -> bool:
    """Lower case only: one spelling for each hash, so that no byte can be changed unseen."""
    return not text.strip(b"0123456789abcdef")
