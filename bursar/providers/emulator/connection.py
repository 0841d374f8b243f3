"""The emulator's side of one TCP connection: HTTP/1.1 with keep-alive and pipelining, nothing more."""

import asyncio
import math
from collections import deque
from typing import Literal, cast

import httptools
import msgspec

from bursar.providers.emulator import anthropic_answers, openai_answers
from bursar.providers.emulator.answer import Answer, answer, error_body, head
from bursar.providers.emulator.desk import Arrival, Desk
from bursar.providers.emulator.files import FilePage
from bursar.providers.emulator.request import ROUTES, Request, Unfit, read_request
from bursar.providers.emulator.script import HEADER, BadScript
from bursar.providers.emulator.steps import Step, whole_steps


class Connection(asyncio.Protocol):
    """Answers its requests one after the other. A caller that leaves cancels the answer under way."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Arrival] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but type
        self._desk.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._desk.connections -= 1
        self._waiting.clear()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    # -- httptools

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        arrival = Arrival(self._parser.get_method(), self._url, self._headers, b"".join(self._body))
        self._url, self._headers, self._body = b"", [], []
        if self._task is None:
            self._serve(arrival)
        else:
            self._waiting.append(arrival)

    # -- answering

    def _serve(self, arrival: Arrival) -> None:
        key = self._desk.note(arrival)
        path = arrival.url.partition(b"?")[0]
        route = ROUTES.get(path)
        if route is None or arrival.method != b"POST":
            steps = self._scripted_page(arrival, path) or [Step(0, self._desk_page(arrival, path))]
            self._give(None, Answer(steps=steps, counts=None))
            return
        if self._desk.wrong(arrival):
            self._refuse(route, 401)
            return
        header = arrival.header(HEADER)
        try:
            desk = self._desk
            request = read_request(desk.next_id(), route, key, header, arrival.body, desk.seed, desk.kept.before)
            given = answer(request)
        except (Unfit, BadScript) as error:
            self._refuse(route, 400, str(error))
            return
        if given.kept is not None:
            desk.kept.keep(request, given.kept)
        self._give(request, given)

    def _refuse(self, route: str, status: int, message: str = "") -> None:
        body = error_body(route, status, message)
        self._transport.write(head(status, len(body)) + body)

    def _desk_page(self, arrival: Arrival, path: bytes) -> bytes:
        if path == b"/_emulator":
            body = self._desk.report()
        elif path == b"/healthz":
            body = b"{}"
        elif path.endswith(b"/models"):
            shape = anthropic_answers if arrival.header(b"anthropic-version") else openai_answers
            body = shape.models()
        else:
            return self._kept_page(arrival, path)
        return head(200, len(body)) + body

    def _scripted_page(self, arrival: Arrival, path: bytes) -> list[Step]:
        """About files and batches, or nothing where the path names none."""
        desk, key = self._desk, self._desk.key_of(arrival)
        media_type = arrival.header(b"content-type").decode("latin-1")
        method, place = arrival.method.decode(), path.decode("latin-1")

        def read(endpoint: str, body: bytes) -> Request:
            desk.calls += 1
            name = desk.next_id()
            return read_request(name, ROUTES[endpoint.encode()], key, b"", body, desk.seed, desk.kept.before)

        page = desk.files.page(method, place, media_type, arrival.body)
        page = page or desk.batches.page(method, place, arrival.body, read)
        if page is None:
            return []
        status, told, script = FilePage(401, "") if desk.wrong(arrival) else page
        body = told if isinstance(told, bytes) else error_body("chat", status, told)
        return whole_steps(script, head(status, len(body)), body, 0)

    def _kept_page(self, arrival: Arrival, path: bytes) -> bytes:
        """About something that was made before, or nothing at all."""
        page = self._desk.kept.page(arrival.method.decode(), path.decode("latin-1"), arrival.body)
        if page is None:
            body = error_body("messages" if b"messages" in path else "chat", 404)
            return head(404, len(body)) + body
        status, told = (401, "") if self._desk.wrong(arrival) else page
        body = error_body("chat", status, str(told)) if status != 200 else msgspec.json.encode(told)
        return head(status, len(body)) + body

    def _give(self, request: Request | None, given: Answer) -> None:
        """At once when nothing waits, else as a task."""
        if self._desk.latency and request is not None:
            first = given.steps[0]
            given.steps[0] = first._replace(wait=first.wait + self._desk.latency)
        if any(step.wait or step.close for step in given.steps):
            self._task = asyncio.get_running_loop().create_task(self._play(request, given))
            return
        if (
            request is not None and given.counts is not None
        ):  # before the answer leaves: whoever has the answer finds it on the bill
            self._desk.charge(request, given.counts, given.counts.output, "error" if given.bill_whole else "done")
        self._transport.write(b"".join([step.data for step in given.steps]))

    async def _play(self, request: Request | None, given: Answer) -> None:
        """Step by step. What is billed is what was generated: once it is complete, or when either side breaks off."""
        billing = _Billing(self._desk, request, given)
        try:
            for step in given.steps:
                if step.wait:
                    await (asyncio.sleep(step.wait) if step.wait != math.inf else asyncio.Event().wait())
                if not self._writable.is_set():
                    await self._writable.wait()
                billing.reached(step.generated)
                self._transport.write(step.data)
                if step.close:
                    billing.end("disconnected")
                    self._transport.close()
        except asyncio.CancelledError:
            billing.end("abandoned")
            raise
        self._task = None
        while self._waiting and self._task is None and not self._transport.is_closing():
            self._serve(self._waiting.popleft())


class _Billing:
    """Charges one answer once."""

    def __init__(self, desk: Desk, request: Request | None, given: Answer) -> None:
        self._desk = desk
        self._request = request
        self._given = given
        self._generated = 0
        self._open = given.counts is not None

    def reached(self, generated: int) -> None:
        self._generated = generated
        counts = self._given.counts
        if self._open and counts is not None and generated >= counts.output:
            self._charge(generated, "error" if self._given.bill_whole else "done")

    def end(self, how: Literal["abandoned", "disconnected"]) -> None:
        counts = self._given.counts
        if not self._open or counts is None or self._request is None:
            return
        rule = self._request.script.abandoned if how == "abandoned" else "so_far"
        if rule != "none":
            self._charge(counts.output if rule == "full" else self._generated, how)

    def _charge(self, output: int, how: Literal["done", "abandoned", "disconnected", "error"]) -> None:
        self._open = False
        assert self._given.counts is not None
        assert self._request is not None
        self._desk.charge(self._request, self._given.counts, output, how)
