"""The form in which a file is uploaded (multipart/form-data, RFC 7578): what is governed of it, read strictly.

The body goes on as it came, so a provider must not be able to read another purpose in it than was read here: whatever
two readers could take differently is refused. Shape: https://platform.openai.com/docs/api-reference/files/create.
"""

import re
from typing import NamedTuple

from bursar.core.calls import Purpose
from bursar.core.errors import Refusal

PURPOSES: dict[str, Purpose] = {
    "assistants": "inference",
    "vision": "inference",
    "user_data": "inference",
    "evals": "inference",
    "batch": "batch",
    "fine-tune": "fine-tuning",
}
"""What a file may be uploaded for, and what a key must be allowed to do for it."""

_FIELDS = frozenset({"purpose", "file", "expires_after[anchor]", "expires_after[seconds]"})
_MOST_HEAD = 4096  # bytes of the lines before one field's content
_MEDIA_TYPE = re.compile(
    r"multipart/form-data[ \t]*;[ \t]*boundary=(\"?)([A-Za-z0-9'+_.-]{1,70})\1[ \t]*", re.IGNORECASE
)
_DISPOSITION = re.compile(
    rb'form-data; ?name="([^"\\\r\n]+)"((?:; ?filename="[^"\\\r\n]*")?(?:; ?filename\*=[^\s;"\\]+)?)', re.IGNORECASE
)
_LINES = frozenset({b"content-disposition", b"content-type", b"content-length"})


class Upload(NamedTuple):
    purpose: str  # as the provider knows it, a key of PURPOSES
    media_type: str  # of the whole body, written anew

    @property
    def needs(self) -> Purpose:
        """What the key must be allowed to do."""
        return PURPOSES[self.purpose]


def read_upload(content_type: str, body: bytes) -> Upload:
    """Raises Refusal(malformed_request | duplicate_field | invalid_field)."""
    given = _MEDIA_TYPE.fullmatch(content_type)
    if given is None:
        raise _malformed("is sent as multipart/form-data, with a boundary of letters, digits and '+_.-")
    boundary = given[2]
    fields: dict[str, str] = {}
    for start, end in _parts(boundary.encode(), body):
        name, said = _field(body, start, end)
        if name in fields:
            raise Refusal("duplicate_field", f"The form has the field {name} twice", "Send it once")
        fields[name] = said
    if "file" not in fields:
        raise Refusal("invalid_field", "The form has no file", "Send the content as the field `file`")
    purpose = fields.get("purpose", "")
    if purpose not in PURPOSES:
        raise Refusal("invalid_field", f"purpose is {purpose[:40]!r}", f"Send one of: {', '.join(PURPOSES)}")
    return Upload(purpose, f"multipart/form-data; boundary={boundary}")


def _parts(boundary: bytes, body: bytes) -> list[tuple[int, int]]:
    """Where each part lies. The boundary may stand nowhere else, however a line before it ends."""
    mark = b"--" + boundary
    if not body.startswith(mark):
        raise _malformed("begins with its boundary")
    found: list[tuple[int, int]] = []
    at = len(mark)
    while (end := body.find(mark, at)) >= 0:
        if len(found) > len(_FIELDS):
            raise _malformed(f"has the fields {', '.join(sorted(_FIELDS))} only")
        if body[at : at + 2] != b"\r\n" or end - 2 < at + 2 or body[end - 2 : end] != b"\r\n":
            raise _malformed("has its boundary on lines of its own, each ended with CRLF")
        found.append((at + 2, end - 2))
        at = end + len(mark)
    if body[at:] not in (b"--", b"--\r\n"):
        raise _malformed("ends with its boundary and two dashes")
    return found


def _field(body: bytes, start: int, end: int) -> tuple[str, str]:
    """-> (name of the field, its text; of the file nothing)."""
    head_end = body.find(b"\r\n\r\n", start, min(end, start + _MOST_HEAD))
    if head_end < 0:
        raise _malformed("names each field in a few lines before its content")
    lines: dict[bytes, bytes] = {}
    for line in body[start:head_end].split(b"\r\n"):
        before, colon, value = line.partition(b":")
        title = before.lower()
        if not colon or title not in _LINES or title in lines or b"\n" in line or b"\r" in line:
            raise _malformed("has one content-disposition a field, at most one content-type, and nothing else")
        lines[title] = value.strip(b" \t")
    given = _DISPOSITION.fullmatch(lines.get(b"content-disposition", b""))
    name = given[1].decode("utf-8", "replace") if given else ""
    if given is None or name not in _FIELDS:
        raise Refusal(
            "invalid_field", f"The form has a field {name[:40]!r}", f"Known are: {', '.join(sorted(_FIELDS))}"
        )
    if name == "file":
        return name, ""
    if given[2]:
        raise Refusal("invalid_field", f"{name} is sent as a file", "Send it as a plain field")
    return name, body[head_end + 4 : min(end, head_end + 104)].decode("utf-8", "replace")


def _malformed(what: str) -> Refusal:
    return Refusal("malformed_request", f"An upload {what}", "Let an HTTP library build the form")
