"""The scrape endpoint, on a port of its own: plain ASGI, no token, nothing but numbers and bounded labels."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from bursar.control.metrics import OPENMETRICS, TEXT, MetricsBoard, wants_openmetrics

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Callable[[], Awaitable[Any]], Send], Awaitable[None]]


def build_metrics(
    board: MetricsBoard, processes: Callable[[], Mapping[str, int]], before: Callable[[], None] = lambda: None
) -> Application:
    """`processes` names the processes whose figures are shown: name -> pid. `before` runs before each scrape."""

    async def serve(scope: Scope, _receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] not in ("/metrics", "/healthz"):
            await _answer(send, 404, b"text/plain", b"see /metrics\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, b"text/plain", b"GET only\n")
        elif scope["path"] == "/healthz":
            await _answer(send, 200, b"text/plain", b"ok\n")
        else:
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            openmetrics = wants_openmetrics(accept)
            media_type = (OPENMETRICS if openmetrics else TEXT).encode()
            before()
            await _answer(send, 200, media_type, board.render(openmetrics, processes()))

    return serve


async def _answer(send: Send, status: int, media_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
