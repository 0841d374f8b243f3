"""Our rules as the policy of the store itself: HCL for Vault and OpenBao, IAM documents for AWS.

So that who holds a store's own login is bound by the same rules. What a store cannot express is left out and told:
a rule is never widened to make it fit. `use` is no right in a store: the broker reads for the team, which never does.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bursar.core.directory import AccessGrant, Act
from bursar.core.errors import Refusal
from bursar.core.layout import Layout, quote
from bursar.core.provider_keys import ADDRESS_PARTS

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_SAFE = re.compile(r"[A-Za-z0-9._=@/-]*", re.ASCII)

_VAULT: dict[Act, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "read": (("data", ("read",)), ("metadata", ("read",))),
    "write": (("data", ("create", "update")), ("metadata", ("create", "read", "update"))),
    "rotate": (("data", ("create", "update")), ("metadata", ("read",))),
}
_AWS: dict[Act, tuple[str, ...]] = {
    "read": ("GetSecretValue", "DescribeSecret"),
    "write": ("CreateSecret", "PutSecretValue", "UpdateSecret", "TagResource", "UntagResource", "DescribeSecret"),
    "rotate": ("PutSecretValue", "UpdateSecretVersionStage", "DescribeSecret"),
}
_BROKER_VAULT = (
    ("data", ("create", "read", "update", "delete")),
    ("metadata", ("create", "read", "update", "delete", "list")),
    ("destroy", ("update",)),
    ("delete", ("update",)),
)
_BROKER_AWS = tuple(sorted({*_AWS["read"], *_AWS["write"], *_AWS["rotate"], "DeleteSecret", "ListSecretVersionIds"}))


class Place(NamedTuple):
    """Where a store keeps our entries."""

    name: str  # of the store, in our configuration
    mount: str  # of the KV engine; "" for AWS
    region: str  # "" = any
    layout: Layout


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """One policy of a store, under the name it should get there."""

    name: str
    text: str


class Export(msgspec.Struct, frozen=True, kw_only=True):
    policies: tuple[Exported, ...]
    left_out: tuple[str, ...]  # rules that the store cannot express, and why


def export_vault(places: Sequence[Place], grants: Iterable[AccessGrant]) -> Export:
    """A policy for the broker, and one for each subject that was granted something."""
    left_out: list[str] = []
    broker = [_vault_rule(place, _pattern(place.layout, "*/*/*/*/*", "+"), _BROKER_VAULT) for place in places]
    policies = [Exported(name="bursar-broker", text="\n".join(broker))]
    for subject, own in _by_subject(grants).items():
        rules = []
        for grant in own:
            for place in places:
                why = _cannot(place.layout, grant) or ("Vault's policies cannot see tags" if grant.tags else "")
                if why:
                    left_out.append(f"{grant.id} in {place.name}: {why}")
                    continue
                wanted = [pair for act in grant.acts if act in _VAULT for pair in _VAULT[act]]
                rules.append(_vault_rule(place, _pattern(place.layout, grant.path, "+"), wanted, grant))
        if rules:
            policies.append(Exported(name=f"bursar-{subject.replace('/', '-')}", text="\n".join(rules)))
    return Export(policies=tuple(policies), left_out=tuple(left_out))


def export_aws(places: Sequence[Place], grants: Iterable[AccessGrant]) -> Export:
    """IAM policy documents. A name in AWS ends in six characters of its own, hence the question marks."""
    left_out: list[str] = []
    broker = [_aws_statement(place, "*/*/*/*/*", _BROKER_AWS, {}) for place in places]
    policies = [Exported(name="bursar-broker", text=_document(broker))]
    for subject, own in _by_subject(grants).items():
        statements = []
        for grant in own:
            actions = tuple(dict.fromkeys(action for act in grant.acts if act in _AWS for action in _AWS[act]))
            for place in places:
                why = _cannot(place.layout, grant)
                if why:
                    left_out.append(f"{grant.id} in {place.name}: {why}")
                else:
                    statements.append(_aws_statement(place, grant.path, actions, grant.tags))
        if statements:
            policies.append(Exported(name=f"bursar-{subject.replace('/', '-')}", text=_document(statements)))
    return Export(policies=tuple(policies), left_out=tuple(left_out))


def _by_subject(grants: Iterable[AccessGrant]) -> dict[str, list[AccessGrant]]:
    """Those that say something to a store, without what has no place there."""
    found: dict[str, list[AccessGrant]] = {}
    for grant in sorted(grants, key=lambda grant: (grant.subject, grant.id)):
        if set(grant.acts) - {"use"}:
            found.setdefault(grant.subject, []).append(grant)
    return found


def _cannot(layout: Layout, grant: AccessGrant) -> str:
    """Why a grant's path cannot be said exactly in paths of this layout; "" if it can."""
    parts = dict(zip(ADDRESS_PARTS, grant.path.split("/"), strict=True))
    for name in layout.fixed:
        if parts[name] not in ("*", layout.address.get(name, "")):
            return f"its paths do not tell the {name}"
    for name, part in parts.items():
        if part.endswith("*") and part != "*":
            return f"the beginning {part!r} of {name} cannot be told from other names"
    for segment in layout.segments:
        open_part = next((name for name in _PLACEHOLDER.findall(segment) if parts[name] == "*"), "")
        if open_part and segment != f"{{{open_part}}}":
            return f"the {open_part} is a part of a segment, and only whole segments can be left open"
    if grant.expires_at is not None:
        return "it has an end, and the store's policy has none"
    return ""


def _pattern(layout: Layout, path: str, any_part: str) -> str:
    """The layout's path with the grant's parts in it. Raises Refusal(template_unsafe)."""
    parts = dict(zip(ADDRESS_PARTS, path.split("/"), strict=True))

    def fill(match: re.Match[str]) -> str:
        part = parts[match[1]]
        return any_part if part == "*" else _safe(quote(part))

    segments = []
    for segment in layout.path.split("/"):
        filled = _PLACEHOLDER.sub(fill, segment)
        if any_part in filled and filled != any_part:
            filled = any_part  # the broker's own rule only: a grant like this is left out
        segments.append(filled)
    return "/".join(segments)


def _safe(text: str) -> str:
    """Text that no policy language reads as more than itself."""
    if not _SAFE.fullmatch(text):
        raise Refusal("template_unsafe", f"{text[:64]!r} would widen the policy it stands in", "Use a plainer name")
    return text


def _vault_rule(
    place: Place, pattern: str, wanted: Iterable[tuple[str, tuple[str, ...]]], grant: AccessGrant | None = None
) -> str:
    by_kind: dict[str, set[str]] = {}
    for kind, capabilities in wanted:
        by_kind.setdefault(kind, set()).update(capabilities)
    said = "the broker itself" if grant is None else f"grant {grant.id}: {', '.join(grant.acts)} {grant.path}"
    lines = [f"# {said}, in the store {place.name}"]
    for kind, allowed in by_kind.items():
        listed = ", ".join(f'"{one}"' for one in sorted(allowed))
        lines.append(f'path "{_safe(place.mount)}/{kind}/{pattern}" {{\n  capabilities = [{listed}]\n}}')
    return "\n".join(lines) + "\n"


def _aws_statement(place: Place, path: str, actions: Sequence[str], tags: Mapping[str, str]) -> dict[str, Any]:
    arn = f"arn:aws:secretsmanager:{place.region or '*'}:*:secret:{_pattern(place.layout, path, '*')}-??????"
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": [f"secretsmanager:{action}" for action in actions],
        "Resource": arn,
    }
    if tags:
        statement["Condition"] = {"StringEquals": {f"secretsmanager:ResourceTag/{k}": v for k, v in tags.items()}}
    return statement


def _document(statements: Sequence[dict[str, Any]]) -> str:
    document = {"Version": "2012-10-17", "Statement": list(statements)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
