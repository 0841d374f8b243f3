"""Stage 2: who is calling. At the end of the headers, before a byte of the body is read.

A key is found by the keyed digest of its whole text in one dict look-up, so the time says nothing about its parts.
"""

from collections.abc import Callable
from typing import NamedTuple

from bursar.core.controls import would_refuse
from bursar.core.errors import Refusal
from bursar.core.ledger_records import OBSERVED
from bursar.core.networks import caller_address
from bursar.core.restore import paused_refusal
from bursar.core.tokens import parse
from bursar.gateway.flight import Flight
from bursar.gateway.freshness import check_fresh
from bursar.gateway.node import Node
from bursar.gateway.observing import plan_of_stranger, present, refused_provider_key
from bursar.gateway.shadow import note_shadow
from bursar.ports import Exchange

_HINT = "Send it as `Authorization: Bearer bsr_...` or `x-api-key: bsr_...`"
_BEARER = "Bearer "


class _Digested(NamedTuple):
    by: Callable[[str], bytes]  # control may send another pepper
    digest: bytes


def authenticate(node: Node, flight: Flight) -> None:
    """Set the flight's plan, also that of a key which is refused: who it was is known then.

    Raises Refusal(key_missing | key_invalid | key_expired | key_disabled | network_not_allowed | directory_stale |
    restore_unacknowledged) or one of the tokens' (token_invalid | token_expired | token_revoked).
    """
    if node.paused:
        raise paused_refusal()
    digest = _digest(node, flight)
    found = node.tenants.by_digest.get(digest)
    now = node.clock.now()
    if found is None:
        text = presented_key(flight.exchange.headers)
        plan = node.tokens.plan_of(text, digest, now) or plan_of_stranger(node, text, digest)
        if plan is None:
            check_fresh(node, None)
            raise _unknown(node, text)
        flight.plan = plan
        if plan.credential == OBSERVED:
            present(node, flight, text, digest)
    else:
        plan = flight.plan = found.plan
        if plan.credential == OBSERVED:
            present(node, flight, presented_key(flight.exchange.headers), digest)
        if found.expires_at is not None and now >= found.expires_at:
            raise Refusal("key_expired", "This secret of the key has been replaced", "Use the key's new secret")
    plan.check_alive(now)
    check_fresh(node, None if plan.grant is not None else plan)  # no store's act knows which tokens are revoked
    shadowed = plan.shadowed
    by_network = plan.enforced.networks or (shadowed is not None and shadowed.networks)
    if by_network and (would := plan.check_network(caller_of(node, flight.exchange))) is not None:
        note_shadow(node, flight, would_refuse("networks", "networks", would.word))


def caller_of(node: Node, exchange: Exchange) -> str:
    """The caller's address: the peer's, or what a trusted proxy says in its place."""
    forwarded = exchange.headers.get(node.forwarded_header, "") if node.proxies else ""
    return caller_address(exchange.peer, forwarded, node.proxies)


def _digest(node: Node, flight: Flight) -> bytes:
    """The digest of the presented key, made once for as long as the connection repeats its head: 1.5 us less a call.

    The look-up by it is made for each call, so that what is switched off is refused at once.
    """
    memo = flight.exchange.memo
    known = memo.get("digest")
    if isinstance(known, _Digested) and known.by is node.digest:
        return known.digest
    made = node.digest(presented_key(flight.exchange.headers))
    memo["digest"] = _Digested(node.digest, made)
    return made


def presented_key(headers: dict[str, str]) -> str:
    """The credential as the OpenAI (bearer), Anthropic (x-api-key) or Azure (api-key) SDK sends it."""
    bearer = headers.get("authorization")
    if bearer is not None:
        if (bearer.startswith(_BEARER) or bearer[:7].title() == _BEARER) and len(bearer) > len(_BEARER):
            return bearer[7:].strip()
        raise Refusal("key_missing", "The authorization header is not a bearer token", _HINT)
    text = headers.get("x-api-key") or headers.get("api-key")
    if not text:
        raise Refusal("key_missing", "The request carries no key", _HINT)
    return text


def _unknown(node: Node, text: str) -> Refusal:
    """Say what can be said without repeating the text."""
    if not text.startswith("bsr_"):
        return refused_provider_key(node, text)
    if parse(text) is None:
        return Refusal("key_invalid", "The key is mistyped or cut off (its checksum is wrong)", "Copy it again, whole")
    return Refusal("key_invalid", "The key is not known here", "See `bursar keys list`")
