"""Row T: what it costs to know who is calling: by a key, by a token that is remembered, by one that is read anew.

In one process, on the gateway's own stage: the parts are those of the composition root.
"""

import base64
import math
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bursar.app.clock import SystemClock, SystemEntropy
from bursar.app.signatures import Ed25519
from bursar.control.signing_keys import thumbprint
from bursar.core.access_tokens import Claims, Header, encode_part
from bursar.core.directory import KeySecret, Owner, Snapshot, Team, TokenKey, VirtualKey
from bursar.core.tokens import digester, mint
from bursar.gateway.authenticate import authenticate
from bursar.gateway.tenants import Tenants
from bursar.gateway.tokens import Tokens

ISSUER = "https://bursar.example.org"


def measure(rounds: int) -> dict[str, float]:
    """Microseconds a call, the least of `rounds` turns: other work on the machine only adds."""
    desk = _Desk()
    remembered, fresh = desk.token("one"), [desk.token(f"t{n}") for n in range(2_000)]
    desk.ask(remembered)

    def anew() -> None:
        desk.node.tokens._known.clear()
        for text in fresh:
            desk.ask(text)

    return {
        "key": _least(rounds, 20_000, lambda: _repeat(desk, desk.key)),
        "remembered": _least(rounds, 20_000, lambda: _repeat(desk, remembered)),
        "anew": _least(rounds, len(fresh), anew),
    }


def _repeat(desk: "_Desk", text: str) -> None:
    ask = desk.ask
    for _ in range(20_000):
        ask(text)


def _least(rounds: int, calls: int, turn: Callable[[], None]) -> float:
    turns = []
    for _ in range(max(rounds, 3)):
        begin = time.perf_counter()
        turn()
        turns.append((time.perf_counter() - begin) / calls * 1e6)
    return min(turns)


class _Desk:
    """As much of a node as the stage looks at."""

    def __init__(self) -> None:
        signer = Ed25519PrivateKey.generate()
        self._signer, public = signer, signer.public_key().public_bytes_raw()
        self._kid = thumbprint(public)
        digest = digester(b"p" * 32)
        self.key_id, text = mint(SystemEntropy())
        self.key = text.reveal()
        key = VirtualKey(id=self.key_id, name="k", team_id="t", secrets=(KeySecret(digest=digest(self.key)),))
        tenants = Tenants(lambda _: None)
        tenants.replace(
            Snapshot(
                version=1,
                owners=[Owner(id="o", name="o")],
                teams=[Team(id="t", name="t", owner_id="o")],
                keys=[key],
                token_keys=[TokenKey(id=self._kid, public=public)],
            )
        )
        tokens = Tokens(tenants, lambda _: None)
        tokens.issuer, tokens.verify = ISSUER, Ed25519()
        self.node: Any = SimpleNamespace(
            clock=SystemClock(),
            digest=digest,
            tenants=tenants,
            tokens=tokens,
            fresh_until=math.inf,
            proxies=(),
            paused=False,
        )
        self._flights: dict[str, Any] = {}

    def ask(self, text: str) -> None:
        flight = self._flights.get(text)
        if flight is None:
            exchange = SimpleNamespace(headers={"authorization": f"Bearer {text}"}, peer="127.0.0.1")
            flight = self._flights[text] = SimpleNamespace(exchange=exchange, plan=None)
        flight.exchange.memo = {}  # each call on a connection of its own
        authenticate(self.node, flight)

    def token(self, jti: str) -> str:
        """As control writes it, narrowed as a job would have it."""
        now = int(time.time())
        claims = Claims(
            iss=ISSUER,
            sub=f"key/{self.key_id}",
            aud=ISSUER,
            client_id=self.key_id,
            iat=now,
            exp=now + 900,
            jti=base64.b32encode(jti.encode()).decode(),
            scope="model:gpt-4o-mini max_tokens:500 budget_usd:0.50 caller:nightly-42",
        )
        header = Header(typ="at+jwt", alg="EdDSA", kid=self._kid)
        signed = f"{encode_part(msgspec.json.encode(header))}.{encode_part(msgspec.json.encode(claims))}"
        return f"{signed}.{encode_part(self._signer.sign(signed.encode()))}"
