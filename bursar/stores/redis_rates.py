"""Rates in Redis: one script an act, by the server's clock, shared by every node. What the acts mean stands beside this
file in `rates/*.lua`; the decisions are those of bursar.core.limits, and one suite compares the two.

Redis may lose everything (a flush, a failover): that costs at most one window of rate. Calls in flight are told to it
again by the next beat. Where it does not answer, this node grants its share, or refuses where a limit is closed.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from bursar.core.errors import Refusal
from bursar.core.limits import Bound, Groups, Key, Limited, Reservation, Stand, tightest_of
from bursar.core.secret import Secret
from bursar.stores import redis_forms as frames
from bursar.stores.redis_forms import Form, Scripts, make_form
from bursar.stores.redis_link import RedisLink
from bursar.stores.redis_pipe import Reply
from bursar.stores.redis_place import read_place
from bursar.stores.share_rates import ShareRates

_BEAT_S = 8.0  # a lease of 25 s outlives two beats that fail
_MOST_REMEMBERED = 50_000  # forms, and debts as last seen
_RENEWED_AT_ONCE = 500  # leases, before others get their turn


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the Redis of this cluster of nodes. Times are seconds."""

    url: Secret
    session: str  # this process's own name, never used before
    ca_file: str = ""
    prefix: str = "bursar"
    wait_s: float = 0.25
    beat_s: float = _BEAT_S


class Taken(Reservation, gc=False):
    """Tokens taken ahead of a call: under a record in Redis, or (`own`) of this node's share. `parts` stays empty."""

    form: Form | None = None
    record: bytes = b""
    asked: bool = False  # of Redis: given back by id, whatever became of it
    own: Reservation | None = None


class _Lease(msgspec.Struct, gc=False):
    """What a call in flight has, or may have: an answer can be late or lost."""

    member: bytes
    asked: list[Form] = msgspec.field(default_factory=list)
    granted: list[Form] = msgspec.field(default_factory=list)  # its slots are told to Redis by each beat
    taken: list[Taken] = msgspec.field(default_factory=list)


class Watcher(msgspec.Struct, frozen=True):
    """Who is told how rates stand."""

    changed: Callable[[bool, str], None] = lambda _shared, _why: None
    alone: Callable[[str], None] = lambda _why: None  # one act was decided by this node alone


class RedisRates:
    """The doorway `bursar.gateway.node.Rates` on Redis. Made inside a running loop; `run` keeps it up."""

    def __init__(
        self,
        settings: Settings,
        live_nodes: Callable[[], int],
        watcher: Watcher = Watcher(),  # noqa: B008 - frozen
        scripts: Scripts | None = None,
    ) -> None:
        self._scripts = scripts or Scripts()
        self._prefix = settings.prefix
        self._session = settings.session.encode()
        self._beat_s = settings.beat_s
        self._watcher = watcher
        self.link = RedisLink(
            read_place(settings.url, settings.ca_file),
            self._scripts.texts,
            wait_s=settings.wait_s,
            on_change=watcher.changed,
        )
        self._registered = live_nodes
        self._nodes_seen = 1  # that Redis counted when it was asked last
        self._share = ShareRates(self.live_nodes)
        self._forms: dict[tuple[object, ...], Form] = {}
        self._leases: dict[int, _Lease] = {}
        self._full_at: dict[Key, float] = {}  # as last seen, by this node's own clock
        self._records = 0

    def live_nodes(self) -> int:
        """By whoever knows of more: granting too little is the smaller harm."""
        return max(self._registered(), self._nodes_seen, 1)

    @property
    def shared(self) -> bool:
        """Whether limits are counted across nodes right now."""
        return self.link.up

    async def begun(self, seconds: float) -> None:
        """Redis answers, or has had that long to."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.link.opened.wait(), seconds)

    # ---- taking

    async def admit(self, owner: str, limits: Sequence[Bound], now: float, lease_id: int) -> Limited | None:
        """As `Rates.arrive`. Raises Refusal(store_unavailable)."""
        if lease_id in self._leases:
            raise ValueError(f"lease {lease_id} is in use")
        if not limits:
            return None
        form = self._form(owner, limits)
        lease = self._lease(lease_id)
        if self.link.up:
            lease.asked.append(form)
            answer = await self.link.ask(frames.take_frame(form, b"", lease.member, (0, 0)))
            if answer is not None:
                limited = self._read(form, answer, now)
                if limited is None:
                    lease.granted.append(form)
                else:
                    del self._leases[lease_id]
                return limited
        self._may_decide(form, asked=bool(lease.asked))
        limited = self._share.arrive(limits, now, lease_id)
        if limited is None:
            lease.granted.append(form)
        return limited

    async def hold(
        self, owner: str, limits: Sequence[Bound], input_tokens: int, output_tokens: int, now: float, lease_id: int
    ) -> Reservation | Limited:
        """As `Rates.reserve`, for a lease. Raises Refusal(store_unavailable)."""
        if not limits:
            return Taken([])
        form = self._form(owner, limits)
        self._records += 1
        taken = Taken([], form=form, record=b"%s.%x" % (self._session, self._records))
        lease = self._leases.get(lease_id) or self._lease(lease_id)
        try:
            limited = await self._hold(taken, form, lease, (input_tokens, output_tokens), (now, lease_id))
        except BaseException:
            self.settle(taken, 0, 0, now)
            raise
        if limited is not None:
            self.settle(taken, 0, 0, now)
            return limited
        lease.taken.append(taken)
        if form.leases:
            lease.granted.append(form)
        return taken

    async def _hold(
        self, taken: Taken, form: Form, lease: _Lease, tokens: tuple[int, int], own: tuple[float, int]
    ) -> Limited | None:
        """Fill in `taken`; what it says at any time can be settled."""
        asked = self.link.up
        if asked:
            taken.asked = form.reserves
            if form.leases:
                lease.asked.append(form)
            answer = await self.link.ask(frames.take_frame(form, taken.record, lease.member, tokens))
            if answer is not None:
                limited = self._read(form, answer, own[0])
                if limited is not None:
                    taken.asked = False
                    lease.asked = [asked for asked in lease.asked if asked is not form]
                return limited
        self._may_decide(form, asked=asked)
        found = self._share.reserve(form.limits, *tokens, *own)
        if isinstance(found, Limited):
            return found
        taken.own = found
        return None

    # ---- giving back

    def settle(self, reservation: Reservation, input_tokens: int, output_tokens: int, now: float) -> None:
        if reservation.settled:
            return
        assert isinstance(reservation, Taken)
        reservation.settled = True
        if reservation.asked and reservation.form is not None:
            used = input_tokens, output_tokens
            self.link.tell(frames.settle_frame(reservation.form, reservation.record, used))
        if reservation.own is not None:
            self._share.settle(reservation.own, input_tokens, output_tokens, now)

    def release(self, lease_id: int) -> None:
        self._share.release(lease_id)
        self._leave(lease_id, give_back=False)

    def give_back(self, lease_id: int) -> None:
        self._share.give_back(lease_id)
        self._leave(lease_id, give_back=True)

    def _leave(self, lease_id: int, *, give_back: bool) -> None:
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return
        for form in lease.asked:
            self.link.tell(frames.leave_frame(form, lease.member, give_back=give_back))
        if self.link.up:
            for form in lease.granted:  # by this node alone, and a beat may have told Redis since
                if form.slots and form not in lease.asked:
                    self.link.tell(frames.leave_frame(form, lease.member, give_back=False))
        for taken in lease.taken:
            if taken.asked and not taken.settled and taken.form is not None:
                taken.settled = True
                self.link.tell(frames.forget_frame(taken.form, taken.record))

    # ---- looking

    def left(self, bound: Bound, now: float) -> tuple[int | None, float]:
        """As last seen. Slots that other nodes hold are counted in Redis alone."""
        if not self.link.up:
            return self._share.left(bound, now)
        if bound.unit == "concurrency":
            return None, 0.0
        _, remaining, wait = tightest_of(self._full_at, ((bound,),), now)[0]
        return remaining, wait

    def tightest(self, groups: Groups, now: float) -> list[Stand]:
        if self.link.up:
            return tightest_of(self._full_at, groups, now)
        return self._share.tightest(groups, now)

    # ---- living

    async def run(self) -> None:
        """Keep the way open and tell Redis, beat by beat, which calls are in flight. Until cancelled."""
        link = asyncio.create_task(self.link.run())
        try:
            while True:
                await self.link.opened.wait()
                await self._beat()
                with contextlib.suppress(TimeoutError):  # a new connection gets a beat at once: it may know nothing
                    await asyncio.wait_for(self.link.closed.wait(), self._beat_s)
        finally:
            link.cancel()
            await asyncio.gather(link, return_exceptions=True)

    async def _beat(self) -> None:
        link = self.link
        if link.up:
            answer = await link.ask(frames.beat_frame(self._scripts, self._prefix, self._session))
            self._nodes_seen = self._nodes_seen if answer is None else answer
        known = iter(list(self._leases))
        while link.up and (some := list(islice(known, _RENEWED_AT_ONCE))):
            # Looked up, told and sent without a pause: what ends from here on is told after it.
            for slots, members in self._slots_of(some).items():
                link.tell(frames.renew_frame(self._scripts, slots, members))
            await asyncio.sleep(0)

    def _slots_of(self, leases: Sequence[int]) -> dict[bytes, list[bytes]]:
        members: dict[bytes, list[bytes]] = {}
        for lease_id in leases:
            lease = self._leases.get(lease_id)
            if lease is not None:
                for slots in (slots for form in lease.granted for slots in form.slots):
                    members.setdefault(slots, []).append(lease.member)
        return members

    # ---- inside

    def _form(self, owner: str, limits: Sequence[Bound]) -> Form:
        name = owner, *[bound.key for bound in limits]
        form = self._forms.get(name)
        if form is None:
            if len(self._forms) >= _MOST_REMEMBERED:
                self._forms.clear()
            form = self._forms[name] = make_form(self._scripts, self._prefix, owner, limits)
        return form

    def _lease(self, lease_id: int) -> _Lease:
        lease = self._leases[lease_id] = _Lease(b"%s.%d" % (self._session, lease_id))
        return lease

    def _read(self, form: Form, answer: Reply, now: float) -> Limited | None:
        full_at = self._full_at
        if len(full_at) > _MOST_REMEMBERED:
            full_at.clear()
        for key, debt in zip(form.keys, islice(answer, 2, None), strict=False):
            full_at[key] = now + debt / 1e6
        if not answer[0]:
            return None
        bound = form.bounds[answer[0] - 1]
        word = "concurrency_limited" if bound.unit == "concurrency" else "rate_limited"
        return Limited(bound, answer[1] / 1e6, word)  # type: ignore[arg-type]

    def _may_decide(self, form: Form, *, asked: bool) -> None:
        """This node decides alone. Raises Refusal where a limit does not allow that."""
        self._watcher.alone("no_answer" if asked else "down")
        if form.closed is not None:
            raise Refusal(
                "store_unavailable",
                f"The limit {form.closed.name!r} is closed while the store of rates does not answer",
                "Try again in a moment",
                1.0,
                {"limit": form.closed.name},
            )
