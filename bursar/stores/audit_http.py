"""Sinks that POST JSON: a signed webhook with the chain's own lines, and OCSF events.

Every record carries its number, and a batch its first and last: a receiver that answers 2xx has it, anything else is
sent again, at least once and in order. A batch goes in pieces of bounded size, and the place is kept after each.

The webhook is signed as Standard Webhooks lays down: `webhook-id`, `webhook-timestamp` (seconds) and
`webhook-signature: v1,<base64 of HMAC-SHA256 over "<id>.<timestamp>.<body>">`. The id names the node and the numbers.
"""

import asyncio
import hmac
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from bursar.core.audit import AuditFailed, decode_record, unframe
from bursar.core.audit_formats import ocsf
from bursar.core.errors import UpstreamFault
from bursar.core.secret import Secret
from bursar.core.units import NS_PER_S
from bursar.ports import Clock
from bursar.stores.audit_cursor import AuditCursor, pieces

Headers = list[tuple[str, str]]
Lines = Sequence[bytes]


class Letter:
    """What is posted. The headers may hold a credential: a traceback with local variables must not show it."""

    __slots__ = ("body", "headers")

    def __init__(self, headers: Headers, body: bytes) -> None:
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"Letter(***, {len(self.body)} bytes)"


class Post(Protocol):
    """Sends one POST to the sink's address -> the status. Raises UpstreamFault."""

    async def __call__(self, letter: Letter) -> int: ...


class Writer(Protocol):
    """Makes the letter from lines and the numbers of the first and the last."""

    def __call__(self, lines: Lines, first: int, last: int) -> Letter: ...


class AuditHttp:
    """`bursar.ports.AuditSink`."""

    def __init__(
        self,
        name: str,
        post: Post,
        writer: Writer,
        cursor: AuditCursor,
        *,
        required: bool = False,
        timeout: float = 5.0,
        closing: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.required = required
        self.timeout = timeout
        self._post = post
        self._writer = writer
        self._cursor = cursor
        self._closing = closing

    async def position(self) -> tuple[int, bytes]:
        return await self._cursor.read()

    async def write(self, records: Sequence[bytes]) -> None:
        """Raises AuditFailed; the pieces before the one that failed stand, and the place says so."""
        for lines in pieces(records):
            last_hash, payload = unframe(lines[-1])
            first, last = decode_record(unframe(lines[0])[1]).seq, decode_record(payload).seq
            await self._send(self._writer(lines, first, last))
            await self._cursor.write(last, last_hash)

    def close(self) -> None:
        self._closing()
        self._cursor.close()

    async def _send(self, letter: Letter) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                status = await self._post(letter)
        except TimeoutError:
            raise self._failed(f"did not answer within {self.timeout:g} s") from None
        except UpstreamFault as fault:
            raise self._failed(f"failed: {fault}") from None
        if not 200 <= status < 300:
            raise self._failed(f"answered {status}")

    def _failed(self, why: str) -> AuditFailed:
        hint = "See whether its server runs, and whether address and credential are right"
        return AuditFailed(f"The audit sink {self.name} {why}", hint, {"sink": self.name})


def webhook_writer(node: str, key: Secret, clock: Clock) -> Writer:
    """``{"node":..,"first":..,"last":..,"lines":[<line of the chain>, ...]}``, signed."""

    def write(lines: Lines, first: int, last: int) -> Letter:
        body = b'{"node":%s,"first":%d,"last":%d,"lines":[%s]}' % (
            msgspec.json.encode(node),
            first,
            last,
            b",".join(lines),
        )
        letter_id, stamp = f"{node}-{first}-{last}", clock.now() // NS_PER_S
        signed = b"%s.%d.%s" % (letter_id.encode(), stamp, body)
        signature = b64encode(hmac.digest(key.reveal().encode(), signed, "sha256")).decode()
        headers = [
            ("content-type", "application/json"),
            ("webhook-id", letter_id),
            ("webhook-timestamp", str(stamp)),
            ("webhook-signature", f"v1,{signature}"),
        ]
        return Letter(headers, body)

    return write


def ocsf_writer(node: str, version: str, token: Secret | None) -> Writer:
    """A JSON array of OCSF events, with a bearer token where there is one."""

    def write(lines: Lines, first: int, last: int) -> Letter:
        events = []
        for line in lines:
            record_hash, payload = unframe(line)
            events.append(ocsf(decode_record(payload), record_hash, node, version))
        headers = [("content-type", "application/json"), ("idempotency-key", f"{node}-{first}-{last}")]
        if token is not None:
            headers.append(("authorization", f"Bearer {token.reveal()}"))
        return Letter(headers, msgspec.json.encode(events))

    return write
