"""The keys that sign Bursar's tokens: one signs, the next is published already, those before it are read for a while.

Private halves lie sealed in the secret store; the public ones are entries of the directory, so that every gateway has a
key before a token can be signed with it. Nothing is made until the first token is asked for.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory
from bursar.control.fleet import OneNode
from bursar.core.access_tokens import SKEW_S, encode_part
from bursar.core.directory import Kind, TokenKey
from bursar.core.errors import Refusal
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.ports import Entropy

_log = logging.getLogger("bursar.tokens")
MAX_LIFE_S = 3_600  # no token lives longer
_ALWAYS = OneNode()
_NAME = "token-signing-keys"


class Vault(Protocol):
    """Where secrets of Bursar's own lie (`bursar.secrets.embedded`)."""

    async def internal(self, name: str, create: Callable[[], Secret]) -> Secret: ...

    async def set_internal(self, name: str, value: Secret) -> None: ...


class Turns(Protocol):
    async def take_turn(self, name: str, seconds: float) -> bool:
        """Whether it is for this node to do. Raises Refusal when that cannot be told."""
        ...


class RingKey(msgspec.Struct, frozen=True):
    """One key pair. `seed` is the private half in hex: it is never shown, not even by accident."""

    kid: str
    seed: str
    state: Literal["signs", "next", "over"]
    made_ns: int
    until_ns: int | None = None  # tokens under it are read until then

    def __repr__(self) -> str:
        return f"RingKey({self.kid}, {self.state}, ***)"


class Ring(msgspec.Struct, frozen=True):
    keys: tuple[RingKey, ...] = ()

    def one(self, state: Literal["signs", "next"]) -> RingKey:
        return next(key for key in self.keys if key.state == state)


class SigningKeys:
    def __init__(self, vault: Vault, directory: Directory, entropy: Entropy) -> None:
        self._vault = vault
        self._directory = directory
        self._entropy = entropy
        self._turn = asyncio.Lock()
        self._ring: Ring | None = None

    async def sync(self) -> None:
        """Bring the directory in line with the ring: a rotation may have been cut off between the two."""
        ring = await self._load()
        if ring.keys:
            await self._publish("control", ring, "token.keys_synced")

    async def sign(self, message: Callable[[str], bytes]) -> tuple[bytes, bytes]:
        """`message(kid)` and its signature by the key that signs; the first call makes the keys."""
        key = (await self._ready()).one("signs")
        signed = message(key.kid)
        return signed, _private(key.seed).sign(signed)

    async def rotate(self, actor: str, *, at_once: bool = False) -> Ring:
        """The published key signs from now on, another is published.

        The one before is read until every token under it has expired; with `at_once` (it may have leaked) no more: then
        every token issued so far is void.
        """
        await self._ready()
        async with self._turn:
            now = self._directory.now()
            until = now + (0 if at_once else (MAX_LIFE_S + SKEW_S) * NS_PER_S)
            keys = [self._made("next", now)]
            for key in (await self._load()).keys:
                if key.state == "next":
                    keys.append(replace(key, state="signs"))
                else:
                    ends = until if key.until_ns is None else min(until, key.until_ns)
                    if ends > now:
                        keys.append(replace(key, state="over", until_ns=ends))
            return await self._keep(actor, Ring(tuple(keys)), "token.rotate_keys")

    async def public(self) -> list[TokenKey]:
        """What verifiers need, those that are over but still read included."""
        now = self._directory.now()
        await self._ready()
        return [key for key in self._directory.book.all(TokenKey) if key.until is None or key.until > now]

    async def shown(self) -> list[RingKey]:
        return list((await self._ready()).keys)

    async def due(self, every_s: float) -> bool:
        """Whether the key that signs is older than that; False while there is none."""
        ring = await self._load()
        return bool(ring.keys) and self._directory.now() >= ring.one("signs").made_ns + int(every_s * NS_PER_S)

    async def keep_rotating(self, every_s: float, turns: Turns = _ALWAYS, look_s: float = 600.0) -> None:
        """Rotate by the clock, for ever, once in a fleet; publish what could not be published. Never stops control."""
        while True:
            try:
                if await self.due(every_s) and await turns.take_turn("token-keys", look_s):
                    await self.rotate("control")
                else:
                    await self.sync()
            except Refusal as refusal:
                _log.error("the signing key of tokens was not rotated: %s", refusal.message)
            await asyncio.sleep(look_s)

    async def _ready(self) -> Ring:
        ring = await self._load()
        if ring.keys:
            return ring
        async with self._turn:
            ring = await self._load()
            if not ring.keys:
                now = self._directory.now()
                ring = Ring((self._made("next", now), self._made("signs", now)))
                ring = await self._keep("control", ring, "token.make_keys")
            return ring

    async def _load(self) -> Ring:
        """The ring as last seen, unless another node has made or rotated it since."""
        if self._ring is None or not self._stands(self._ring):
            text = await self._vault.internal(_NAME, lambda: Secret('{"keys":[]}'))
            self._ring = msgspec.json.decode(text.reveal(), type=Ring)
        return self._ring

    def _stands(self, ring: Ring) -> bool:
        published = self._directory.book.find(TokenKey, ring.one("signs").kid) if ring.keys else None
        return published is not None and published.until is None

    async def _keep(self, actor: str, ring: Ring, action: str) -> Ring:
        """Sealed first: a key that is published can then always sign. `sync` mends what is cut off in between."""
        await self._vault.set_internal(_NAME, Secret(msgspec.json.encode(ring).decode()))
        self._ring = ring
        await self._publish(actor, ring, action)
        return ring

    async def _publish(self, actor: str, ring: Ring, action: str) -> None:
        wanted = {key.kid: TokenKey(id=key.kid, public=_public(key.seed), until=key.until_ns) for key in ring.keys}

        def decide(book: Book) -> Change:
            gone: list[tuple[Kind, str]] = [("token_key", k.id) for k in book.all(TokenKey) if k.id not in wanted]
            signs = ring.one("signs").kid
            return Change(action=action, target=f"token_key/{signs}", put=list(wanted.values()), gone=gone)

        await self._directory.change(actor, decide)

    def _made(self, state: Literal["signs", "next"], now: int) -> RingKey:
        seed = self._entropy.token_bytes(32).hex()
        return RingKey(thumbprint(_public(seed)), seed, state, now)


def thumbprint(public: bytes) -> str:
    """RFC 7638 of an Ed25519 key (members crv, kty, x: RFC 8037 §2)."""
    text = f'{{"crv":"Ed25519","kty":"OKP","x":"{encode_part(public)}"}}'
    return encode_part(hashlib.sha256(text.encode()).digest())


def jwk_set(keys: list[TokenKey]) -> dict[str, object]:
    """RFC 7517, for whoever verifies our tokens."""
    common = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig"}
    return {"keys": [{**common, "kid": key.id, "x": encode_part(key.public)} for key in keys]}


def _private(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


def _public(seed: str) -> bytes:
    return _private(seed).public_key().public_bytes_raw()
