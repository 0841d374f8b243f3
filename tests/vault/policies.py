"""Vault's ACL policies, as far as documented: HCL in, capabilities out. Written from the public documentation."""

import json
import re
from typing import NamedTuple

CAPABILITIES = frozenset(
    {"create", "read", "update", "patch", "delete", "list", "sudo", "deny", "recover", "subscribe"}
)
_TOKEN = re.compile(
    r'\s+|#[^\n]*|//[^\n]*|/\*.*?\*/|(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>\w+)|(?P<mark>[{}=\[\],])', re.S
)


class Rule(NamedTuple):
    pattern: str
    capabilities: frozenset[str]


class PolicyFault(ValueError):
    """Not a policy Vault would take."""


def parse_policy(text: str) -> list[Rule]:
    """`path "..." { capabilities = ["..."] }` blocks. Raises PolicyFault for anything else."""
    tokens = list(_tokens(text))
    rules: list[Rule] = []
    while tokens:
        _take(tokens, "path")
        pattern = _text(tokens)
        _take(tokens, "{")
        _take(tokens, "capabilities")
        _take(tokens, "=")
        _take(tokens, "[")
        found = []
        while tokens[:1] != ["]"]:
            found.append(_text(tokens))
            if tokens[:1] == [","]:
                tokens.pop(0)
        _take(tokens, "]")
        _take(tokens, "}")
        if unknown := set(found) - CAPABILITIES:
            raise PolicyFault(f"path {pattern!r}: invalid capability {sorted(unknown)}")
        if "*" in pattern[:-1] or "+*" in pattern:
            raise PolicyFault(f"path {pattern!r}: a glob stands at the end only")
        rules.append(Rule(pattern, frozenset(found)))
    return rules


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise PolicyFault(f"failed to parse policy at {text[at : at + 20]!r}")
        if piece := match["text"] or match["word"] or match["mark"]:
            found.append(piece)
        at = match.end()
    return found


def _take(tokens: list[str], wanted: str) -> None:
    if not tokens or tokens.pop(0) != wanted:
        raise PolicyFault(f"failed to parse policy: {wanted} expected")


def _text(tokens: list[str]) -> str:
    if not tokens or not tokens[0].startswith('"'):
        raise PolicyFault("failed to parse policy: a text expected")
    return str(json.loads(tokens.pop(0)))


def capabilities_on(rules: list[Rule], path: str) -> frozenset[str]:
    """What the best matching pattern allows; `deny` beats all the rest. Empty = nothing: deny by default."""
    best: tuple[object, ...] | None = None
    allowed: frozenset[str] = frozenset()
    for rule in rules:
        if not _matches(rule.pattern, path):
            continue
        rank = _rank(rule.pattern)
        if best is None or rank > best:
            best, allowed = rank, rule.capabilities
        elif rank == best:
            allowed |= rule.capabilities
    return frozenset({"deny"}) if "deny" in allowed else allowed


def _matches(pattern: str, path: str) -> bool:
    parts = ["[^/]+" if part == "+" else re.escape(part) for part in pattern.removesuffix("*").split("/")]
    return re.fullmatch("/".join(parts) + (".*" if pattern.endswith("*") else ""), path) is not None


def _rank(pattern: str) -> tuple[object, ...]:
    """The documented order of precedence: later first wildcard, no glob, fewer `+`, longer, then by letter."""
    wild = re.search(r"(?<![^/])\+(?![^/])|\*$", pattern)
    first = wild.start() if wild else len(pattern) + 1
    return first, not pattern.endswith("*"), -pattern.split("/").count("+"), len(pattern), pattern
