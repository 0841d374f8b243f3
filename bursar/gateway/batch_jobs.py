"""Batches under way: asked about until they end, then booked from their result files.

The hold stays open for as long as the process lives that took it. Where that one dies or stops, the hold is booked at
its ceiling (`unreconciled`) as any other; the job is on record, so another process takes it up, and corrects to what
the batch did cost. A job has one follower: who swaps its mark in the record. The record says that a job is settled
before money is given back, so that it is given back once at most; a follower that dies in between leaves the ceiling.
"""

import asyncio
import logging

import msgspec

from bursar.core.batches import Job, Tally, at_ceiling, encode_job, read_job
from bursar.core.calls import Call, DialectName
from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.ledger import Settlement
from bursar.core.made_ids import MadeId
from bursar.core.prices import Price
from bursar.core.units import NS_PER_S
from bursar.core.uploads import PURPOSES
from bursar.gateway.batch_ids import learn_batch
from bursar.gateway.forward import upstream_headers
from bursar.gateway.line_reader import read_lines
from bursar.gateway.node import Node, Option
from bursar.gateway.owned import find_account
from bursar.gateway.price import free_price
from bursar.gateway.upstream_errors import is_encoded
from bursar.ports import UpstreamResponse

FIRST_S, LONGEST_S = 1.0, 30.0  # between two looks
TAKE_UP_S = 30.0  # between two looks for jobs that nobody follows
CLAIM_S = 120.0  # a follower that does not renew its mark for so long is dead
LIFE_S = 8 * 86_400.0  # a batch is run within a day; afterwards nobody will say more
GONE_LOOKS = 5  # in a row that find no such batch: one alone may be a provider's mistake
_PAGE = 100
_MOST_TOLD = 2**20  # bytes: what a provider says of one batch
_MOST_RESULTS = 2 * 2**30  # bytes of one result file
_log = logging.getLogger("bursar.batches")


class Gone(Exception):
    """The provider knows no such thing any more."""


def job_record(job: Job, batch: MadeId) -> MadeId:
    """Its place among the ids: of no team, by a name that no provider makes."""
    return MadeId(
        team="",
        kind="job",
        id=f"{job.boot}.{job.hold}",
        key=batch.key,
        provider=batch.provider,
        secret=batch.secret,
        made_at=job.made_at,
        expires_at=job.made_at + int((LIFE_S + 86_400) * NS_PER_S),
        about=encode_job(job),
    )


def follow_job(node: Node, record: MadeId) -> None:
    """Whether the record is in the store may not be known: it is looked for before anything is booked."""
    if record.id in node.batches.jobs:
        return
    node.batches.jobs.add(record.id)
    task = asyncio.ensure_future(_Follower(node, record).run())
    node.followed.add(task)
    task.add_done_callback(lambda done: _over(node, record, done))


def _over(node: Node, record: MadeId, task: "asyncio.Task[None]") -> None:
    node.followed.discard(task)
    node.batches.jobs.discard(record.id)
    if not task.cancelled() and (fault := task.exception()) is not None:
        _log.error("a batch is followed no more until it is taken up again", exc_info=fault)


async def take_up_for_ever(node: Node) -> None:
    """Follow what nobody else does: after a start, and in a fleet after another node's end."""
    while True:
        try:
            await take_up(node)
        except Refusal as refusal:
            _log.warning("batches under way are looked for again later: %s", refusal.message)
        await asyncio.sleep(TAKE_UP_S)


async def take_up(node: Node) -> None:
    """One look at all that are on record. Raises Refusal(ids_unavailable)."""
    last: MadeId | None = None
    while page := await node.made_ids.listed("", "job", most=_PAGE, after=last, newest_first=False):
        for record in page:
            job = read_job(record.about)
            if job is None or job.settled or record.id in node.batches.jobs or not _is_left(node, job):
                continue
            mine = _marked(node, record, job)
            if await node.made_ids.swap(record, mine):
                follow_job(node, mine)
        last = page[-1]


def _is_left(node: Node, job: Job) -> bool:
    """A node that is alone knows that nobody follows it; in a fleet its follower's mark has to run out."""
    return node.batches.alone or job.until < node.clock.now()


def _marked(node: Node, record: MadeId, job: Job) -> MadeId:
    until = node.clock.now() + int(CLAIM_S * NS_PER_S)
    return msgspec.structs.replace(record, about=encode_job(msgspec.structs.replace(job, by=node.boot, until=until)))


class _Follower:
    """Of one job, from now to its end."""

    def __init__(self, node: Node, record: MadeId) -> None:
        job = read_job(record.about)
        assert job is not None, "who follows has read it"
        self._node, self._record, self._job = node, record, job
        self._gone = 0  # looks in a row
        self._settled_elsewhere = False

    async def run(self) -> None:
        pause = FIRST_S
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_S)
            try:
                if not await self._renew():
                    self._let_go()
                    return  # another follows it
                settlement = await self._look()
            except (UpstreamFault, Refusal):
                settlement = None  # the provider, its key or the store is away for now
            if settlement is None and self._node.clock.now() > self._job.made_at + LIFE_S * NS_PER_S:
                settlement = at_ceiling(self._job, "upstream_broken")
            if settlement is not None:
                await self._book(settlement)
                return

    # ---- whose it is

    async def _renew(self) -> bool:
        """Raises Refusal. Who has the hold takes its job back from anybody who thought it was dead."""
        node = self._node
        left = self._job.until - node.clock.now()
        if node.batches.alone or left > CLAIM_S * NS_PER_S * 2 / 3:
            return True
        swapped = await self._swap(_marked(node, self._record, self._job))
        return self._job.boot == node.boot if swapped is None else swapped

    async def _swap(self, new: MadeId) -> bool | None:
        """None: there is no record of it. Raises Refusal, and then it may have been done: it is looked for before it is
        tried again.
        """
        store, record = self._node.made_ids, self._record
        if not await store.swap(record, new):
            current = await store.find("", "job", record.id)
            if current is None:
                return None
            job = read_job(current.about)
            if job is None or job.settled:
                self._settled_elsewhere = job is not None and job.settled != self._node.boot
                return False
            if current != new:
                mine = self._node.boot in (job.boot, job.by)
                if not mine or not await store.swap(current, new):
                    return False
        job = read_job(new.about)
        assert job is not None, "it was written a moment ago"
        self._record, self._job = new, job
        return True

    def _let_go(self) -> None:
        """Who settled it when this process was thought dead corrects what is booked of its hold, and waits for that."""
        if self._settled_elsewhere and self._job.boot == self._node.boot:
            self._node.money.post(self._job.hold, at_ceiling(self._job, "unreconciled"))

    # ---- how it stands

    async def _look(self) -> Settlement | None:
        """What it cost, once it has ended. Raises UpstreamFault, Refusal."""
        node, job = self._node, self._job
        way = find_account(node, job.team, "batches", PURPOSES.values(), self._record)
        forms = way.provider.dialect.batches
        assert forms is not None, "its provider has the route"
        try:
            told = await (await self._ask(way, "batches", job.batch)).read(_MOST_TOLD)
        except Gone:
            self._gone += 1
            return at_ceiling(job, "upstream_broken") if self._gone >= GONE_LOOKS else None
        self._gone = 0
        state = forms.state(told)
        if state is None or state.id != job.batch or state.input_file != job.input_file:
            raise UpstreamFault("malformed", "the answer tells of another batch", sent=True)
        known = await node.made_ids.find(job.team, "batch", job.batch)
        if known is not None:
            await learn_batch(node, known, state)
        if state.status == "running":
            return None
        tally = Tally(price_of_job(node, job, way))
        for file in state.files:
            await self._read_results(way, file, tally)
        return tally.settlement(job, state)

    async def _ask(self, way: Option, route: str, rest: str) -> UpstreamResponse:
        """Raises Gone, UpstreamFault, Refusal."""
        node, provider = self._node, way.provider
        value = None if provider.auth == "none" else (await node.leases.borrow(way.key)).value
        target = f"{provider.targets[route]}/{rest}"
        response = await node.upstream.ask(provider, "GET", target, upstream_headers(provider, None, value), b"")
        if response.status != 200 or is_encoded(response):
            response.abort()
            if response.status == 404:
                raise Gone
            raise UpstreamFault("status", f"the provider answered {response.status}", sent=True)
        return response

    async def _read_results(self, way: Option, file: str, tally: Tally) -> None:
        """A file that is gone tells nothing: its calls are counted as nobody's word. Raises UpstreamFault, Refusal."""
        dialect, job = way.provider.dialect, self._job
        forms, facts = dialect.batches, dialect.upstream
        assert forms is not None, "its provider has the route"
        call = _one_of(job, dialect.name)

        def add(raws: list[bytes]) -> None:
            for raw in raws:
                if not raw.strip():
                    continue
                result = forms.result(raw)
                if result is None:
                    tally.add(None)
                elif result.body is None:
                    tally.add_failed(result, refused=facts.definite_refusal(result.status))
                else:
                    tally.add(dialect.read_usage(call, result.body)[0])

        async def look(raws: list[bytes]) -> None:
            await asyncio.to_thread(add, raws)

        try:
            response = await self._ask(way, "files", f"{file}/content")
        except Gone:
            return
        await read_lines(response, _MOST_RESULTS, look)

    # ---- what it cost

    async def _book(self, settlement: Settlement) -> None:
        """Once, whoever else thinks it is his."""
        node = self._node
        over = settlement.cost_pico > self._job.ceiling
        if over:  # above what is held: better twice than never
            await self._end_hold(settlement)
        if not await self._is_mine_to_book():
            if not over:
                self._let_go()
            return
        if not over:
            await self._end_hold(settlement)
        if node.batches.alone:
            try:
                await node.made_ids.forget("", "job", self._record.id)
            except Refusal as refusal:
                _log.warning("a settled batch stays on record: %s", refusal.message)

    async def _end_hold(self, settlement: Settlement) -> None:
        """Its hold, or what was booked of it when the process ended that had it."""
        node, job, usage = self._node, self._job, settlement.usage
        if job.boot != node.boot:
            await self._correct(settlement.cost_pico - job.ceiling)
            return
        node.money.post(job.hold, settlement)
        tally = node.counters.tally((job.team, job.model, job.key if job.key in node.top_keys else "other"))
        tally.cost_pico += settlement.cost_pico
        if usage is None:
            node.counters.add("bursar_inexact_total", (job.model, "missing"))
        else:
            tally.input_tokens += usage.input_tokens
            tally.output_tokens += usage.output_tokens

    async def _is_mine_to_book(self) -> bool:
        """Say on record that it is settled; wait for the store as long as that takes."""
        node = self._node
        while True:
            done = msgspec.structs.replace(self._job, settled=node.boot)
            try:
                swapped = await self._swap(msgspec.structs.replace(self._record, about=encode_job(done)))
                if swapped is None:
                    return self._job.boot == node.boot  # nobody else can book what is held here
                if swapped:
                    return True
                current = await node.made_ids.find("", "job", self._record.id)
                job = None if current is None else read_job(current.about)
                return job is not None and job.settled == node.boot
            except Refusal:
                await asyncio.sleep(LONGEST_S)

    async def _correct(self, delta: int) -> None:
        """What was booked at its ceiling when its process ended. In a fleet that may still be going to happen."""
        node, job = self._node, self._job
        if not delta:
            return
        end = node.clock.now() + (0 if node.batches.alone else int(3600 * NS_PER_S))
        while True:
            try:
                await node.money.correct(job.hold, delta, "batch")
            except ValueError as fault:
                if node.clock.now() >= end:
                    _log.warning("batch %s stays booked at its ceiling: %s", job.batch, fault)
                    return
                await asyncio.sleep(LONGEST_S)
            except Refusal as refusal:  # it may have been booked or not
                _log.warning("what batch %s cost may not have been booked: %s", job.batch, refusal.message)
                if delta < 0:
                    return  # it stays at its ceiling, or does not
                await asyncio.sleep(LONGEST_S)
            else:
                return


def price_of_job(node: Node, job: Job, way: Option) -> Price:
    """As it was in force when the batch was made."""
    found = node.prices.find(job.prices, job.model, job.made_at) or node.prices.dearest(job.prices, job.made_at)
    return found or free_price(way)


def _one_of(job: Job, dialect: DialectName) -> Call:
    """Any of its lines, as far as answers are read by it."""
    return Call(
        route=job.route,
        dialect=dialect,
        purpose="batch",
        model=job.model,
        stream=False,
        body=b"",
        input_bytes=0,
        prompt_chars=0,
        messages=0,
    )
