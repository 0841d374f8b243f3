"""What keys of LLM providers, and our own, look like in any text: one table, for finding leaks. Never a gate.

A shape says where a key may be, not that it works; providers change theirs, so nothing is refused for having none
(`bursar secrets put` takes keys of unknown shape). Sources: rules of betterleaks 1.7, gitleaks, trufflehog, and
vendors' documents, read in November 2026.

To be quick, a shape is looked for by a literal that must stand in the key (or before it), which bytes.find does at
memory speed; only where the literal stands is the pattern tried.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

import msgspec

from bursar.core.routing import EMULATOR_ENVIRONMENT
from bursar.core.secret import Secret
from bursar.core.tokens import parse

LONGEST = 512
"""Bytes from the begin of the earliest word of a match to its end, at most."""

_URLSAFE = r"[A-Za-z0-9_-]"
_ALNUM = r"[A-Za-z0-9]"
_LEAST_ENTROPY = 3.0  # bits a character: text such as sk-xxxxxxxx, example keys of documents


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of key.

    `literals`: bytes one of which stands in each match. `back`: how far before the literal the match may begin.
    `pattern`: of the whole match; the key is its group `key`, or all of it.
    """

    id: str
    owner: str  # whose key it is
    literals: tuple[str, ...]
    pattern: str
    back: int = 0


class Found(msgspec.Struct, frozen=True):
    """Where a key stands in what was looked at: offsets in bytes."""

    shape: Shape
    start: int
    end: int


def _keyword(id_: str, owner: str, words: tuple[str, ...], key: str) -> Shape:
    """A key without a prefix of its own: only near the provider's name, as a value of a name that speaks of a key."""
    pattern = (
        rf"(?i:{'|'.join(words)})(?i:[a-z0-9_.\-]{{0,24}}(?:key|token|secret|credential)[a-z0-9_]{{0,12}})"
        rf"[\"'\s]{{0,3}}(?::|=|=>|:=)[\"'\s]{{0,3}}(?P<key>{key})(?![A-Za-z0-9_-])"
    )
    both = tuple(dict.fromkeys(form for word in words for form in (word, word.upper(), word.capitalize())))
    return Shape(id=id_, owner=owner, literals=both, pattern=pattern)


SHAPES: tuple[Shape, ...] = (
    Shape(
        id="openai-key",
        owner="OpenAI",
        literals=("T3BlbkFJ",),
        pattern=(
            rf"sk-(?:proj|svcacct|admin)-(?:{_URLSAFE}{{74}}T3BlbkFJ{_URLSAFE}{{74}}|{_URLSAFE}{{58}}T3BlbkFJ{_URLSAFE}{{58}}"
            rf"|{_URLSAFE}{{20}}T3BlbkFJ{_URLSAFE}{{20}})|sk-{_ALNUM}{{20}}T3BlbkFJ{_ALNUM}{{20}}"
        ),
        back=90,
    ),
    Shape(
        id="anthropic-key", owner="Anthropic", literals=("sk-ant-api03-",), pattern=rf"sk-ant-api03-{_URLSAFE}{{93}}AA"
    ),
    Shape(
        id="anthropic-admin-key",
        owner="Anthropic",
        literals=("sk-ant-admin01-",),
        pattern=rf"sk-ant-admin01-{_URLSAFE}{{93}}AA",
    ),
    Shape(
        id="anthropic-oauth-token",
        owner="Anthropic",
        literals=("sk-ant-oat01-",),
        pattern=rf"sk-ant-oat01-{_URLSAFE}{{80,120}}",
    ),
    Shape(id="google-api-key", owner="Google", literals=("AIza",), pattern=rf"AIza{_URLSAFE}{{35}}"),
    Shape(id="google-auth-key", owner="Google", literals=("AQ.Ab8RN6",), pattern=rf"AQ\.Ab8RN6{_URLSAFE}{{44}}"),
    Shape(
        id="azure-openai-key",
        owner="Azure",
        literals=("JQQJ99",),
        pattern=rf"{_ALNUM}{{52}}JQQJ99{_ALNUM}{{26}}",
        back=52,
    ),
    _keyword("azure-openai-key-old", "Azure", ("azure_openai", "azure-openai", "azureopenai"), "[0-9a-f]{32}"),
    Shape(
        id="bedrock-key",
        owner="AWS Bedrock",
        literals=("ABSK",),
        pattern=r"ABSK[A-Za-z0-9+/]{109,269}={0,2}",
    ),
    Shape(
        id="bedrock-short-term-key",
        owner="AWS Bedrock",
        literals=("bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t",),
        pattern=r"bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t[A-Za-z0-9+/=]{0,400}",
    ),
    Shape(id="groq-key", owner="Groq", literals=("gsk_",), pattern=rf"gsk_{_ALNUM}{{52}}"),
    Shape(id="xai-key", owner="xAI", literals=("xai-",), pattern=rf"xai-{_ALNUM}{{70,120}}"),
    Shape(id="openrouter-key", owner="OpenRouter", literals=("sk-or-v1-",), pattern=r"sk-or-v1-[0-9a-f]{64}"),
    Shape(id="perplexity-key", owner="Perplexity", literals=("pplx-",), pattern=rf"pplx-{_ALNUM}{{48}}"),
    Shape(id="huggingface-token", owner="Hugging Face", literals=("hf_",), pattern=r"hf_[A-Za-z]{34}"),
    Shape(id="huggingface-org-token", owner="Hugging Face", literals=("api_org_",), pattern=r"api_org_[A-Za-z]{34}"),
    Shape(id="replicate-token", owner="Replicate", literals=("r8_",), pattern=rf"r8_{_ALNUM}{{37}}"),
    Shape(id="databricks-token", owner="Databricks", literals=("dapi",), pattern=r"dapi[0-9a-f]{32}(?:-\d)?"),
    Shape(id="together-key", owner="Together", literals=("tgp_v1_",), pattern=rf"tgp_v1_{_URLSAFE}{{43}}"),
    Shape(id="cerebras-key", owner="Cerebras", literals=("csk-",), pattern=rf"csk-{_ALNUM}{{48}}"),
    Shape(id="nvidia-key", owner="NVIDIA", literals=("nvapi-",), pattern=rf"nvapi-{_URLSAFE}{{60,70}}"),
    Shape(id="vercel-ai-gateway-key", owner="Vercel", literals=("vck_",), pattern=rf"vck_{_ALNUM}{{56}}"),
    Shape(id="minimax-key", owner="MiniMax", literals=("sk-api-",), pattern=rf"sk-api-{_URLSAFE}{{119}}"),
    Shape(id="fireworks-key", owner="Fireworks", literals=("fw_",), pattern=rf"fw_{_ALNUM}{{22,26}}"),
    Shape(id="elevenlabs-key", owner="ElevenLabs", literals=("sk_",), pattern=r"sk_[0-9a-f]{48}"),
    Shape(id="deepseek-key", owner="DeepSeek", literals=("sk-",), pattern=r"sk-[0-9a-f]{32}"),
    Shape(id="moonshot-key", owner="Moonshot", literals=("sk-",), pattern=rf"sk-{_ALNUM}{{48}}"),
    _keyword("mistral-key", "Mistral", ("mistral",), rf"{_ALNUM}{{32}}"),
    _keyword("cohere-key", "Cohere", ("cohere",), rf"{_ALNUM}{{40}}"),
    _keyword("ollama-key", "Ollama", ("ollama",), r"[0-9a-f]{32}\.[A-Za-z0-9_-]{24}"),
    Shape(id="bursar-key", owner="Bursar", literals=("bsr_",), pattern=r"bsr_[a-z2-7]{12}_[0-9A-Za-z]{49}"),
    Shape(id="bursar-admin-token", owner="Bursar", literals=("bsa_",), pattern=r"bsa_[a-z2-7]{12}_[0-9A-Za-z]{49}"),
)
BY_ID = {shape.id: shape for shape in SHAPES}

_PROVIDERS = {"AWS Bedrock": "bedrock", "Hugging Face": "huggingface", "Vercel": "vercel-ai-gateway"}
_NOT_FOR_CALLS = frozenset({"anthropic-admin-key", "anthropic-oauth-token"})  # an API of their own, another header
_NOT_ALONE_SO = frozenset({"deepseek-key", "moonshot-key"})  # so do keys of other vendors, and of other brokers, look


def provider_named(owner: str) -> str:
    """How a shape's owner is called among providers."""
    return _PROVIDERS.get(owner, owner.lower().replace(" ", "-"))


_WORD = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_MORE = re.compile(rb"[A-Za-z0-9_-]")
_COMPILED = [
    (shape, tuple(literal.encode() for literal in shape.literals), re.compile(shape.pattern.encode()))
    for shape in SHAPES
]


_WHOLE = [  # those that are told by nothing but themselves
    (shape, literal, pattern)
    for shape, literals, pattern in _COMPILED
    for literal in literals
    if "key" not in pattern.groupindex
]


def look(data: bytes, start: int = 0, end: int | None = None) -> list[Found]:
    """Every key whose literal stands in ``data[start:end]``, each once, in order; what surrounds it may lie outside."""
    limit = len(data) if end is None else end
    found: dict[int, Found] = {}
    for shape, literals, pattern in _COMPILED:
        for literal in literals:
            for at in _places(data, literal, start, limit):
                one = _try(shape, pattern, data, at)
                if one is not None and (one.start not in found or one.end > found[one.start].end):
                    found[one.start] = one
    return [found[at] for at in sorted(found)]


def unknown_shape(address: str, value: Secret) -> bool:
    """Whether a value looks like no key that is known. Providers change theirs: a flag for people, never a gate."""
    provider, _, _, environment, _ = (*address.split("/"), "", "", "", "", "")[:5]
    if environment == EMULATOR_ENVIRONMENT:
        return False
    raw = value.reveal().encode("utf-8", "surrogatepass")
    named = provider.encode() + b"_api_key="  # some keys are told by their provider's name only
    return not look(raw) and not look(named + raw)


def provider_of(text: str) -> str:
    """The provider whose API key a text is, all of it, by its shape alone; "" for none, and for Bursar's own.

    Keys go where this says: a shape that several vendors' keys have says nothing. Strangers choose the text: each
    shape is tried once, from its begin to its end.
    """
    if len(text) > LONGEST or not text.isascii():
        return ""
    key = text.encode()
    for shape, literal, pattern in _WHOLE:
        if literal in key and pattern.fullmatch(key) and _believable(shape, key):
            told = shape.owner != "Bursar" and shape.id not in _NOT_FOR_CALLS and shape.id not in _NOT_ALONE_SO
            return provider_named(shape.owner) if told else ""
    return ""


def _places(data: bytes, literal: bytes, start: int, end: int) -> Iterator[int]:
    at = data.find(literal, start)
    while 0 <= at < end:
        yield at
        at = data.find(literal, at + 1)


def _try(shape: Shape, pattern: re.Pattern[bytes], data: bytes, literal_at: int) -> Found | None:
    """The match around a literal: for one that begins earlier, the begin is looked for."""
    for begin in range(literal_at, max(literal_at - shape.back, 0) - 1, -1) if shape.back else (literal_at,):
        if begin and data[begin - 1] in _WORD:
            continue
        match = pattern.match(data, begin)
        if match is None or match.end() <= literal_at:
            continue
        name = "key" if "key" in pattern.groupindex else 0
        key = match[name]
        if _MORE.match(data, match.end(name)) or not _believable(shape, key):
            return None
        return Found(shape, match.start(name), match.end(name))
    return None


def _believable(shape: Shape, key: bytes) -> bool:
    """Not a filler of a document; ours carry a checksum and are certain."""
    text = key.decode("ascii")
    if shape.owner == "Bursar":
        return parse(text) is not None
    return entropy(text[len(shape.literals[0]) :] if text.startswith(shape.literals[0]) else text) >= _LEAST_ENTROPY


def entropy(text: str) -> float:
    """Shannon's, in bits a character."""
    total = len(text)
    return -sum(count / total * math.log2(count / total) for count in Counter(text).values()) if total else 0.0


def shown(key: bytes) -> str:
    """So much of a key as tells its kind and nothing else: its prefix."""
    head = re.match(rb"[A-Za-z]{2,8}[-_.](?:[a-z]{2,8}\d{0,2}-)?", key)
    return f"{head[0].decode() if head else ''}***"
