"""Batches of the emulator: the lines of a file are answered one after the other, billed as they are, and written down.

How one goes is scripted in its metadata: ``{"emulator": "{\\"seconds\\": 2, \\"end\\": \\"expired\\"}"}``; what single
lines are answered is scripted in the lines. A batch goes on whenever somebody looks, as far as it is due.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from bursar.providers.emulator.answer import Answer, answer, error_body
from bursar.providers.emulator.counts import Counts
from bursar.providers.emulator.files import FilePage, Files
from bursar.providers.emulator.request import ROUTES, Request, Unfit
from bursar.providers.emulator.script import BadScript, Script

_MOST = 1_000
_WINDOW_S = 86_400
_UNDER_WAY = frozenset({"validating", "in_progress", "finalizing", "cancelling"})

Charge = Callable[[Request, Counts, int], None]
Read = Callable[[str, bytes], Request]  # endpoint, body


class BatchScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seconds: float = 0  # that all lines take together
    end: Literal["completed", "expired", "failed"] = "completed"
    after: int | None = None  # lines that are run before it ends otherwise than completed; default: half of them
    lose: int = 0  # lines that were run and stand in no result file
    counts: Literal["", "zero", "missing"] = ""  # a lie about how many were run
    input_file: str = ""  # a lie about whose input it read
    create: Script = Script()  # how the request that makes it is answered; it is made all the same
    away: int = 0  # looks at it that are answered with 503


class _Batch:
    def __init__(self, shown: dict[str, Any], script: BatchScript, lines: list[dict[str, Any]]) -> None:
        self.shown = shown
        self.script = script
        self.lines = lines
        self.begun = time.monotonic()
        self.done = 0
        self.stop_at = len(lines)
        self.away = script.away
        self.results: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []

    @property
    def due(self) -> int:
        share = 1.0 if not self.script.seconds else (time.monotonic() - self.begun) / self.script.seconds
        return min(self.stop_at, int(share * len(self.lines)))


class Batches:
    """`charge` is the desk's own, `read` its caller's: a line is read and billed as a call would be."""

    def __init__(self, files: Files, charge: Charge) -> None:
        self._files = files
        self._charge = charge
        self._batches: OrderedDict[str, _Batch] = OrderedDict()
        self._made = 0

    def page(self, method: str, path: str, body: bytes, read: Read) -> FilePage | None:
        """The answer to a request about batches; None when the path is none of theirs."""
        parts = path.removeprefix("/v1").strip("/").split("/")
        if parts[0] != "batches" or len(parts) > 3:
            return None
        if len(parts) == 1:
            return self._make(body, read) if method == "POST" else self._list(read)
        found = self._batches.get(parts[1])
        if found is None:
            return FilePage(404, f"No batch found with id '{parts[1]}'.")
        self._go_on(found, read)
        if found.away:
            found.away -= 1
            return FilePage(503, "The server is overloaded.")
        if parts[2:] == ["cancel"] and found.shown["status"] in _UNDER_WAY:
            self._finish(found, "cancelled")
        return FilePage(200, msgspec.json.encode(found.shown))

    def _list(self, read: Read) -> FilePage:
        for batch in self._batches.values():
            self._go_on(batch, read)
        rows = [batch.shown for batch in reversed(self._batches.values())]
        return FilePage(200, msgspec.json.encode({"object": "list", "data": rows, "has_more": False}))

    def _make(self, body: bytes, read: Read) -> FilePage:
        try:
            fields: dict[str, Any] = msgspec.json.decode(body)
            said = (fields.get("metadata") or {}).get("emulator", "{}")
            script = msgspec.json.decode(said, type=BatchScript)
            endpoint, file_id = fields["endpoint"], fields["input_file_id"]
        except (msgspec.DecodeError, KeyError) as error:
            return FilePage(400, f"Invalid request: {error}")
        content = self._files.content(file_id)
        if content is None:
            return FilePage(400, f"Invalid file id: {file_id}")
        if endpoint.encode() not in ROUTES:
            return FilePage(400, f"Invalid endpoint: {endpoint}")
        self._made += 1
        made_id = f"batch_{time.time_ns():016x}{self._made:08x}"
        now = int(time.time())
        lines = [msgspec.json.decode(line) for line in content.splitlines() if line.strip()]
        shown = {"id": made_id, "object": "batch", "endpoint": endpoint, "errors": None}
        shown |= {"input_file_id": script.input_file or file_id, "completion_window": fields["completion_window"]}
        shown |= {"status": "validating", "output_file_id": None, "error_file_id": None, "created_at": now}
        shown |= {"expires_at": now + _WINDOW_S, "metadata": fields.get("metadata")}
        shown |= dict.fromkeys(("in_progress_at", "completed_at", "failed_at", "expired_at", "cancelled_at"))
        batch = self._batches[made_id] = _Batch(shown, script, lines)
        if script.end != "completed":
            batch.stop_at = 0 if script.end == "failed" else len(lines) // 2 if script.after is None else script.after
        if len(self._batches) > _MOST:
            self._batches.popitem(last=False)
        first = msgspec.json.encode(self._counted(batch))  # nothing is done yet, whatever it takes
        self._go_on(batch, read)
        status = script.create.status
        return FilePage(status, first if status == 200 else "The server had an error.", script.create)

    # ---- running

    def _go_on(self, batch: _Batch, read: Read) -> None:
        """Answer the lines that are due; end where all are."""
        if batch.shown["status"] not in _UNDER_WAY:
            return
        batch.shown["status"] = "in_progress"
        while batch.done < batch.due:
            self._run(batch, batch.lines[batch.done], read)
            batch.done += 1
        if batch.done >= batch.stop_at and time.monotonic() >= batch.begun + batch.script.seconds:
            self._finish(batch, batch.script.end)
        self._counted(batch)

    def _run(self, batch: _Batch, line: dict[str, Any], read: Read) -> None:
        body = msgspec.json.encode(line["body"])
        try:
            request = read(line["url"], body)
            tier = msgspec.structs.replace(request.script, tier="batch")
            request = msgspec.structs.replace(request, script=tier)
            given = answer(request)
        except (Unfit, BadScript) as error:
            self._write(batch, line, 400, error_body("chat", 400, str(error)))
            return
        if given.counts is not None:
            self._charge(request, given.counts, given.counts.output)
        self._write(batch, line, request.script.status, _body_of(given))

    def _write(self, batch: _Batch, line: dict[str, Any], status: int, body: bytes) -> None:
        name = f"batch_req_{len(batch.results) + len(batch.errors):08x}"
        response = {"status_code": status, "request_id": name, "body": msgspec.Raw(body)}
        result = {"id": name, "custom_id": line.get("custom_id"), "response": response, "error": None}
        (batch.results if status == 200 else batch.errors).append(result)

    def _finish(self, batch: _Batch, how: str) -> None:
        shown = batch.shown
        shown["status"] = how
        shown[f"{how}_at"] = int(time.time())
        left = batch.lines[batch.done :] if how != "failed" else []
        for line in left:
            error = {"code": f"batch_{how}", "message": "This request was not executed."}
            batch.errors.append({"id": "", "custom_id": line.get("custom_id"), "response": None, "error": error})
        kept = batch.results[: max(0, len(batch.results) - batch.script.lose)]
        for field, rows in (("output_file_id", kept), ("error_file_id", batch.errors)):
            if rows:
                content = b"".join([msgspec.json.encode(row) + b"\n" for row in rows])
                shown[field] = self._files.keep(f"{shown['id']}_{field[:-8]}.jsonl", "batch_output", content)
        self._counted(batch)

    def _counted(self, batch: _Batch) -> dict[str, Any]:
        run, failed = len(batch.results), len(batch.errors)
        told = {"total": len(batch.lines), "completed": run, "failed": failed}
        if batch.script.counts == "zero":
            told = dict.fromkeys(told, 0)
        batch.shown["request_counts"] = None if batch.script.counts == "missing" else told
        return batch.shown


def _body_of(given: Answer) -> bytes:
    """The body of an answer that was made to be sent: what follows its head."""
    return b"".join([step.data for step in given.steps]).partition(b"\r\n\r\n")[2]
