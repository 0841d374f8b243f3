"""Findings of a scan for other programs: SARIF 2.1.0 (OASIS), and our shapes as rules of the gitleaks family."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from bursar.control.scan import Finding
from bursar.core.key_shapes import BY_ID, SHAPES, Shape

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(findings: Iterable[Finding], version: str) -> dict[str, Any]:
    """One run. The key itself stands nowhere in it."""
    rows = list(findings)
    used = sorted({row.rule for row in rows})
    rules = [
        {
            "id": rule,
            "name": rule,
            "shortDescription": {"text": f"A key of {BY_ID[rule].owner}"},
            "help": {"text": "Revoke it at the provider, put its replacement into Bursar, and take it out of here."},
            "defaultConfiguration": {"level": "error"},
        }
        for rule in used
    ]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "bursar scan", "semanticVersion": version, "rules": rules}},
                "results": [_result(row, used.index(row.rule)) for row in rows],
            }
        ],
    }


def _result(row: Finding, index: int) -> dict[str, Any]:
    where = f" in commit {row.commit}" if row.commit else ""
    return {
        "ruleId": row.rule,
        "ruleIndex": index,
        "level": "error",
        "message": {"text": f"A key of {row.owner} ({row.shown}){where}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": row.path},
                    "region": {"startLine": row.line, "startColumn": row.column},
                }
            }
        ],
        "partialFingerprints": {"bursarKey/v1": row.fingerprint},
    }


def gitleaks_rules() -> str:
    """A rule file (TOML) for gitleaks and betterleaks: the same shapes, for those who scan with these already."""
    parts = ['# Made by `bursar scan --rules`. Keys of LLM providers and of Bursar.\ntitle = "bursar"\n']
    parts += [_rule(shape) for shape in SHAPES]
    return "\n".join(parts)


def _rule(shape: Shape) -> str:
    pattern = re.sub(r"\(\?P<key>(.*)\)(?=\(\?!)", r"(\1)", shape.pattern)
    grouped = pattern != shape.pattern
    pattern = re.sub(r"\(\?!.*\)$", "", pattern) if grouped else rf"\b({pattern})"
    lines = [
        "[[rules]]",
        f'id = "{shape.id}"',
        f'description = "A key of {shape.owner}"',
        f"regex = '''{pattern}(?:[^A-Za-z0-9_-]|$)'''",
        "secretGroup = 1",
        f"keywords = {_list(tuple(dict.fromkeys(literal.lower() for literal in shape.literals)))}",
        "entropy = 3.0",
    ]
    return "\n".join(lines) + "\n"


def _list(words: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
