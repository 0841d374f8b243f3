"""The content of one request, piece by piece: what guards look at and estimates count, the same for every endpoint."""

from typing import Literal, NamedTuple

Kind = Literal["text", "argument", "schema", "name", "label", "number", "tokens", "reference", "media", "opaque"]
"""text: said by a person or a model, also in documents and tool results · argument: of a tool call · schema: what a
tool or a structured answer is described with · name: a key of an object that a caller made up · label: a word of the
API itself (role, type, id) · number: also true, false and null in what callers make up · tokens: an array of token ids
· reference: what lies elsewhere (URL, file id) · media: bytes in the body · opaque: the provider's own, sealed."""

Path = tuple[str | int, ...]
"""Keys and places from the body down: ("messages", 0, "content", 1, "text")."""


class Part(NamedTuple):
    """One piece. `text` is the value itself, unescaped; of numbers and tokens their JSON."""

    role: str  # "system" | "user" | "assistant" | "tool" | "tools" | ... as the body says; "" where it says none
    kind: Kind
    path: Path  # of a name: that of its value
    text: str
    size: int  # UTF-8 bytes of `text`


def path_text(path: Path) -> str:
    """As people write it: ``messages[0].content[1].text``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
