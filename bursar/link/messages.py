"""What gateway and control say to each other over the unix socket. One tagged struct a message, msgpack in a frame."""

import msgspec

from bursar.core.circuits import CircuitSeen
from bursar.core.decisions import Batch
from bursar.core.directory import Delta, Snapshot
from bursar.core.telemetry import MetricsDelta


class Message(msgspec.Struct, kw_only=True, tag=True):
    """Base of all messages: the tag is the class name."""


# ---- gateway -> control


class Hello(Message):
    """First word of a gateway. `version` is the directory version it still holds (0 = none)."""

    node: str
    pid: int
    version: int = 0


class Applied(Message):
    """The directory version this gateway now serves by."""

    version: int


class LeaseAsk(Message):
    """Release this provider key to me; answered by LeaseGranted or LeaseRefused with the same `ask`."""

    ask: int
    secret_id: str
    version: int


class Uses(Message):
    """Uses of leased provider keys: (secret id, version, count). Sent again by the same name until UsesRecorded."""

    counts: list[tuple[str, int, int]]
    flush: str = ""


class Metrics(Message):
    delta: MetricsDelta


class Decided(Message):
    """Decisions of single requests. Sent once a connection until DecisionsTaken says that control has dealt with it."""

    batch: Batch


class Handed(Message):
    """A request at the data port that control answers by HandedBack with the same `ask`."""

    ask: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    peer: str

    def __repr__(self) -> str:
        return f"Handed({self.method} {self.path}, ***)"


class Seen(Message):
    """A provider has taken a provider key that came to the door, and the directory does not know it. By its digest."""

    key_id: str
    digest: bytes
    provider: str


class Circuits(Message):
    """How the circuits of upstreams stand. Said each second while any is known, and once when none is any more."""

    at_ns: int
    seen: list[CircuitSeen]


class Happened(Message):
    """Something an owner or operator must learn of: overage, threshold, unreconciled holds, a refused provider key."""

    word: str
    subject: str
    facts: dict[str, str | int] = {}


# ---- control -> gateway


class Welcome(Message):
    """Answer to Hello: the whole directory and the pepper under which virtual keys are digested.

    No snapshot: what the gateway holds still leads on, and the changes since follow.
    """

    snapshot: Snapshot | None
    pepper: bytes

    def __repr__(self) -> str:
        return f"Welcome({'go on' if self.snapshot is None else f'version {self.snapshot.version}'}, ***)"


class Changed(Message):
    delta: Delta


class Fresh(Message):
    """The directory, as told so far, was the store's present one at this instant. Said in a fleet only."""

    at: float  # monotonic seconds of this machine
    nodes: int = 1  # live ones, this one among them


class LeaseGranted(Message):
    """A provider key in clear. Never logged, never repr'd: see `__repr__`."""

    ask: int
    secret_id: str
    version: int
    value: str
    expires_at: int  # ns

    def __repr__(self) -> str:
        return f"LeaseGranted({self.secret_id} v{self.version}, ***)"


class LeaseRefused(Message):
    ask: int
    word: str
    message: str
    hint: str = ""
    retry_after: float | None = None  # seconds


class UsesRecorded(Message):
    """The uses of this name are on record."""

    flush: str


class DecisionsTaken(Message):
    """The batch of this number was kept, or could not be: it need not come again."""

    number: int


class HandedBack(Message):
    """A whole HTTP answer; it may hold a token."""

    ask: int
    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def __repr__(self) -> str:
        return f"HandedBack({self.status}, ***)"


class LeaseRevoked(Message):
    """Forget this version at once."""

    secret_id: str
    version: int


ToControl = Hello | Applied | LeaseAsk | Uses | Metrics | Happened | Handed | Decided | Seen | Circuits
ToGateway = (
    Welcome | Changed | Fresh | LeaseGranted | LeaseRefused | LeaseRevoked | UsesRecorded | HandedBack | DecisionsTaken
)
