"""Ways out that are the same whenever a word is said; `bursar.core.lifts` has those that depend on numbers."""

import re
from typing import Literal

import msgspec

from bursar.core.roles import RIGHTS, Right

_PLAIN_WORD = re.compile(r"[\w@%+=:,./-]+\Z", re.ASCII)


def line(*words: str) -> str:
    """A command as a shell reads it back."""
    return " ".join(word if _PLAIN_WORD.match(word) else "'" + word.replace("'", "'\"'\"'") + "'" for word in words)


Who = Literal["caller", "time", "role", "machine", "nobody"]
"""The caller changes his request · it passes by itself · a person with a right · whoever runs the machine · there is
nothing to lift."""


class Lift(msgspec.Struct, frozen=True, kw_only=True):
    """One way out. `roles`: of the admin API, those that may run the command."""

    who: Who
    says: str
    command: str = ""
    roles: tuple[str, ...] = ()


def _caller(says: str) -> tuple[Lift, ...]:
    return (Lift(who="caller", says=says),)


def _time(says: str, command: str = "") -> tuple[Lift, ...]:
    return (Lift(who="time", says=says, command=command),)


def _machine(says: str, command: str = "bursar status") -> tuple[Lift, ...]:
    return (Lift(who="machine", says=says, command=command),)


def by_role(right: Right, says: str, *command: str) -> Lift:
    roles = tuple(role for role, rights in RIGHTS.items() if right in rights)
    return Lift(who="role", says=says, command=line("bursar", *command), roles=roles)


ELSEWHERE = Lift(who="nobody", says="There is no rule to lift: the answer that carried this word says what to do")
_BODY = "Nobody needs to lift it: the request itself has to be mended, see the message that came with it"
_UPSTREAM = "Nobody needs to lift it: retry, or see how the provider is. What the attempt may have cost is booked"
_OF_SECRETS = (
    "secret_not_found",
    "secret_malformed",
    "secrets_unavailable",
    "store_sealed",
    "store_denied",
    "store_login_failed",
    "store_throttled",
    "store_mismatch",
    "wrapper_lost",
    "wrapper_wrong",
    "wrapper_unsafe",
    "wrapper_unavailable",
    "wrapper_denied",
    "tags_changed",
    "tampered",
    "format_unknown",
    "not_installed",
)

PLAIN: dict[str, tuple[Lift, ...]] = {
    **{word: _caller(_BODY) for word in ("malformed_request", "duplicate_field", "invalid_field")},
    **{word: _caller(_BODY) for word in ("head_too_large", "unsupported_media_type", "method_not_allowed")},
    "not_found": _caller("There is no such route: see the routes in the answer's hint"),
    "request_timeout": _caller("Send the request faster, or over a better line"),
    "body_too_large": (
        *_caller("Send less"),
        *_machine("Raise `wire.max_body` in bursar.yaml and start anew", "bursar check"),
    ),
    "overloaded": (*_time("Retry: the node is full for now"), *_machine("Raise the caps under `wire` in bursar.yaml")),
    "draining": _time("Retry: the node is shutting down, another or the next one answers"),
    "not_ready": _time("Retry: the node has no directory yet", "bursar status"),
    "directory_stale": _machine("The node is cut off from the store: see why"),
    "client_gone": (Lift(who="nobody", says="The caller left; what was used until then is booked"),),
    "key_missing": _caller("Send the key as `Authorization: Bearer bsr_...` or `x-api-key: bsr_...`"),
    "key_invalid": (
        *_caller("Send a key that is known here, whole"),
        by_role("administer", "Make one", "keys", "create", "--team", "TEAM", "--name", "NAME"),
    ),
    "token_invalid": _caller("Fetch a new token: POST /oauth/token"),
    "token_expired": _caller("Fetch a new token: POST /oauth/token"),
    "token_revoked": _caller("Fetch a new token, if what it stood on is still there"),
    "model_not_found": (
        *_caller("Ask for a model that GET /v1/models lists"),
        *_machine("Or serve it: name it under `providers` in bursar.yaml", "bursar check"),
    ),
    "deployment_unknown": (
        *_caller("Name a deployment that is mapped for this team"),
        by_role("administer", "Map it to a model", "models", "map", "NAME", "MODEL"),
    ),
    "guard_blocked": _caller("The content has to be changed: a guard is not lifted for a single call"),
    "no_provider_key": (
        by_role("operate", "See which provider keys there are, and for whom", "secrets", "map"),
        by_role("operate", "Store one", "secrets", "put", "PROVIDER/*/api/prod/*"),
    ),
    "upstream_key_refused": (
        by_role("operate", "Store a new version of the provider key", "secrets", "put", "PROVIDER/*/api/prod/*"),
    ),
    "upstream_unreachable": _time(_UPSTREAM, "bursar status"),
    "upstream_timeout": _time(_UPSTREAM),
    "upstream_unavailable": (
        *_time(_UPSTREAM, "bursar breakers list"),
        by_role("operate", "Use one again at once", "breakers", "close", "NAME"),
    ),
    "unknown_id": _caller("Use an id that a call of the same team was given, while it is kept"),
    "upstream_broken": _time(_UPSTREAM),
    "upstream_error": (Lift(who="nobody", says="The provider's own refusal was handed on: its message says why"),),
    "store_unavailable": _machine("Money cannot be written: free the disk, or mend the database; it opens by itself"),
    "audit_unavailable": _machine("The audit cannot be written: see its sinks"),
    "control_unavailable": _machine("Control is started anew by itself; tokens that were issued go on working"),
    **{word: _machine("See what the store of provider keys says", "bursar secrets stores") for word in _OF_SECRETS},
    "restore_unacknowledged": (
        by_role("administer", "Say that the node may serve as it was restored", "restore", "ack"),
    ),
    "internal_error": _machine("A fault of Bursar's own: its log has the details"),
    "decisions_unavailable": _machine("Explanations cannot be read: see the disk below explain.db"),
}
