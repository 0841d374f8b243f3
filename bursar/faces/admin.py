"""The admin API over HTTP: Starlette around the route table. Errors are problem+json (RFC 9457) and say what to do."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as HttpRoute

from bursar.control.admin_login import Logins
from bursar.control.directory import BREAK_GLASS, CARRIED_OUT, PREVIEW, Previewed
from bursar.core.errors import RULES, Refusal
from bursar.core.strict import EnvText, Fault, Faults, read
from bursar.faces.admin_calls import AdminCall, Services
from bursar.faces.admin_door import Door
from bursar.faces.admin_history import preview_view, undo_of
from bursar.faces.admin_login import login_routes
from bursar.faces.admin_routes import PREFIX, ROUTES, Route
from bursar.faces.openapi import document

UNDO_HEADER = "bursar-undo"
"""In an answer: the change that was made, where it can be taken back."""

_OF_CHANGES = frozenset({"preview", "break_glass"})  # parameters of every route that changes the directory
_LONGEST_REASON = 200

PROBLEM = "application/problem+json"

_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_Endpoint = Callable[[Request], Awaitable[Response]]


def build_admin(services: Services, door: Door, version: str, logins: Logins | None = None) -> Starlette:
    """The application. `/healthz`, `/openapi.json` and `/login` are open, everything else wants an admin token whose
    role may do it."""
    described = document(ROUTES, version)

    async def openapi(request: Request) -> Response:
        door.check_host(request.headers.get("host", ""))
        return _answer(200, described)

    async def healthz(_: Request) -> Response:
        return Response("ok\n", media_type="text/plain", headers=_NO_STORE)

    routes = [
        HttpRoute("/healthz", healthz, methods=["GET"]),
        HttpRoute("/openapi.json", openapi, methods=["GET"]),
        *login_routes(logins, door),
        *(_http_routes(services, door)),
    ]
    handlers: Mapping[Any, Any] = {
        Refusal: _on_refusal,
        Faults: _on_faults,
        HTTPException: _on_http,
        ClientDisconnect: _on_gone,
        Exception: _on_bug,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


def _http_routes(services: Services, door: Door) -> list[HttpRoute]:
    """One Starlette route a path, so that a wrong method on a known path is told from an unknown path."""
    by_path: dict[str, dict[str, _Endpoint]] = {}
    for route in ROUTES:
        by_path.setdefault(PREFIX + route.path, {})[route.method] = _endpoint(route, services, door)

    def choose(methods: dict[str, _Endpoint]) -> _Endpoint:
        async def serve(request: Request) -> Response:
            return await methods[request.method](request)

        return serve

    served = [HttpRoute(path, choose(methods), methods=list(methods)) for path, methods in by_path.items()]
    for http_route in served:
        http_route.methods = (http_route.methods or set()) - {"HEAD"}  # Starlette adds it to GET by itself
    return served


def _endpoint(route: Route, services: Services, door: Door) -> _Endpoint:
    async def serve(request: Request) -> Response:
        door.check_host(request.headers.get("host", ""))
        peer = request.client.host if request.client else ""
        caller = await door.admit(request.headers.get("authorization", ""), peer)
        caller.require(route.right)
        call = AdminCall(
            services=services,
            door=door,
            caller=caller,
            path=request.path_params,
            query=_read_query(route, request),
            body=await _read_body(route, request),
        )
        # They are of this call alone: each request is a task of its own, with a context of its own.
        PREVIEW.set(_wants_preview(route, request))
        CARRIED_OUT.set(())
        BREAK_GLASS.set(_reason(route, request))
        try:
            result = await route.call(call)
        except Previewed as previewed:
            return _answer(200, preview_view(previewed))
        if route.streams:
            assert isinstance(result, AsyncIterator)
            return StreamingResponse(result, media_type="application/octet-stream", headers=_NO_STORE)
        response = Response(status_code=204, headers=_NO_STORE)
        if route.answer is not None:
            response = _answer(201 if route.created else 200, result)
        undo = undo_of(CARRIED_OUT.get())
        if undo is not None:
            response.headers[UNDO_HEADER] = str(undo)
        return response

    return serve


def _wants_preview(route: Route, request: Request) -> bool:
    """Raises Refusal(no_preview) before anything was done."""
    wanted = request.query_params.get("preview", "false")
    if wanted not in ("true", "false"):
        raise Refusal("invalid_input", "preview is true or false", "Send preview=true")
    if wanted == "true" and not route.previews:
        raise Refusal("no_preview", f"{route.summary}: this cannot be tried out first", "Leave preview out")
    return wanted == "true"


def _reason(route: Route, request: Request) -> str:
    """Why what is kept in files is changed by hand. Raises Refusal(invalid_input)."""
    reason = request.query_params.get("break_glass", "").strip()
    if reason and (not route.previews or len(reason) > _LONGEST_REASON or not reason.isprintable()):
        message = f"{route.summary}: break_glass is for changes of the directory, and a reason of one line"
        raise Refusal("invalid_input", message, "Leave it out, or say why in a few words")
    return reason


def _read_query(route: Route, request: Request) -> object:
    given = {name: EnvText(value) for name, value in request.query_params.items() if name not in _OF_CHANGES}
    if route.query is not None:
        return read(route.query, given)
    if given:
        names = sorted(given)
        raise Faults([Fault(name, "unknown_key", "this route takes no parameters", "leave it out") for name in names])
    return None


async def _read_body(route: Route, request: Request) -> object:
    """The body as the route's kind; for a PATCH, the plain merge patch, read once its turn has come."""
    if route.body is None:
        return None
    raw = await _bytes_of(request, route.most)
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type not in {"application/json", "application/merge-patch+json"}:
        raise Refusal("unsupported_media_type", "The body is not JSON", "Send content-type: application/json")
    try:
        data = msgspec.json.decode(raw) if raw else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("malformed_request", f"The body is not JSON: {error}", "Send one JSON object") from None
    if not isinstance(data, Mapping):
        raise Refusal("malformed_request", "The body is not a JSON object", "Send one JSON object")
    return data if route.method == "PATCH" else read(route.body, data)


async def _bytes_of(request: Request, most: int) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise Refusal("body_too_large", f"The body is larger than {most >> 20} MiB", "Send less")
        pieces.append(piece)
    return b"".join(pieces)


def _answer(status: int, value: object) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=_NO_STORE)


# ---- problems


def problem(refusal: Refusal, faults: list[Fault] | None = None) -> dict[str, Any]:
    """RFC 9457 with `code` (the stable word), `hint` (what to do next), and the faults of an input by path."""
    rule = RULES[refusal.word]
    told: dict[str, Any] = {
        "type": f"urn:bursar:refusal:{refusal.word}",
        "title": rule.title,
        "status": rule.status,
        "detail": refusal.message,
        "code": refusal.word,
        "hint": refusal.hint,
    }
    if refusal.facts:
        told["facts"] = refusal.facts
    if faults:
        told["faults"] = faults
    return told


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _problem(error)


async def _on_faults(_: Request, error: Exception) -> Response:
    assert isinstance(error, Faults)
    first = error.faults[0]
    more = f" (and {len(error.faults) - 1} more)" if len(error.faults) > 1 else ""
    hint = first.hint or "Correct the fields named in `faults`"
    return _problem(Refusal("invalid_input", f"{first.path}: {first.message}{more}", hint), error.faults)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _problem(Refusal("method_not_allowed", "The path takes other methods", "See /openapi.json"))
    return _problem(Refusal("not_found", "There is no such path in the admin API", "See /openapi.json"))


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_bug(_: Request, __: Exception) -> Response:
    """Starlette logs the traceback; the caller learns nothing of our insides."""
    return _problem(Refusal("internal_error", "Something failed inside Bursar", "Its log has the details"))


def _problem(refusal: Refusal, faults: list[Fault] | None = None) -> Response:
    headers = dict(_NO_STORE)
    if refusal.retry_after is not None:
        headers["retry-after"] = str(max(1, round(refusal.retry_after)))
    if RULES[refusal.word].status == 401:
        headers["www-authenticate"] = 'Bearer realm="bursar admin"'
    body = msgspec.json.encode(problem(refusal, faults))
    return Response(body, status_code=RULES[refusal.word].status, media_type=PROBLEM, headers=headers)
