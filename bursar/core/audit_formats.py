"""The audit in other people's words: RFC 5424 syslog, CEF and OCSF. Pure: a record in, bytes or plain data out.

    syslog   RFC 5424, facility 13 (log audit); MSG is the line of the chain as it stands, so that the receiver's copy
             can be proven by itself. Framed by octet counting (RFC 6587 §3.4.1, RFC 5425 §4.3)
    CEF      ArcSight Common Event Format, version 0, as the MSG of the same frame
    OCSF     1.6.0, class API Activity (6003), https://schema.ocsf.io/1.6.0/classes/api_activity

Receivers that see a record twice (delivery is at least once) know it by its number: `sequenceId`, `externalId`,
`metadata.sequence`.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from bursar.core.audit import Outcome, Record

OCSF_VERSION = "1.6.0"

_FACILITY = 13  # "log audit", RFC 5424 §6.2.1
_SYSLOG_SEVERITY: dict[Outcome, int] = {"allowed": 6, "refused": 4, "failed": 3}
_CEF_SEVERITY: dict[Outcome, int] = {"allowed": 3, "refused": 6, "failed": 7}
_OCSF_SEVERITY: dict[Outcome, int] = {"allowed": 1, "refused": 3, "failed": 3}  # Informational, Medium
_MOST_SEQUENCE = 2**31 - 1  # RFC 5424 §7.3.1: then it starts again with 1

_CREATED = frozenset({"create", "put", "make", "start", "mint", "issue"})
_DELETED = frozenset({"remove", "destroy", "revoke", "erase", "prune"})
_READ = frozenset({"release", "use", "read", "search", "export", "verify", "list", "get"})
_UPDATED = frozenset(
    {"update", "tag", "rotate", "enable", "disable", "set", "raise", "lower", "sync", "move", "rewrap"}
)


def syslog_message(record: Record, message: str, node: str, *, mark: bool = True) -> bytes:
    """One RFC 5424 message. `mark` puts the byte order mark before MSG that RFC 5424 §6.4 wants of UTF-8 text."""
    priority = 8 * _FACILITY + _SYSLOG_SEVERITY[record.outcome]
    sequence = (record.seq - 1) % _MOST_SEQUENCE + 1
    head = f"<{priority}>1 {instant(record.at_ns)} {_name(node, 255)} bursar - {_name(record.action, 32)}"
    text = f'{head} [meta sequenceId="{sequence}"] '
    return text.encode() + (b"\xef\xbb\xbf" if mark else b"") + message.encode()


def octet_counted(message: bytes) -> bytes:
    """The frame of a syslog message in a stream."""
    return b"%d %s" % (len(message), message)


def cef(record: Record, record_hash: bytes, node: str, version: str) -> str:
    """One line. Facts stand as JSON in `cs3`: CEF has no place for names of our own."""
    head = "|".join(
        part.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("\r", " ")
        for part in ("Bursar", "Bursar", version, record.action, record.action.replace(".", " "))
    )
    fields = {
        "rt": str(record.at_ns // 10**6),
        "externalId": str(record.seq),
        "dvchost": node,
        "suser": record.actor,
        "outcome": record.outcome,
        "cs1Label": "target",
        "cs1": record.target,
        "cs2Label": "hash",
        "cs2": record_hash.hex(),
        "cs3Label": "facts",
        "cs3": msgspec.json.encode(record.facts).decode(),
    }
    extension = " ".join(f"{name}={_cef_value(value)}" for name, value in fields.items())
    return f"CEF:0|{head}|{_CEF_SEVERITY[record.outcome]}|{extension}"


def ocsf(record: Record, record_hash: bytes, node: str, version: str) -> dict[str, Any]:
    """One event of class API Activity, ready for JSON."""
    activity = _activity(record.action)
    kind, _, name = record.target.partition("/")
    return {
        "activity_id": activity,
        "category_uid": 6,
        "class_uid": 6003,
        "type_uid": 600300 + activity,
        "time": record.at_ns // 10**6,
        "severity_id": _OCSF_SEVERITY[record.outcome],
        "status_id": 1 if record.outcome == "allowed" else 2,
        "status": "Success" if record.outcome == "allowed" else "Failure",
        "status_detail": record.outcome,
        "message": f"{record.actor} {record.action} {record.target}: {record.outcome}",
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "Bursar", "vendor_name": "Bursar", "version": version},
            "uid": f"{node}-{record.seq}",
            "sequence": record.seq,
            "event_code": record.action,
            "log_name": "audit",
            "original_time": instant(record.at_ns),
        },
        "actor": {"user": {"name": record.actor, "uid": record.actor}},
        "api": {"operation": record.action, "service": {"name": "bursar"}},
        "src_endpoint": {"name": node, "svc_name": "bursar"},
        "resources": [{"type": kind, "uid": record.target, "name": name or kind}],
        "unmapped": {"facts": record.facts, "hash": record_hash.hex()},
    }


def _activity(action: str) -> int:
    """OCSF's Create, Read, Update, Delete, Other, by the last word of the act that is known."""
    for word in reversed(action.split(".")):
        for activity, words in ((1, _CREATED), (2, _READ), (3, _UPDATED), (4, _DELETED)):
            if word in words:
                return activity
    return 99


def instant(at_ns: int) -> str:
    """RFC 3339 in UTC with microseconds, which is as fine as RFC 5424 allows."""
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{at_ns % 10**9 // 1000:06d}Z"


def _name(text: str, most: int) -> str:
    """PRINTUSASCII of at most so many characters, `-` for nothing (RFC 5424 §6)."""
    return "".join(c if "!" <= c <= "~" else "_" for c in text[:most]) or "-"


def _cef_value(text: str) -> str:
    return text.replace("\\", "\\\\").replace("=", "\\=").replace("\n", "\\n").replace("\r", "\\r")
