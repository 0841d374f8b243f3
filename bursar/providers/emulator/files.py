"""Files that the emulator keeps, in memory: uploaded, listed, shown, read and deleted by whoever holds the key."""

import email.message
import email.parser
import email.policy
import time
from collections import OrderedDict
from typing import Any, NamedTuple

import msgspec

from bursar.providers.emulator.openai_answers import CREATED

_MOST = 1_000
_PURPOSES = frozenset({"assistants", "vision", "user_data", "evals", "batch", "fine-tune"})

FilePage = tuple[int, bytes | str]  # status; the body, or what an error says


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
            return 404, f"No such File object: {parts[1]}"
        if parts[2:] == ["content"]:
            return 200, found.content
        if method == "DELETE":
            del self._files[parts[1]]
            return 200, msgspec.json.encode({"id": parts[1], "object": "file", "deleted": True})
        return 200, msgspec.json.encode(found.shown)

    def _list(self) -> FilePage:
        rows = [kept.shown for kept in reversed(self._files.values())]
        return 200, msgspec.json.encode({"object": "list", "data": rows, "has_more": False})

    def _upload(self, media_type: str, body: bytes) -> FilePage:
        """Read with a parser of mails: quite another one than the broker's, as a provider's would be."""
        parser = email.parser.BytesParser(policy=email.policy.HTTP)
        form = parser.parsebytes(f"content-type: {media_type}\r\n\r\n".encode("latin-1") + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
        if "file" not in parts or "purpose" not in parts:
            return 400, "Missing required parameter: 'file' or 'purpose'."
        purpose = _content(parts["purpose"]).decode()
        if purpose not in _PURPOSES:
            return 400, f"'{purpose}' is not one of {sorted(_PURPOSES)} - 'purpose'"
        made_id = self.keep(parts["file"].get_filename() or "upload", purpose, _content(parts["file"]))
        return 200, msgspec.json.encode(self._files[made_id].shown)

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


def _content(part: email.message.Message) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content
