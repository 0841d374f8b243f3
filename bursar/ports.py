"""The doorways on one page: what can fail, be slow, or be replaced by a fake.

A Protocol grows only when a stage needs it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from bursar.core.audit import Wanted
from bursar.core.batches import BatchLine, BatchRequest, BatchState, LineResult
from bursar.core.breaker import Circuit, Outcome
from bursar.core.calls import Call, DialectName, Edits, Usage
from bursar.core.made_ids import MadeId, MadeKind, Reference
from bursar.core.parts import Part, Path
from bursar.core.provider_keys import Put, SecretEntry
from bursar.core.secret import Secret


class Clock(Protocol):
    """Time comes in through the door: tests never sleep."""

    def now(self) -> int:
        """Wall clock, nanoseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for deadlines and rates."""
        ...


class Entropy(Protocol):
    """Randomness comes in through the door as well."""

    def token_bytes(self, count: int) -> bytes: ...


# ---- dialects (sans-I/O) ---------------------------------------------------------------------------------------------


class StreamMeter(Protocol):
    """Reads one streamed answer event by event. Pure: bytes in, bytes out; counts are attributes."""

    usage: Usage | None  # the provider's word on all output so far, once seen and valid
    interim: bool  # that word was said while more output was to come: final only if the stream came to its end
    input_usage: Usage | None  # input side as reported early (Anthropic message_start); output_tokens is 0
    visible_bytes: int  # UTF-8 bytes of output the caller could see (text, tool arguments, refusals, shown reasoning)
    output_events: int  # events that carried visible output
    output_seen: bool  # anything at all was generated (visible, reasoning, tool call)
    ended: bool  # the dialect's own end of stream was seen
    invalid: str  # why usage was not believed ("negative", "too_large", "unreadable"), "" if fine

    @property
    def made(self) -> Sequence[Reference]:
        """Ids seen so far of what the provider keeps; grows. Always empty where `call.keeps` is false."""
        ...

    def feed(self, event: bytes) -> bytes:
        """One whole SSE event (raw, with its blank line) -> the bytes to send on (may be empty or rewritten)."""
        ...

    def cut(self, word: str, message: str) -> bytes:
        """Bytes that close the stream in the dialect's own way, telling why."""
        ...


class UpstreamFacts(Protocol):
    """Constants of a dialect's provider API. Header names in lower case."""

    @property
    def paths(self) -> dict[str, str]: ...

    @property
    def fixed_headers(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def request_headers(self) -> frozenset[str]: ...

    @property
    def response_headers(self) -> frozenset[str]: ...

    def definite_refusal(self, status: int) -> bool:
        """Whether the status alone proves that nothing was run and nothing billed."""
        ...

    def bills_refusal(self, status: int, body: bytes) -> bool:
        """Whether a refusal is billed for the input all the same."""
        ...

    def rejects_key(self, status: int, body: bytes) -> bool:
        """Whether an answer says that the provider key itself is not accepted."""
        ...


class BatchForms(Protocol):
    """A provider's batch API. What a caller wrote is read strictly, raising Refusal; None: nothing such is told."""

    def request(self, body: bytes) -> BatchRequest: ...

    def line(self, raw: bytes) -> BatchLine: ...

    def state(self, body: bytes) -> BatchState | None: ...

    def result(self, raw: bytes) -> LineResult | None: ...


class Dialect(Protocol):
    """One provider API shape. Turns bytes into values and values into bytes; owns no socket."""

    name: DialectName

    @property
    def upstream(self) -> UpstreamFacts: ...

    @property
    def batches(self) -> BatchForms | None:
        """None: none of its batches is offered."""
        ...

    def understand(self, route: str, body: bytes) -> Call:
        """Parse strictly what is governed. Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
        ...

    def rename(self, body: bytes, naming: Callable[[str], str]) -> bytes:
        """The body with what `naming` makes of its model's name ("" = it has none). Raises Refusal as `understand`."""
        ...

    def parts(self, call: Call) -> Iterator[Part]:
        """The content of the call, piece by piece. Raises Refusal(malformed_request | duplicate_field)."""
        ...

    def replaced(self, call: Call, texts: Mapping[Path, str]) -> Call:
        """The call with other texts at these paths, understood anew. Raises KeyError where nothing lies."""
        ...

    def rewrite(self, call: Call, edits: Edits) -> bytes:
        """The body to send: the original bytes when no edit applies, else rebuilt from the parsed values."""
        ...

    def read_usage(self, call: Call, body: bytes) -> tuple[Usage | None, int, str]:
        """A whole (not streamed) answer -> (usage or None, visible output bytes, why usage was not believed)."""
        ...

    def stream_meter(self, call: Call, edits: Edits) -> StreamMeter: ...

    def made(self, call: Call, body: bytes) -> Sequence[Reference]:
        """The ids in a whole answer of what the provider keeps; only asked where `call.keeps`."""
        ...

    def still_running(self, body: bytes) -> bool:
        """Whether an answer tells of work that goes on in the background. Only asked where `call.background`."""
        ...


# ---- the two sides of the wire ---------------------------------------------------------------------------------------


class Exchange(Protocol):
    """One request of a client and its answer, as the server hands it to the pipeline at the end of the head."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # lower-case names
    memo: dict[str, object]  # what was made of the headers: kept while the connection repeats them word for word
    peer: str
    received: float  # monotonic seconds
    gone: bool  # the client has left
    started: bool  # the answer's head was sent
    on_gone: Callable[[], None] | None
    on_flow: Callable[[bool], None] | None  # True = stop producing, False = go on

    async def body(self) -> bytes:
        """The whole body. Raises Refusal(body_too_large | request_timeout | overloaded) or ClientGone."""
        ...

    def respond(self, status: int, headers: Sequence[tuple[str, str]] | bytes, body: bytes) -> None: ...

    def start(self, status: int, headers: Sequence[tuple[str, str]] | bytes) -> None: ...

    def write(self, chunk: bytes) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


class UpstreamResponse(Protocol):
    status: int
    headers: dict[str, str]

    async def read(self, limit: int) -> bytes: ...

    async def relay(self, sink: Callable[[bytes], None]) -> None:
        """Call `sink` with each piece of the body as it arrives; return at its end. Raises UpstreamFault."""
        ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class EventSplitter(Protocol):
    """Cuts a byte stream into whole server-sent events."""

    def feed(self, data: bytes) -> list[bytes]: ...

    def rest(self) -> bytes: ...


class WebAnswer(NamedTuple):
    status: int
    headers: dict[str, str]  # lower-case names
    body: bytes


class Web(Protocol):
    """Short calls of control to systems of the operator's: vaults, identity providers."""

    async def call(
        self, method: str, url: str, headers: Sequence[tuple[str, str | Secret]], body: bytes | Secret, seconds: float
    ) -> WebAnswer:
        """One request and its whole answer, within `seconds`. No redirect is followed. Raises UpstreamFault."""
        ...


# ---- ids that a provider makes ---------------------------------------------------------------------------------------


class MadeIds(Protocol):
    """Who made which id at which provider. tests/conformance/test_made_ids.py is its contract.

    Bounded: of a team that keeps more than the store's share, the ids made first are forgotten, and are then unknown.
    Every call raises Refusal(ids_unavailable) when the store cannot be read or written.
    """

    async def keep(self, made: Sequence[MadeId]) -> None:
        """Known to every node, and safe from kill -9, when it returns. An id that is kept again is replaced."""
        ...

    async def find(self, team: str, kind: MadeKind, made_id: str) -> MadeId | None:
        """None when this team made no such id, or it has expired."""
        ...

    async def any_foreign(self, team: str, ids: Sequence[str]) -> bool:
        """Whether another team made one of these, of whatever kind, and this team did not make the same."""

    async def forget(self, team: str, kind: MadeKind, made_id: str) -> None:
        """It is gone at the provider. One that is not known is no fault."""
        ...

    async def swap(self, old: MadeId, new: MadeId) -> bool:
        """Put `new` in the place of `old`, of the same name, if that is still what is known. It may have been done
        although a Refusal is raised.
        """
        ...

    async def listed(
        self, team: str, kind: MadeKind, *, most: int, after: MadeId | None = None, newest_first: bool = True
    ) -> list[MadeId]:
        """Those that are known now, at most so many, in the order of (made_at, id) or against it; behind `after`."""
        ...


# ---- health of upstreams ---------------------------------------------------------------------------------------------


class Board(Protocol):
    """What is known of upstreams that have failed. Decisions are those of bursar.core.breaker.

    Looking is free: `known` is empty while nothing has failed. It may be a copy that is a second old.
    """

    @property
    def known(self) -> Mapping[str, Circuit]:
        """By subject. Its instants are those of `now`."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other nodes see the same board right now."""
        ...

    def now(self) -> int:
        """Milliseconds that go on like a clock's, of no particular begin."""
        ...

    async def may_try(self, subject: str) -> bool:
        """Ask for the one try of a half-open circuit; who gets it reports with `tried`."""
        ...

    def report(self, subject: str, outcome: Outcome, *, tried: bool = False, wait_ms: int | None = None) -> None:
        """Sent on its way: nobody waits for it."""

    def close(self, subject: str) -> None: ...  # forget what is known of it: a person says so


# ---- secrets, audit --------------------------------------------------------------------------------------------------


class KeyWrapper(Protocol):
    """Wraps data keys with a key-encryption key that never leaves it; that key may lie in another house."""

    id: str  # names the key-encryption key in the ring, e.g. "keyfile:3f2a..."

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Raises WrapperError (bursar.secrets.sealing) when it cannot."""
        ...

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Raises WrapperError when the key or the context is wrong, or the key's service is away or refuses."""
        ...


class SecretStore(Protocol):
    """Where provider keys lie. Values travel as `Secret`. tests/conformance/test_secret_stores.py is its contract.

    Besides the words below each call raises what the store itself is in: secrets_unavailable, store_sealed,
    store_denied, store_login_failed, store_throttled, store_mismatch; `store_read_only` where it cannot be written.
    `put_many` and `tag_many`: all of them or none, where the store can promise that; else `put_many` takes new entries
    only (`store_unsupported`), and destroys what it has made when one fails.
    """

    @property
    def name(self) -> str:
        """As `bursar.yaml` calls it."""
        ...

    @property
    def writable(self) -> bool: ...

    async def put(
        self,
        address: str,
        value: Secret,
        tags: Mapping[str, str],
        allow_duplicate: bool = False,
        secret_id: str | None = None,
    ) -> tuple[str, int]:
        """Store a new entry, or a new version of the one at this address -> (id, version).

        `secret_id` is the id that a new entry shall have: one that comes from another store keeps its own.
        Raises Refusal: invalid_address, invalid_tags, invalid_secret, duplicate_secret, secret_changed.
        """
        ...

    async def put_many(self, puts: Sequence[Put]) -> list[tuple[str, int]]: ...

    async def put_version(self, secret_id: str, value: Secret, allow_duplicate: bool = False) -> int: ...

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        """The current or the given version. Raises Refusal: secret_not_found or the reason it does not open."""
        ...

    async def entry(self, secret_id: str) -> SecretEntry: ...

    async def entries(self) -> list[SecretEntry]: ...

    async def tag(self, secret_id: str, changes: Mapping[str, str | None]) -> SecretEntry: ...  # None removes one

    async def tag_many(self, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]: ...

    async def set_disabled(self, secret_id: str, disabled: bool) -> SecretEntry: ...

    async def destroy(self, secret_id: str, version: int | None = None) -> None:
        """Shred one version that is not current, or the whole entry."""
        ...

    async def find(self, value: Secret) -> SecretEntry | None:
        """The entry that holds this very value, by keyed fingerprint; None when none does or none can be told."""
        ...


class AuditSink(Protocol):
    """Takes lines of the audit in order; returns only when they are durable there. Raises AuditFailed otherwise."""

    name: str
    required: bool  # an act that needs the audit waits for this sink
    timeout: float  # seconds that an act waits for it

    async def write(self, records: Sequence[bytes]) -> None:
        """All of them or none."""
        ...

    async def position(self) -> tuple[int, bytes]:
        """(seq, hash) of the last record there, (0, GENESIS) before the first."""
        ...


class AuditTrail(AuditSink, Protocol):
    """The sink in which the chain lives and from which the others are caught up."""

    async def read(self, after: int, limit: int) -> list[bytes]:
        """Up to `limit` lines that follow the record `after`."""
        ...

    async def search(self, wanted: Wanted, before: int, limit: int) -> list[bytes]:
        """Up to `limit` lines of records older than number `before` that match, the newest first."""
        ...
