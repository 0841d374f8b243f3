"""Who may use, read, write and rotate provider keys. Denied unless something here allows it.

    use      a team's calls are served with the key: its address names the team, or every team (`*`), or a grant does
    read     the value in clear: a grant, or the node's own token, on a node that lets values out at all
    write    store, tag, move: an admin, or an operator with a grant
    rotate   a new version: the same

Using is not reading: who uses a key never sees it, and no act implies another.
"""

import re
from collections.abc import Collection, Iterable, Mapping

from bursar.core.directory import AccessGrant, Act
from bursar.core.errors import Refusal
from bursar.core.roles import Caller

ACTS: tuple[Act, ...] = ("use", "read", "write", "rotate")
SUBJECT_KINDS = ("team", "role", "admin")

_PATH_PART = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._:@%-]{0,127}\*?", re.ASCII)
_SUBJECT = re.compile(r"(team|role|admin)/[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)


def check_path(path: str) -> str:
    """The path itself. Raises Refusal(invalid_input): a part is a name, `*`, or the beginning of one and `*`."""
    parts = path.split("/")
    if len(parts) != 5 or not all(_PATH_PART.fullmatch(part) for part in parts):
        hint = "Write provider/model/key_type/environment/team, for example openai/*/*/prod/search"
        raise Refusal("invalid_input", f"{path[:80]!r} names no provider keys", hint)
    return path


def check_subject(subject: str) -> str:
    """The subject itself. One that holds a glob or a slash more would, put into a store's policy, widen it."""
    if not _SUBJECT.fullmatch(subject):
        hint = "Write team/ID, role/ROLE or admin/ID; globs are not taken"
        raise Refusal("invalid_input", f"{subject[:80]!r} is nobody who could be granted anything", hint)
    return subject


def covers(grant: AccessGrant, act: Act, address: str, tags: Mapping[str, str], now: int) -> bool:
    """Whether a grant is about this act on this key, now."""
    return (
        act in grant.acts
        and (grant.expires_at is None or now < grant.expires_at)
        and all(map(_part_covers, grant.path.split("/"), address.split("/")))
        and all(tags.get(name) == value for name, value in grant.tags.items())
    )


def granted(
    grants: Iterable[AccessGrant], subjects: Collection[str], act: Act, address: str, tags: Mapping[str, str], now: int
) -> bool:
    return any(grant.subject in subjects and covers(grant, act, address, tags, now) for grant in grants)


def check_access(
    grants: Iterable[AccessGrant], caller: Caller, act: Act, address: str, tags: Mapping[str, str], now: int
) -> None:
    """Raises Refusal(access_denied). The route's right was asked for before; this is about the one key."""
    if caller.actor == "admin" or (caller.role == "admin" and act in ("write", "rotate")):
        return  # whoever holds the node's own token owns the data folder
    subjects = {f"role/{caller.role}", caller.actor.replace("admin:", "admin/", 1)}
    if not granted(grants, subjects, act, address, tags, now):
        hint = f"An admin can allow it: bursar secrets grant role/{caller.role} --act {act} --path {address}"
        raise Refusal("access_denied", f"{caller.actor} ({caller.role}) may not {act} {address}", hint)


def _part_covers(wanted: str, part: str) -> bool:
    """`*` of an address is itself a part: only `*` covers it, a beginning does not."""
    if wanted == "*":
        return True
    return part.startswith(wanted[:-1]) and part != "*" if wanted.endswith("*") else wanted == part
