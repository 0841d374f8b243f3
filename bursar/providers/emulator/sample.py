"""The smallest value that fits a JSON schema: for structured output and for the arguments of tool calls."""

from typing import Any

Schema = dict[str, Any]

_PLAIN = {"string": "text", "integer": 7, "number": 1.5, "boolean": True, "null": None}
_DEEPEST = 12


def sample(schema: Schema, root: Schema | None = None, depth: int = 0) -> Any:
    """Deterministic. Understands what the SDKs generate: $ref, anyOf, allOf, const, enum, objects and arrays."""
    root = schema if root is None else root
    if depth > _DEEPEST:
        return None
    if "$ref" in schema:
        return sample(_resolve(schema["$ref"], root), root, depth + 1)
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return sample(_simplest(schema[choice]), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    return _of_type(schema, root, depth)


def _simplest(choices: list[Schema]) -> Schema:
    """Null where it is allowed: a schema that holds itself ends there."""
    return next((choice for choice in choices if choice.get("type") == "null"), choices[0])


def _of_type(schema: Schema, root: Schema, depth: int) -> Any:
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties: dict[str, Schema] = schema.get("properties") or {}
        return {name: sample(inner, root, depth + 1) for name, inner in properties.items()}
    if kind == "array":
        return [sample(schema.get("items") or {"type": "string"}, root, depth + 1)]
    return _PLAIN.get(kind)


def _resolve(reference: str, root: Schema) -> Schema:
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step, {}) if isinstance(found, dict) and step != "#" else root
    return found if isinstance(found, dict) else {}
