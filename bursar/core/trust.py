"""Whether the claims of an outside token fit a trust rule. Pure; no signature is looked at here.

A pattern is a text in which `*` stands for any run of characters. Every claim that a rule names must be there and one
of its patterns must fit; of a list, one member is enough. Numbers and truth values are compared as JSON writes them.
"""

from collections.abc import Iterator, Mapping

from bursar.core.directory import TrustRule

MAX_PATTERN = 512
_SHOWN = 120

Claims = Mapping[str, object]


def fits(pattern: str, text: str) -> bool:
    """Linear in both: patterns are an operator's, texts a stranger's."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    *middle, last = rest
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def find_claim(claims: Claims, path: str) -> object | None:
    """``sub``, or ``kubernetes.io/namespace``: a JSON pointer without its first slash (RFC 6901: ~1 is a slash)."""
    here: object = claims
    for part in path.split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(here, Mapping) or name not in here:
            return None
        here = here[name]
    return here


def texts_of(value: object) -> Iterator[str]:
    """What a pattern is held against."""
    if isinstance(value, bool):
        yield "true" if value else "false"
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int):
        yield str(value)
    elif isinstance(value, list):
        for member in value:
            if not isinstance(member, list):
                yield from texts_of(member)


def mismatches(rule: TrustRule, claims: Claims) -> list[str]:
    """Why the claims do not fit the rule, one line a claim; nothing when they do."""
    found = []
    for path, patterns in rule.match.items():
        value = find_claim(claims, path)
        texts = list(texts_of(value))
        if value is None:
            found.append(f"{path}: the token has no such claim")
        elif not any(fits(pattern, text) for pattern in patterns for text in texts):
            shown = ", ".join(texts)[:_SHOWN] or "something that is no text"
            found.append(f"{path}: {shown} is not {' or '.join(patterns)[:_SHOWN]}")
    return found


def trust_domain(claims: Claims) -> str:
    """``spiffe://example.org`` of a SPIFFE id (SPIFFE-ID §2.1) in `sub`; "" when it is none."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject.startswith("spiffe://"):
        return ""
    domain = subject[len("spiffe://") :].partition("/")[0]
    return f"spiffe://{domain}" if domain else ""


def is_issuer(rule: TrustRule, claims: Claims) -> bool:
    """Whether a token is of the rule's issuer, exactly. A JWT-SVID need not have an `iss` (JWT-SVID §3)."""
    if rule.kind == "spiffe" and rule.issuer.startswith("spiffe://"):
        return trust_domain(claims) == rule.issuer
    return claims.get("iss") == rule.issuer and (rule.kind != "spiffe" or trust_domain(claims) != "")
