"""The walk over content: what was put into a body is found, nothing is missed, other texts land where they should."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.errors import Refusal
from bursar.core.parts import Part, Path, path_text
from bursar.gateway.routes import ROUTES
from bursar.ports import Dialect
from bursar.providers import walk
from bursar.providers.anthropic import Anthropic
from bursar.providers.content_tables import LABELS, TABLES
from bursar.providers.openai import OpenAI

DIALECTS: dict[str, Dialect] = {"openai": OpenAI(), "anthropic": Anthropic()}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORDS = st.sampled_from(["x", "y", "été", "日本", 'a"b\\c', "\n"])
MADE_UP: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.integers(-(10**30), 10**30) | st.booleans() | st.none(),
    lambda inner: st.dictionaries(WORDS | st.just("type"), inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(WORDS, MADE_UP, max_size=3)


def fixed(**fields: Any) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({n: v if isinstance(v, st.SearchStrategy) else st.just(v) for n, v in fields.items()})


# ---- bodies of every dialect

OPENAI_PARTS = st.one_of(
    fixed(type="text", text=TEXTS),
    fixed(type="refusal", refusal=TEXTS),
    fixed(type="image_url", image_url=fixed(url=st.just("data:image/png;base64,AAAA") | st.just("https://x/y.png"))),
    fixed(type="input_audio", input_audio=fixed(data="AAAA", format="wav")),
    fixed(type="file", file=fixed(file_data="AAAA", filename=TEXTS)),
    fixed(type="brand_new", said=TEXTS, within=OBJECTS),
)
CALLS = fixed(id="call_1", type="function", function=fixed(name="f", arguments=OBJECTS.map(json.dumps)))
OPENAI_MESSAGES = st.one_of(
    fixed(role=st.sampled_from(["system", "user", "developer"]), content=TEXTS | st.lists(OPENAI_PARTS, max_size=3)),
    fixed(role="assistant", content=st.none(), tool_calls=st.lists(CALLS, max_size=2), reasoning_content=TEXTS),
    fixed(role="tool", tool_call_id="call_1", content=TEXTS),
)
ANTHROPIC_BLOCKS = st.recursive(
    st.one_of(
        fixed(type="text", text=TEXTS, cache_control=fixed(type="ephemeral")),
        fixed(type="tool_use", id="t1", name="f", input=OBJECTS),
        fixed(type="thinking", thinking=TEXTS, signature="c2ln"),
        fixed(type="redacted_thinking", data="c2VhbGVk"),
        fixed(type="image", source=fixed(type="base64", media_type="image/png", data="AAAA")),
        fixed(type="document", title=TEXTS, source=fixed(type="text", media_type="text/plain", data=TEXTS)),
    ),
    lambda inner: fixed(type="tool_result", tool_use_id="t1", content=TEXTS | st.lists(inner, max_size=2)),
    max_leaves=4,
)
TOOL_OPENAI = fixed(type="function", function=fixed(name="f", description=TEXTS, parameters=OBJECTS))
ITEMS = st.one_of(
    fixed(role="user", content=TEXTS | st.lists(fixed(type="input_text", text=TEXTS), max_size=2)),
    fixed(type="function_call", call_id="call_1", name="f", arguments=OBJECTS.map(json.dumps)),
    fixed(type="function_call_output", call_id="call_1", output=TEXTS),
    fixed(type="reasoning", id="rs_1", summary=st.lists(fixed(type="summary_text", text=TEXTS))),
)
BODIES: dict[str, st.SearchStrategy[Any]] = {
    "chat": fixed(model="m", messages=st.lists(OPENAI_MESSAGES, max_size=4), tools=st.lists(TOOL_OPENAI, max_size=2)),
    "completions": fixed(model="m", prompt=TEXTS | st.lists(TEXTS, min_size=1, max_size=3), suffix=TEXTS),
    "embeddings": fixed(model="m", input=TEXTS | st.lists(TEXTS, min_size=1, max_size=3)),
    "responses": fixed(
        model="m",
        instructions=TEXTS,
        input=TEXTS | st.lists(ITEMS, max_size=4),
        tools=st.lists(fixed(type="function", name="f", description=TEXTS, parameters=OBJECTS), max_size=2),
    ),
    "messages": fixed(
        model="m",
        max_tokens=9,
        system=TEXTS | st.lists(fixed(type="text", text=TEXTS), max_size=2),
        messages=st.lists(
            fixed(role=st.sampled_from(["user", "assistant"]), content=TEXTS | st.lists(ANTHROPIC_BLOCKS, max_size=3)),
            max_size=3,
        ),
        tools=st.lists(fixed(name="f", description=TEXTS, input_schema=OBJECTS), max_size=2),
        brand_new=OBJECTS,
    ),
}
ASKS = st.sampled_from(sorted(BODIES)).flatmap(lambda route: st.tuples(st.just(route), BODIES[route]))


def parts(route: str, body: Any) -> list[Part]:
    return list(walk.parts_of(route, json.dumps(body).encode()))


def strings(value: Any) -> Iterator[str]:
    """Every text and key below a value, by a walk of the test's own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def at(body: Any, path: Path) -> Any:
    for step in path:
        body = body[step]
    return body


@given(ASKS)
@settings(max_examples=100, deadline=None)
def test_nothing_is_missed_and_each_is_told_once(ask: tuple[str, Any]) -> None:
    route, body = ask
    found = parts(route, body)
    content = {name: value for name, value in body.items() if name not in TABLES[route].settings}
    put = Counter(text for value in content.values() for text in strings(value))
    told = Counter(part.text for part in found if part.kind not in ("number", "tokens"))
    missed = put - told
    assert set(missed) <= LABELS.keys(), "only names that the API itself defines"
    assert not told - put
    assert len({(part.path, part.kind == "name") for part in found}) == len(found)


@given(ASKS)
@settings(max_examples=100, deadline=None)
def test_each_part_lies_where_it_says(ask: tuple[str, Any]) -> None:
    route, body = ask
    for part in parts(route, body):
        value = at(body, part.path)
        if part.kind == "name":
            assert part.path[-1] == part.text
        elif part.kind == "number":
            assert json.loads(part.text) == value
        else:
            assert value == part.text
        assert part.size == len(part.text.encode())


@given(ASKS)
@settings(max_examples=70, deadline=None)
def test_all_that_is_found_fits_into_the_input_ceiling(ask: tuple[str, Any]) -> None:
    """What is not media is counted by its bytes: no part stands outside of what the hold was made for."""
    route, body = ask
    dialect = DIALECTS["anthropic" if route == "messages" else "openai"]
    call = dialect.understand(route, json.dumps(body, ensure_ascii=False).encode())
    found = list(dialect.parts(call))
    assert sum(part.size for part in found if part.kind not in ("media", "reference")) <= call.input_bytes


@given(ASKS, st.data())
@settings(max_examples=70, deadline=None)
def test_other_texts_land_at_their_paths_and_nothing_else_moves(ask: tuple[str, Any], data: st.DataObject) -> None:
    route, body = ask
    texts = [
        part for part in parts(route, body) if part.kind in ("text", "argument") and type(part.path[-1]) is not bool
    ]
    texts = [part for part in texts if part.path[-1] not in ("prompt", "type", "role")]
    chosen = data.draw(st.lists(st.sampled_from(texts), max_size=4, unique_by=lambda part: part.path)) if texts else []
    changes = {part.path: f"«{number}»" for number, part in enumerate(chosen)}
    dialect = DIALECTS["anthropic" if route == "messages" else "openai"]
    call = dialect.understand(route, json.dumps(body).encode())
    new = dialect.replaced(call, changes)
    expected = json.loads(call.body)
    for path, text in changes.items():
        at(expected, path[:-1])[path[-1]] = text
    assert json.loads(new.body) == expected
    assert new.body is call.body or changes
    left = {part.path: part for part in dialect.parts(new)}
    assert all(left[path].text == text for path, text in changes.items())


def test_roles_and_kinds() -> None:
    body = {
        "model": "m",
        "system": "be kind",
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "t", "name": "pay", "input": {"to": "Ada", "amount": 12.50}},
                    {"type": "redacted_thinking", "data": "c2VhbGVk"},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "paid"}]},
        ],
        "tools": [{"name": "pay", "description": "Pays", "input_schema": {"type": "object"}}],
    }
    found = {
        path_text(part.path): (part.role, part.kind, part.text)
        for part in parts("messages", body)
        if part.kind != "name"
    }
    assert found["system"] == ("system", "text", "be kind")
    assert found["messages[0].content[0].source.url"] == ("user", "reference", "https://x/y.png")
    assert found["messages[1].content[0].input.to"] == ("assistant", "argument", "Ada")
    assert found["messages[1].content[0].input.amount"] == ("assistant", "number", "12.5")
    assert found["messages[1].content[0].id"] == ("assistant", "label", "t")
    assert found["messages[1].content[1].data"] == ("assistant", "opaque", "c2VhbGVk")
    assert found["messages[2].content[0].content"] == ("tool", "text", "paid")
    assert found["tools[0].description"] == ("tools", "text", "Pays")
    assert found["tools[0].input_schema.type"] == ("tools", "schema", "object")


def test_tokens_are_one_part_a_prompt() -> None:
    (one,) = parts("embeddings", {"model": "m", "input": [1, 22, 333]})
    assert (one.kind, one.text, one.path) == ("tokens", "[1,22,333]", ("input",))
    two = parts("completions", {"model": "m", "prompt": [[1, 22], [333]]})
    assert [(part.kind, part.path) for part in two] == [("tokens", ("prompt", 0)), ("tokens", ("prompt", 1))]


def test_every_metered_route_has_a_table() -> None:
    metered = {route.name for methods in ROUTES.values() for route in methods.values() if route.kind == "metered"}
    assert metered <= TABLES.keys()


def word_of(route: str, body: bytes) -> str:
    with pytest.raises(Refusal) as raised:
        list(walk.parts_of(route, body))
    return raised.value.word


def test_what_it_does_not_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b'{"messages":' + b"[" * 70 + b'"x"' + b"]" * 70 + b"}"
    assert word_of("chat", deep) == "malformed_request"
    assert word_of("chat", b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}") == "malformed_request"
    assert word_of("chat", b'{"messages":[{"content":"a","content":"b"}]}') == "duplicate_field"
    assert word_of("chat", b'{"tools":[{"function":{"parameters":{"a":1,"\\u0061":2}}}]}') == "duplicate_field"
    assert word_of("chat", b'["x"]') == "malformed_request"
    assert word_of("chat", b'{"messages":') == "malformed_request"
    monkeypatch.setattr(walk, "MOST_PARTS", 100)
    assert word_of("chat", json.dumps({"messages": ["x"] * 200}).encode()) == "malformed_request"


def test_a_path_that_leads_nowhere() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
    for path in (
        ("gone",),
        ("messages", 3),
        ("messages", 0, "name"),
        ("messages", "x"),
        ("model", 0),
        ("messages", 0, "content", 1),
    ):
        with pytest.raises(KeyError):
            walk.with_texts(body, {path: "y"})
    assert walk.with_texts(body, {}) is body


def test_what_is_not_changed_keeps_its_bytes() -> None:
    body = b'{"model":"m", "messages":[{"role":"user","content":"x","n":1.50e3 , "b":"\\u00e9"}]}'
    assert b'"n":1.50e3' in walk.with_texts(body, {("messages", 0, "content"): "y"})
    assert b'"b":"\\u00e9"' in walk.with_texts(body, {("messages", 0, "content"): "y"})
