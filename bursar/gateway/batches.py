"""`/v1/batches`: a file of calls that a provider runs within a day, held as one. Its follower books what it cost.

    1 the input file is the team's own, and is read from the account that has it
    2 each line takes policy, guard and price as a call does (`batch_lines`)
    3 the sum of their ceilings is held, then the batch is asked for
    4 its id is on record, with the job, before the caller learns it; `batch_jobs` follows it

One batch is shown and cancelled by `owned`. A list is made from our own record: the provider's would name every team's.
"""

from contextlib import suppress
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from bursar.core.batches import BatchRequest, BatchState, Job
from bursar.core.errors import ClientGone, Refusal, UpstreamFault
from bursar.core.ledger import Settlement
from bursar.core.made_ids import MadeId, Maker, Reference, is_id
from bursar.core.observing import is_passed_on
from bursar.core.policy import check_purpose
from bursar.core.units import NS_PER_S
from bursar.core.uploads import PURPOSES
from bursar.gateway.admit import admit
from bursar.gateway.answer import header_lines, id_fields
from bursar.gateway.batch_jobs import CLAIM_S, follow_job, job_record
from bursar.gateway.batch_lines import Lines
from bursar.gateway.flight import Flight
from bursar.gateway.follow import MOST
from bursar.gateway.forward import upstream_headers
from bursar.gateway.health import by_health
from bursar.gateway.hold import take_hold
from bursar.gateway.line_reader import read_lines
from bursar.gateway.node import Node
from bursar.gateway.own import check_loose, find_own
from bursar.gateway.owned import find_account, respond
from bursar.gateway.price import Priced
from bursar.gateway.routes import Route
from bursar.gateway.settle import Attempt
from bursar.gateway.upstream_errors import fault_refusal, is_encoded, read_error
from bursar.ports import BatchForms, Dialect, UpstreamResponse

_MOST_ANSWER = 2**20  # bytes: what a provider says of one batch
_MOST_READ = 4  # input files at a time
_MOST_LISTED, _LISTED = 100, 20  # a page, as OpenAI has it
_encode = msgspec.json.Encoder().encode


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: str = "list"


class _File(msgspec.Struct):
    purpose: str = ""


class _Asked(NamedTuple):
    """One batch that is to be made."""

    request: BatchRequest
    file: MadeId
    forms: BatchForms
    dialect: Dialect


async def serve_batches(node: Node, flight: Flight, route: Route) -> None:
    """Raises Refusal, ClientGone."""
    await admit(node, flight)
    assert flight.plan is not None
    if is_passed_on(flight.plan.observed):
        raise Refusal(
            "purpose_not_allowed",
            "A batch is followed for a day, and a provider key that is observed is kept no longer than its call",
            f"Seal it for a Bursar key: bursar observe seal {flight.plan.key_id}",
        )
    if flight.exchange.method == "GET":
        await _list(node, flight)
        return
    asked = await _asked(node, flight, route)
    lines = Lines(node, flight, asked.dialect, asked.forms, asked.request)
    await _read(node, flight, asked, lines)
    if node.tenants.current(flight.plan) is not flight.plan:  # its lines were looked at by rules that hold no more
        message = "The rules of this key, or its budgets, were changed while the file was read"
        raise Refusal("overloaded", message, "Send it again", retry_after=1)
    priced = lines.whole()
    await _check_references(node, flight, asked, lines)
    by_health(node, flight, [priced])
    attempt = await take_hold(node, flight, priced, 1)
    try:
        await _submit(node, flight, asked, priced, attempt, lines)
    finally:
        _end(node, flight, attempt)


# ---- what is asked for


async def _asked(node: Node, flight: Flight, route: Route) -> _Asked:
    """Raises Refusal(invalid_field | purpose_not_allowed | unknown_id | overloaded | ...)."""
    assert flight.plan is not None
    dialect = node.dialects[route.dialect]
    forms = dialect.batches
    assert forms is not None, "a route of a dialect that has them"
    request = forms.request(await flight.exchange.body())
    flight.plan = node.tenants.current(flight.plan)
    check_purpose(flight.plan, "batch")
    file = flight.bound = await find_own(node, flight, Reference("file", request.input_file))
    if not file.about or msgspec.json.decode(file.about, type=_File).purpose != "batch":
        raise Refusal("invalid_field", "The input file was not uploaded for batches", "Upload it with purpose `batch`")
    return _Asked(request, file, forms, dialect)


async def _read(node: Node, flight: Flight, asked: _Asked, lines: Lines) -> None:
    """All lines of the input file, as the provider has it. It cannot be changed there. Raises Refusal."""
    assert flight.plan is not None
    plan = flight.plan
    way = find_account(node, plan.team_id, "files", PURPOSES.values(), asked.file, plan.observed)
    provider = way.provider
    if len(node.followed) >= MOST or node.batches.reading >= _MOST_READ:
        message = f"This node follows {MOST} batches and responses, or reads {_MOST_READ} input files already"
        raise Refusal("overloaded", message, "Try again later", retry_after=30)
    node.batches.reading += 1  # nothing is awaited since: so many that come at once are counted
    try:
        value = None if provider.auth == "none" else (await node.leases.borrow(way.key)).value
        target = f"{provider.targets['files']}/{asked.file.id}/content"
        response = await node.upstream.ask(provider, "GET", target, upstream_headers(provider, None, value), b"")
        if response.status != 200:
            _, instead = await read_error(node, provider, way.key, response, value)
            raise instead or Refusal("upstream_broken", f"The provider does not show the file ({response.status})")
        if is_encoded(response):
            response.abort()
            raise UpstreamFault("malformed", "the answer is encoded", sent=True)
        await read_lines(response, node.batches.most_bytes, lines.look)
    except UpstreamFault as fault:
        if fault.kind == "body_too_large":
            message = f"The file, or one of its lines, is too large: {node.batches.most_bytes} bytes are read"
            raise Refusal("invalid_field", message, "Make several batches of it") from fault
        raise fault_refusal(node, provider, fault) from fault
    finally:
        node.batches.reading -= 1


async def _check_references(node: Node, flight: Flight, asked: _Asked, lines: Lines) -> None:
    """Raises Refusal(unknown_id | ids_unavailable | invalid_field)."""
    for reference in sorted(lines.references):
        found = await find_own(node, flight, reference)
        if (found.provider, found.secret) != (asked.file.provider, asked.file.secret):
            message = f"A {found.kind} that a line names was made with another provider key than the file"
            raise Refusal("invalid_field", message, "No provider knows both: make one of them again")
    await check_loose(node, flight, sorted(lines.loose))


# ---- asking for it


async def _submit(node: Node, flight: Flight, asked: _Asked, priced: Priced, attempt: Attempt, lines: Lines) -> None:
    """From the first byte on the batch counts as made. Raises Refusal, ClientGone."""
    option, provider = priced.option, priced.option.provider
    value = None if provider.auth == "none" else (await node.leases.borrow(option.key)).value
    if flight.exchange.gone:
        raise ClientGone  # nobody waits for it, and nothing is spent yet
    headers = upstream_headers(provider, flight.exchange, value)
    flight.dispatched = node.clock.monotonic()
    attempt.ending = "upstream_broken"
    try:
        response = await node.upstream.request(provider, "batches", headers, asked.request.body)
        if response.status >= 300:
            if provider.dialect.upstream.definite_refusal(response.status):
                attempt.ending = "refused"
            told, instead = await read_error(node, provider, option.key, response, value)
            if instead is not None:
                raise instead
            flight.word = "upstream_error"
        else:
            told, state = await _made(response, asked)
            await _keep(node, flight, asked, priced, attempt, lines, state)
    except UpstreamFault as fault:
        if not fault.sent:
            attempt.ending, flight.dispatched = "unsent", 0.0
        raise fault_refusal(node, provider, fault) from fault
    respond(flight, option, response, told)


async def _made(response: UpstreamResponse, asked: _Asked) -> tuple[bytes, BatchState]:
    """Raises UpstreamFault where the answer tells of no batch, or of one of another file."""
    if is_encoded(response):
        response.abort()
        raise UpstreamFault("malformed", "the answer is encoded", sent=True)
    told = await response.read(_MOST_ANSWER)
    state = asked.forms.state(told)
    if state is None or not is_id(state.id) or state.input_file != asked.request.input_file:
        raise UpstreamFault("malformed", "the answer tells of no batch of this file", sent=True)
    return told, state


async def _keep(
    node: Node, flight: Flight, asked: _Asked, priced: Priced, attempt: Attempt, lines: Lines, state: BatchState
) -> None:
    """On record, and followed. Raises Refusal(ids_unavailable): it is then cancelled, and followed all the same."""
    plan, option, now = flight.plan, priced.option, node.clock.now()
    assert plan is not None
    maker = Maker(plan.team_id, plan.key_id, option.provider.name, option.key.id)
    (batch,) = maker.made([Reference("batch", state.id)], node.id_lives, now)
    batch = msgspec.structs.replace(batch, about=state.shown.decode())
    job = Job(
        batch=state.id,
        input_file=asked.request.input_file,
        team=plan.team_id,
        key=plan.key_id,
        route=asked.request.route,
        model=option.priced_as,
        prices=option.provider.prices,
        made_at=now,
        lines=lines.count,
        ceiling=attempt.ceiling.pico,
        dearest=lines.dearest,
        hold=attempt.held.hold_id,
        boot=node.boot,
        by=node.boot,
        until=now + int(CLAIM_S * NS_PER_S),
    )
    record = job_record(job, batch)
    attempt.ending = "followed"
    try:
        await node.made_ids.keep([batch, record])
    except Refusal:
        with suppress(UpstreamFault, Refusal):
            await _cancel(node, priced, state.id)
        raise
    finally:
        follow_job(node, record)


async def _cancel(node: Node, priced: Priced, batch: str) -> None:
    option, provider = priced.option, priced.option.provider
    value = None if provider.auth == "none" else (await node.leases.borrow(option.key)).value
    target = f"{provider.targets['batches']}/{batch}/cancel"
    response = await node.upstream.ask(provider, "POST", target, upstream_headers(provider, None, value), b"")
    await response.read(_MOST_ANSWER)


def _end(node: Node, flight: Flight, attempt: Attempt) -> None:
    """Its hold, unless it is followed: tokens stay as expected where it may have been made."""
    if attempt.ending == "followed":
        return
    hold = attempt.held.hold_id
    if attempt.ending == "upstream_broken":
        node.money.post(hold, Settlement(attempt.ceiling.pico, None, False, attempt.ending))
        node.counters.add("bursar_inexact_total", (attempt.price.model, attempt.ending))
        flight.cost_pico += attempt.ceiling.pico
        return
    node.money.void(hold, attempt.ending)
    for reservation in attempt.reservations:
        node.rates.settle(reservation, 0, 0, node.clock.monotonic())


# ---- listing


async def _list(node: Node, flight: Flight) -> None:
    """The team's own, newest first, in pages, as they were last seen. Nothing is sent to a provider."""
    asked = dict(parse_qsl(flight.exchange.query[:4096], max_num_fields=32)) if flight.exchange.query else {}
    most = _limit(asked.get("limit", ""))
    after = await find_own(node, flight, Reference("batch", asked["after"])) if "after" in asked else None
    assert flight.plan is not None
    found = await node.made_ids.listed(flight.plan.team_id, "batch", most=most + 1, after=after)
    shown = found[:most]
    ends = (shown[0].id, shown[-1].id) if shown else (None, None)
    rows = [msgspec.Raw(made.about.encode()) for made in shown]
    page = _Page(data=rows, has_more=len(found) > most, first_id=ends[0], last_id=ends[1])
    fields = [("content-type", "application/json"), *id_fields(flight.dialect, flight.request_id)]
    flight.status = 200
    lines = header_lines(fields) + flight.headers + flight.limit_lines
    flight.exchange.respond(200, lines.encode("latin-1"), _encode(page))


def _limit(given: str) -> int:
    if not given:
        return _LISTED
    if not (given.isascii() and given.isdigit() and int(given[:9]) > 0 and len(given) < 10):
        raise Refusal("invalid_field", f"limit is {given[:40]!r}", "Send a whole number above zero")
    return min(int(given), _MOST_LISTED)
