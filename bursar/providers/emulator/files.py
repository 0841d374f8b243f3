"""Files that the emulator keeps, in memory: uploaded, listed, shown, read and deleted by whoever holds the key.

How requests about a file are answered is scripted in its content, where that has a line such as
``[[emulator-file {"on": "content", "script": {"stall": "mid_stream"}}]]``.
"""

import email.message
import email.parser
import email.policy
import time
from collections import OrderedDict
from typing import Any, Literal, NamedTuple

import msgspec

from bursar.providers.emulator.openai_answers import CREATED
from bursar.providers.emulator.script import Script

_MOST = 1_000
_PURPOSES = frozenset({"assistants", "vision", "user_data", "evals", "batch", "fine-tune"})

_MARK = b"[[emulator-file "


class FilePage(NamedTuple):
    status: int
    told: bytes | str  # the body, or what an error says
    script: Script = Script()


class FileScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    on: Literal["upload", "show", "content", "delete"]
    id: str = ""  # a lie about the id at the upload
    script: Script = Script()


_script = msgspec.json.Decoder(FileScript).decode


class _Kept(NamedTuple):
    shown: dict[str, Any]
    content: bytes


class Files:
    def __init__(self) -> None:
        self._files: OrderedDict[str, _Kept] = OrderedDict()
        self._made = 0

    def page(self, method: str, path: str, media_type: str, body: bytes) -> FilePage | None:
        """The answer to a request about files; None when the path is none of theirs."""
        parts = path.removeprefix("/v1").strip("/").split("/")
        if parts[0] != "files" or len(parts) > 3:
            return None
        if len(parts) == 1:
            return self._upload(media_type, body) if method == "POST" else self._list()
        found = self._files.get(parts[1])
        if found is None:
            return FilePage(404, f"No such File object: {parts[1]}")
        if parts[2:] == ["content"]:
            return _scripted(found.content, "content", FilePage(200, found.content))
        if method == "DELETE":
            del self._files[parts[1]]
            told = msgspec.json.encode({"id": parts[1], "object": "file", "deleted": True})
            return _scripted(found.content, "delete", FilePage(200, told))
        return _scripted(found.content, "show", FilePage(200, msgspec.json.encode(found.shown)))

    def _list(self) -> FilePage:
        rows = [kept.shown for kept in reversed(self._files.values())]
        return FilePage(200, msgspec.json.encode({"object": "list", "data": rows, "has_more": False}))

    def _upload(self, media_type: str, body: bytes) -> FilePage:
        """Read with a parser of mails: quite another one than the broker's, as a provider's would be."""
        parser = email.parser.BytesParser(policy=email.policy.HTTP)
        form = parser.parsebytes(f"content-type: {media_type}\r\n\r\n".encode("latin-1") + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
        if "file" not in parts or "purpose" not in parts:
            return FilePage(400, "Missing required parameter: 'file' or 'purpose'.")
        purpose = _content(parts["purpose"]).decode()
        if purpose not in _PURPOSES:
            return FilePage(400, f"'{purpose}' is not one of {sorted(_PURPOSES)} - 'purpose'")
        content = _content(parts["file"])
        shown = self._files[self.keep(parts["file"].get_filename() or "upload", purpose, content)].shown
        said = _said(content)
        if said is not None and said.id:
            shown = {**shown, "id": said.id}
        return _scripted(content, "upload", FilePage(200, msgspec.json.encode(shown)))

    def keep(self, name: str, purpose: str, content: bytes) -> str:
        """A new file, and its id."""
        self._made += 1
        made_id = f"file-{time.time_ns():016x}{self._made:08x}"
        shown = {"id": made_id, "object": "file", "bytes": len(content), "created_at": CREATED}
        self._files[made_id] = _Kept(shown | {"filename": name, "purpose": purpose, "status": "processed"}, content)
        if len(self._files) > _MOST:
            self._files.popitem(last=False)
        return made_id

    def content(self, made_id: str) -> bytes | None:
        found = self._files.get(made_id)
        return None if found is None else found.content


def _said(content: bytes) -> FileScript | None:
    """What the content says of its own answers; in the result file of a batch it stands inside a JSON text."""
    start = content.find(_MARK)
    if start < 0:
        return None
    said = content[start + len(_MARK) : content.find(b"]]", start)].replace(b'\\"', b'"')
    try:
        return _script(said)
    except msgspec.DecodeError:
        return None  # that of another file, inside the text of this one


def _scripted(content: bytes, on: str, page: FilePage) -> FilePage:
    said = _said(content)
    if said is None or said.on != on:
        return page
    told = page.told if said.script.status == 200 else "The server had an error."
    return FilePage(said.script.status, told, said.script)


def _content(part: email.message.Message) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content
