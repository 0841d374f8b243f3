"""`/v1/files`: what a team has uploaded, and uploading more of it. One file is shown, read and deleted by `owned`.

An upload goes up as it came, to one account; its id is the team's before the caller learns it. A list is made from our
own record: the provider's would name every team's files. Nothing here costs money at the provider.
"""

import asyncio
from contextlib import suppress
from urllib.parse import parse_qsl

import msgspec

from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.made_ids import MadeId, Maker, Reference, is_id
from bursar.core.observing import is_passed_on
from bursar.core.policy import check_purpose
from bursar.core.uploads import Upload, read_upload
from bursar.gateway.admit import admit
from bursar.gateway.answer import header_lines, id_fields
from bursar.gateway.flight import Flight
from bursar.gateway.forward import upstream_headers
from bursar.gateway.node import Node, Option
from bursar.gateway.own import find_own
from bursar.gateway.owned import account_of, check_whose_form, respond, send, value_for
from bursar.gateway.routes import Route
from bursar.gateway.upstream_errors import fault_refusal, is_encoded
from bursar.ports import UpstreamResponse

_MOST_ANSWER = 2**16  # bytes: what a provider says of one file
_MOST_PAGE = 2**24  # bytes: a provider's own list
_MOST_NAME = 255  # characters of a file's name that are kept
_MOST_LISTED = 1_000  # a page; OpenAI's longest has 10,000, and its clients ask for what follows
_MOST_LOOKED_AT = 10_000  # files in one request, whatever they were uploaded for


class _File(msgspec.Struct):
    """https://platform.openai.com/docs/api-reference/files/object, what is shown in a list."""

    id: str
    object: str = "file"
    bytes: int = 0
    created_at: int = 0  # s
    expires_at: int | None = None  # s
    filename: str = ""
    purpose: str = ""
    status: str = "processed"


class _Page(msgspec.Struct):
    data: list[_File]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: str = "list"


_file = msgspec.json.Decoder(_File).decode
_encode = msgspec.json.Encoder().encode
_NO_FILE = "the answer tells of no file"


async def serve_files(node: Node, flight: Flight, route: Route) -> None:
    """Raises Refusal(purpose_not_allowed | unknown_id | ids_unavailable | no_provider_key | invalid_field | ...)."""
    check_whose_form(flight, route)
    await admit(node, flight)
    if flight.exchange.method == "GET" and flight.plan is not None and is_passed_on(flight.plan.observed):
        await _pass_on(node, flight, route)
    elif flight.exchange.method == "GET":
        await _list(node, flight)
    else:
        await _upload(node, flight, route)


# ---- uploading


async def _upload(node: Node, flight: Flight, route: Route) -> None:
    exchange = flight.exchange
    body = await exchange.body()
    upload = await asyncio.to_thread(read_upload, exchange.headers.get("content-type", ""), body)
    assert flight.plan is not None
    flight.plan = node.tenants.current(flight.plan)  # a file may take its time, and the rules may change meanwhile
    check_purpose(flight.plan, upload.needs)
    way = account_of(node, flight, route, purpose=upload.needs)
    try:
        response = await send(node, flight, way, route, body, upload.media_type)
        if response is not None:
            told = await _read(response)
            await _keep(node, flight, way, route, _checked(told, upload))
            respond(flight, way, response, told)
    except UpstreamFault as fault:
        raise fault_refusal(node, way.provider, fault) from fault


async def _read(response: UpstreamResponse, most: int = _MOST_ANSWER) -> bytes:
    if is_encoded(response):
        response.abort()
        raise UpstreamFault("malformed", "the answer is encoded", sent=True)
    return await response.read(most)


def _checked(told: bytes, upload: Upload) -> _File:
    """What the provider says that it made. Raises UpstreamFault where that is no file, or one for something else."""
    try:
        file = _file(told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamFault("malformed", _NO_FILE, sent=True) from None
    if not is_id(file.id) or file.object != "file" or file.purpose != upload.purpose:
        raise UpstreamFault("malformed", _NO_FILE, sent=True)
    file.filename = file.filename[:_MOST_NAME]
    return file


async def _keep(node: Node, flight: Flight, way: Option, route: Route, file: _File) -> None:
    """Raises Refusal(ids_unavailable); the file is then taken away again, because nobody could."""
    assert flight.plan is not None
    maker = Maker(flight.plan.team_id, flight.plan.key_id, way.provider.name, way.key.id)
    made = maker.made([Reference("file", file.id)], node.id_lives, node.clock.now())
    try:
        await node.made_ids.keep([msgspec.structs.replace(one, about=_encode(file).decode()) for one in made])
    except Refusal:
        with suppress(UpstreamFault, Refusal):  # it stays at the provider, where no team can name it
            await _take_away(node, flight, way, route, file.id)
        raise


async def _take_away(node: Node, flight: Flight, way: Option, route: Route, file_id: str) -> None:
    provider, value = way.provider, await value_for(node, flight, way)
    target = f"{provider.targets[route.name]}/{file_id}"
    response = await node.upstream.ask(provider, "DELETE", target, upstream_headers(provider, None, value), b"")
    await response.read(_MOST_ANSWER)


# ---- listing


async def _pass_on(node: Node, flight: Flight, route: Route) -> None:
    """To the account of the provider key that the call came with: the list is its own."""
    way = account_of(node, flight, route)
    try:
        response = await send(node, flight, way, route, b"")
        if response is not None:
            respond(flight, way, response, await _read(response, _MOST_PAGE))
    except UpstreamFault as fault:
        raise fault_refusal(node, way.provider, fault) from fault


async def _list(node: Node, flight: Flight) -> None:
    """The team's own, newest first, in pages. Nothing is sent to a provider."""
    asked = dict(parse_qsl(flight.exchange.query[:4096], max_num_fields=32)) if flight.exchange.query else {}
    most, newest_first = _limit(asked.get("limit", "")), _newest_first(asked.get("order", ""))
    after = await find_own(node, flight, Reference("file", asked["after"])) if "after" in asked else None
    found = await _matching(node, flight, asked.get("purpose", ""), most + 1, after, newest_first=newest_first)
    shown = found[:most]
    ends = (shown[0].id, shown[-1].id) if shown else (None, None)
    page = _Page(data=shown, has_more=len(found) > most, first_id=ends[0], last_id=ends[1])
    fields = [("content-type", "application/json"), *id_fields(flight.dialect, flight.request_id)]
    flight.status = 200
    lines = header_lines(fields) + flight.headers + flight.limit_lines
    flight.exchange.respond(200, lines.encode("latin-1"), _encode(page))


async def _matching(
    node: Node, flight: Flight, purpose: str, most: int, after: MadeId | None, *, newest_first: bool
) -> list[_File]:
    """Of the team's files those uploaded for a purpose ("" = any). Raises Refusal(ids_unavailable | invalid_field)."""
    assert flight.plan is not None
    team = flight.plan.team_id
    found: list[_File] = []
    looked_at = 0
    while len(found) < most:
        made = await node.made_ids.listed(team, "file", most=most, after=after, newest_first=newest_first)
        found += [file for file in map(_shown, made) if purpose in ("", file.purpose)]
        looked_at += len(made)
        if len(made) < most:
            break
        if looked_at > _MOST_LOOKED_AT:
            raise Refusal("invalid_field", "Too few of the team's files are of this purpose", "List without `purpose`")
        after = made[-1]
    return found[:most]


def _shown(made: MadeId) -> _File:
    return _file(made.about) if made.about else _File(id=made.id, created_at=made.made_at // 10**9)


def _limit(given: str) -> int:
    if not given:
        return _MOST_LISTED
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) > 0):
        raise Refusal("invalid_field", f"limit is {given[:40]!r}", "Send a whole number above zero")
    return min(int(given), _MOST_LISTED)


def _newest_first(given: str) -> bool:
    if given not in ("", "asc", "desc"):
        raise Refusal("invalid_field", f"order is {given[:40]!r}", "Send asc or desc")
    return given != "asc"
