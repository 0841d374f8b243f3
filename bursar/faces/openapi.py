"""The OpenAPI 3.1 document of the admin API, made from its route table."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from bursar.core.errors import RULES
from bursar.faces.admin_route import PREFIX, Route

_REF = "#/components/schemas/{name}"
_PART = re.compile(r"\{(\w+)(?::path)?\}")
_ALWAYS = (
    "admin_token_missing",
    "admin_token_invalid",
    "admin_token_expired",
    "role_not_allowed",
    "too_many_guesses",
    "host_not_allowed",
    "internal_error",
)
_ON_INPUT = ("invalid_input", "malformed_request", "body_too_large", "unsupported_media_type")
_ON_CHANGE = ("audit_unavailable", "directory_changed", "directory_unavailable")


_PREVIEW = {
    "name": "preview",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False},
    "description": "true: answers 200 with what would change, field by field, and changes nothing",
}


_BREAK_GLASS = {
    "name": "break_glass",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "maxLength": 200},
    "description": "why something that is kept in files is changed by hand all the same; it stands in the audit",
}


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457. `code` is stable; `hint` says what to do next."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    facts: dict[str, str | int] = {}


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The whole document. Deterministic: the same table gives the same text."""
    rows = list(routes)
    kinds = [kind for row in rows for kind in (row.answer, row.body, row.query) if kind] + [Problem]
    schemas, components = msgspec.json.schema_components(dict.fromkeys(kinds), ref_template=_REF)
    reference = dict(zip(dict.fromkeys(kinds), schemas, strict=True))
    _as_written(components)
    for row in rows:
        if row.body is not None:
            schema = components[row.body.__name__]
            schema["additionalProperties"] = False
            if row.method == "PATCH":
                components[f"{row.body.__name__}Patch"] = _patch_of(schema)
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(PREFIX + _PART.sub(r"{\1}", row.path), {})[row.method.lower()] = _operation(
            row, reference, components
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bursar admin API",
            "version": version,
            "description": "Amounts are decimal USD as text; instants are RFC 3339 in UTC.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"adminToken": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"adminToken": {"type": "http", "scheme": "bearer", "bearerFormat": "bsa_..."}},
        },
    }


def _operation(row: Route, reference: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": row.call.__name__,
        "summary": row.summary,
        "description": f"Needs the right to {row.right.replace('_', ' ')}.",
        "tags": [row.path.split("/")[1]],
        "responses": _responses(row, reference),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _PART.findall(row.path)
    ]
    if row.previews:
        parameters += [_PREVIEW, _BREAK_GLASS]
    if row.query is not None:
        parameters += _query_parameters(row.query, components)
    if parameters:
        operation["parameters"] = parameters
    if row.body is not None:
        media, schema = "application/json", reference[row.body]
        if row.method == "PATCH":
            media, schema = "application/merge-patch+json", {"$ref": _REF.format(name=f"{row.body.__name__}Patch")}
        operation["requestBody"] = {"required": True, "content": {media: {"schema": schema}}}
    return operation


def _patch_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields, none required."""
    told = "RFC 7396 merge patch: what is named replaces, null takes a field away, the rest stays."
    return {**{name: value for name, value in schema.items() if name != "required"}, "description": told}


def _as_written(node: Any) -> None:
    """Amounts and instants are integers inside and text outside: the schema tells of the outside."""
    if isinstance(node, dict):
        if node.get("format") in {"decimal", "date-time"}:
            node["type"] = "string"
        for inner in node.values():
            _as_written(inner)
    elif isinstance(node, list):
        for inner in node:
            _as_written(inner)


def _query_parameters(query: type[msgspec.Struct], components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components[query.__name__]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]


def _responses(row: Route, reference: dict[Any, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {"204": {"description": "Done"}}
    if row.answer is not None:
        schema = _paged(reference[row.answer]) if row.page else reference[row.answer]
        status = "201" if row.created else "200"
        answers = {status: {"description": row.summary, "content": {"application/json": {"schema": schema}}}}
    if row.streams:
        answers = {"200": {"description": row.summary, "content": {"application/octet-stream": {"schema": {}}}}}
    by_status: dict[str, list[str]] = {}
    for word in _words(row):
        by_status.setdefault(str(RULES[word].status), []).append(word)
    for status, words in sorted(by_status.items()):
        content = {"application/problem+json": {"schema": reference[Problem]}}
        answers[status] = {"description": ", ".join(words), "content": content}
    return answers


def _words(row: Route) -> list[str]:
    """Every refusal that the route can answer, each once."""
    words = [*_ALWAYS, *row.refusals]
    if row.body is not None or row.query is not None:
        words += _ON_INPUT
    if row.method != "GET":
        words += _ON_CHANGE
    if row.previews:
        words.append("managed_by_git")
    return list(dict.fromkeys(words))


def _paged(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": {"type": "array", "items": item},
            "next": {"type": ["string", "null"], "description": "give it as `after` (audit: `before`) to read on"},
        },
    }
