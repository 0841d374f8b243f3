"""The login over HTTP: what a browser is sent through, and where the terminal takes up its session. No token needed.

`GET /login?challenge=&port=` -> the issuer -> `GET /login/callback` -> the terminal's port -> `POST /login/token`.
`POST /login/end` ends the session whose token is sent: whoever has come may leave, whatever his role.
"""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route as HttpRoute

from bursar.control.admin_login import PENDING_S, Logins
from bursar.core.errors import Refusal
from bursar.core.roles import Role
from bursar.faces.admin_door import Door
from bursar.faces.admin_shapes import Shape, instant

_COOKIE = "bursar_login"
_MAX_BODY = 4_096
_MAX_QUERY = 8_192
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}

_Endpoint = Callable[[Logins, Request, str], Awaitable[Response]]


class TicketGiven(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ticket: str
    verifier: str


class LoggedIn(Shape, frozen=True, kw_only=True):
    """The only answer that ever holds the text of a session's token."""

    text: str
    session: str
    actor: str
    role: Role
    expires_at: str

    def __repr__(self) -> str:
        return f"LoggedIn({self.session}, ***)"


def login_routes(logins: Logins | None, door: Door) -> list[HttpRoute]:
    """`logins` None = nobody logs in at this node, and these routes say so."""

    async def begin(logins: Logins, request: Request, peer: str) -> Response:
        given = request.query_params
        port = given.get("port", "")
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
        begun = await logins.begin(given.get("challenge", ""), number, peer)
        answer = RedirectResponse(begun.url, 302, headers=_HEADERS)
        answer.set_cookie(
            _COOKIE,
            begun.cookie.reveal(),
            max_age=int(PENDING_S),
            path="/login",
            secure=logins.is_secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    async def callback(logins: Logins, request: Request, peer: str) -> Response:
        if len(request.url.query) > _MAX_QUERY:
            raise Refusal("login_unknown", "The issuer's answer is too long", "Begin again: bursar login")
        query = dict(request.query_params)
        back = await logins.finish(query, request.cookies.get(_COOKIE, ""), peer, door.slow)
        answer = RedirectResponse(back.url, 302, headers=_HEADERS)
        answer.delete_cookie(_COOKIE, path="/login", secure=logins.is_secure, httponly=True, samesite="lax")
        return answer

    async def token(logins: Logins, request: Request, peer: str) -> Response:
        given = await _ticket(request)
        session, text = await logins.redeem(given.ticket, given.verifier, peer, door.slow)
        told = LoggedIn(
            text=text.reveal(),
            session=session.id,
            actor=session.actor,
            role=session.role,
            expires_at=instant(session.expires_at),
        )
        return Response(msgspec.json.encode(told), media_type="application/json", headers=_HEADERS)

    async def end(logins: Logins, request: Request, peer: str) -> Response:
        await logins.end(await door.admit(request.headers.get("authorization", ""), peer))
        return Response(status_code=204, headers=_HEADERS)

    def served(path: str, method: str, endpoint: _Endpoint) -> HttpRoute:
        async def serve(request: Request) -> Response:
            door.check_host(request.headers.get("host", ""))
            if logins is None:
                hint = "Set admin.oidc in bursar.yaml, or use an admin token"
                raise Refusal("login_off", "Nobody logs in at this node", hint)
            return await endpoint(logins, request, request.client.host if request.client else "")

        route = HttpRoute(path, serve, methods=[method])
        route.methods = {method}  # Starlette adds HEAD to GET by itself, and a look must not use up a login
        return route

    return [
        served("/login", "GET", begin),
        served("/login/callback", "GET", callback),
        served("/login/token", "POST", token),
        served("/login/end", "POST", end),
    ]


async def _ticket(request: Request) -> TicketGiven:
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > _MAX_BODY:
            raise Refusal("body_too_large", "The body is larger than 4 kB", "Send ticket and verifier alone")
    try:
        return msgspec.json.decode(raw, type=TicketGiven)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Refusal("malformed_request", "The body is not a ticket and a verifier", "Use `bursar login`") from None
