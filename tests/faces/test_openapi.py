"""The OpenAPI document: whole, unambiguous, and true of what the routes answer."""

import re
from typing import Any

from bursar.core.errors import RULES
from bursar.faces.admin_routes import PREFIX, ROUTES
from bursar.faces.openapi import document

DOCUMENT = document(ROUTES, "9.9.9")


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*map(references, node.values())) if node else own
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, op) for path, methods in DOCUMENT["paths"].items() for method, op in methods.items()]


def test_every_reference_leads_somewhere_and_nothing_lies_about() -> None:
    named = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert references(DOCUMENT) <= named
    spread = {row.query for row in ROUTES if row.query} | {row.body for row in ROUTES if row.method == "PATCH"}
    lying = {f"#/components/schemas/{kind.__name__}" for kind in spread if kind}
    assert named - references(DOCUMENT) <= lying, "only queries and patched inputs are shown in another form"


def test_every_route_is_described_once() -> None:
    assert len(operations()) == len(ROUTES)
    names = [op["operationId"] for _, _, op in operations()]
    assert len(set(names)) == len(names)
    assert all(op["summary"] for _, _, op in operations())


def test_every_part_of_a_path_is_a_parameter() -> None:
    for path, _, op in operations():
        declared = {p["name"] for p in op.get("parameters", []) if p["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path))
        assert ":" not in path


def test_every_operation_says_how_it_refuses() -> None:
    for path, method, op in operations():
        for status, answer in op["responses"].items():
            words = answer["description"].split(", ")
            if int(status) >= 400:
                assert {RULES[word].status for word in words} == {int(status)}, (path, method)
                assert list(answer["content"]) == ["application/problem+json"]
        assert {"401", "403", "429", "500"} <= set(op["responses"])
        assert sum(int(status) < 400 for status in op["responses"]) == 1


def test_changes_need_a_body_that_is_described_and_reads_have_none() -> None:
    for path, method, op in operations():
        if method == "get":
            assert "requestBody" not in op
        if method == "patch":
            ((media, content),) = op["requestBody"]["content"].items()
            assert media == "application/merge-patch+json", path
            schema = DOCUMENT["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            assert "required" not in schema
            assert schema["additionalProperties"] is False


def test_amounts_and_instants_are_text() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["BudgetCreate"]["properties"]["limit_usd"]["type"] == "string"
    expires = schemas["KeyCreate"]["properties"]["expires_at"]["anyOf"]
    assert {"string", "null"} == {kind["type"] for kind in expires}
    assert "from" in schemas["PriceSet"]["properties"]


def test_the_prefix_is_the_same_everywhere() -> None:
    assert all(path.startswith(PREFIX + "/") for path in DOCUMENT["paths"])
