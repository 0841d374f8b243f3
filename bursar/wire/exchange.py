"""One request of a client and its answer. The other half, receiving, is `connection`."""

from collections.abc import Callable, Sequence
from typing import Protocol

from bursar.core.errors import ClientGone
from bursar.wire.head import RequestHead, header_block, status_line

Headers = Sequence[tuple[str, str]] | bytes

_JOIN_UP_TO = 65536  # bytes of body that are cheaper to copy behind the head than to write apart


class Channel(Protocol):
    """What an exchange needs of its connection."""

    peer: str

    async def whole_body(self) -> bytes: ...

    def may_stay(self) -> bool: ...

    def send(self, data: bytes) -> None: ...

    def post(self, data: bytes) -> None: ...

    def answered(self, *, stay: bool) -> None: ...

    def break_off(self, *, visibly: bool) -> None: ...


class Exchange:
    """`headers` have lower-case names. `received` is the monotonic instant at which the head was whole.

    `gone` turns True, and `on_gone` is called once, when the client's connection is lost before the answer was
    finished; the handler is not cancelled. `on_flow(True)` asks the producer to pause, `on_flow(False)` to go on.
    Answers to a client that has gone are dropped silently.
    """

    __slots__ = (
        "_bare",
        "_body",
        "_channel",
        "_chunked",
        "_keep_alive",
        "_old",
        "_stay",
        "finished",
        "gone",
        "headers",
        "memo",
        "method",
        "on_flow",
        "on_gone",
        "path",
        "peer",
        "query",
        "received",
        "started",
    )

    def __init__(self, channel: Channel, head: RequestHead, body: bytes | None, received: float) -> None:
        self.method: str = head.method
        self.path: str = head.path
        self.query: str = head.query
        self.headers: dict[str, str] = head.headers
        self.memo: dict[str, object] = head.memo
        self.peer: str = channel.peer
        self.received: float = received
        self.gone = False
        self.started = False
        self.finished = False
        self.on_gone: Callable[[], None] | None = None
        self.on_flow: Callable[[bool], None] | None = None
        self._channel = channel
        self._body = body
        self._keep_alive = head.keep_alive
        self._old = head.old
        self._chunked = False
        self._bare = False
        self._stay = False

    async def body(self) -> bytes:
        """The whole body; does not suspend when it is here already.

        Raises Refusal(body_too_large | request_timeout | overloaded | malformed_request) or ClientGone.
        """
        if self._body is None:
            self._body = await self._channel.whole_body()
        elif self.gone and not self._body:
            raise ClientGone
        return self._body

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer at once; content-length is added."""
        head = self._head(status, headers)
        self.finished = True
        if self.gone:
            return
        if status in (204, 304):
            self._channel.post(head + b"\r\n")
        elif self.method == "HEAD" or len(body) > _JOIN_UP_TO:
            self._channel.send(b"%bcontent-length: %d\r\n\r\n" % (head, len(body)))
            if self.method != "HEAD":
                self._channel.send(body)
        else:
            self._channel.post(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self._channel.answered(stay=self._stay)

    def start(self, status: int, headers: Headers) -> None:
        """Send the head of an answer whose length is not known. HTTP/1.0 gets it delimited by the close."""
        self._bare = self.method == "HEAD" or status in (204, 304)
        self._chunked = not self._old
        if self._old:
            self._keep_alive = False
        head = self._head(status, headers)
        if not self.gone:
            chunked = self._chunked and not self._bare
            self._channel.send(head + (b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n"))

    def write(self, chunk: bytes) -> None:
        """Send one piece of a started answer at once."""
        if self.gone or not chunk or self._bare:
            return
        if not self.started or self.finished:
            raise RuntimeError("the answer is not open")
        self._channel.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    def finish(self) -> None:
        """The started answer is whole."""
        if not self.started or self.finished:
            raise RuntimeError("the answer is not open")
        self.finished = True
        if not self.gone:
            if self._chunked and not self._bare:
                self._channel.send(b"0\r\n\r\n")
            self._channel.answered(stay=self._stay)

    def abort(self) -> None:
        """Break the connection off so that the client sees that the answer is not whole. Safe to call twice."""
        if not self.finished:
            self.finished = True
            if not self.gone:
                self._channel.break_off(visibly=self.started and not self._chunked)

    def lost(self) -> None:
        """The client has left. For the connection only."""
        if not self.finished and not self.gone:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()

    def _head(self, status: int, headers: Headers) -> bytes:
        if self.started:
            raise RuntimeError("the answer was started already")
        block = headers if isinstance(headers, bytes) else header_block(headers)
        line = status_line(status)
        self.started = True
        self._stay = self._keep_alive and self._channel.may_stay()
        if not self._stay:
            return b"%b%bconnection: close\r\n" % (line, block)
        if self._old:
            return b"%b%bconnection: keep-alive\r\n" % (line, block)
        return line + block
