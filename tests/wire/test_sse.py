"""However a stream is chopped, the same events come out; joined they are the input."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.wire.sse import EventSplitter, EventTooLarge

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.sampled_from(
    [
        b"data: {}",
        b"data:x",
        b"data",
        b": note",
        b"event: ping",
        b"id: 1",
        b"",
        "data: \u2603\U0001f600".encode(),
        b"\xef\xbb\xbfdata: 1",
    ]
)
STREAMS = st.lists(st.tuples(LINES, LINE_ENDS), max_size=30).map(
    lambda lines: b"".join(line + end for line, end in lines)
)
SOUP = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"data: x", b"\n\n"]), max_size=30).map(b"".join)


def by_the_book(stream: bytes) -> tuple[list[bytes], bytes]:
    """The same cut, line by line with bytes.splitlines, which knows exactly these three line ends."""
    events: list[bytes] = []
    event = b""
    lines = stream.splitlines(keepends=True)
    for number, line in enumerate(lines):
        event += line
        last = number == len(lines) - 1
        if line in (b"\n", b"\r", b"\r\n") and not (last and line == b"\r"):
            events.append(event)
            event = b""
    return events, event


def feed_all(splitter: EventSplitter, pieces: list[bytes]) -> list[bytes]:
    return [event for piece in pieces for event in splitter.feed(piece)]


@settings(max_examples=500)
@given(stream=STREAMS | SOUP, cuts=st.lists(st.integers(0, 300), max_size=10))
def test_any_chopping_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    splitter = EventSplitter()
    events = feed_all(splitter, pieces)
    assert b"".join(events) + splitter.rest() == stream
    assert (events, splitter.rest()) == by_the_book(stream)


@given(stream=STREAMS)
def test_bytewise_is_the_same(stream: bytes) -> None:
    splitter = EventSplitter()
    assert (feed_all(splitter, [bytes([octet]) for octet in stream]), splitter.rest()) == by_the_book(stream)


@pytest.mark.parametrize("step", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b""])
def test_a_giant_event_is_refused_however_it_comes(step: int, end: bytes) -> None:
    stream = b"data: " + b"x" * 20_000 + end
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    with pytest.raises(EventTooLarge):
        feed_all(EventSplitter(max_event=10_000), pieces)
    assert sum(map(len, feed_all(EventSplitter(max_event=30_000), pieces))) == (len(stream) if end else 0)


def test_many_small_events_are_no_giant() -> None:
    splitter = EventSplitter(max_event=100)
    assert len(splitter.feed(b"data: 1\n\n" * 1000)) == 1000
    assert len(splitter.feed(b"data: 1\r\n\r\n" * 1000)) == 1000


def test_a_large_event_in_small_pieces_costs_linear_time() -> None:
    splitter = EventSplitter()
    piece = b"x" * 1000
    for _ in range(7000):  # 7 MB; quadratic copying would take minutes
        assert splitter.feed(piece) == []
    assert len(splitter.feed(b"\n\n")[0]) == 7_000_002
