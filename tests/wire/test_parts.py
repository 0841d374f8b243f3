"""The parts without sockets: chunks, the wheel of deadlines, public addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.wire.address import is_public
from bursar.wire.chunked import ChunkDecoder
from bursar.wire.head import HeadReader, Malformed, RequestHead
from bursar.wire.wheel import NEVER, Wheel

# ---- chunks ----------------------------------------------------------------------------------------------------------

CHUNKS = st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.sampled_from([b"", b";a", b' ;a="b"'])), max_size=8)


@given(
    chunks=CHUNKS, trailer=st.sampled_from([b"", b"X-T: a\r\n"]), rest=st.binary(max_size=9), step=st.integers(1, 60)
)
def test_chunks_come_out_as_they_went_in(
    chunks: list[tuple[bytes, bytes]], trailer: bytes, rest: bytes, step: int
) -> None:
    raw = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks)
    raw += b"0\r\n" + trailer + b"\r\n"
    decoder = ChunkDecoder()
    got: list[bytes] = []
    for at in range(0, len(raw), step):
        last = at + step >= len(raw)
        after = decoder.feed(raw[at : at + step] + (rest if last else b""), got.append)
        assert after == (rest if last else None)
    assert b"".join(got) == b"".join(data for data, _ in chunks)
    assert all(got)


def test_tiny_chunks_are_refused_only_when_they_are_very_many() -> None:
    decoder = ChunkDecoder(min_average=16)
    for _ in range(16):
        decoder.feed(b"1\r\na\r\n" * 1000, lambda _: None)
    with pytest.raises(Malformed):
        decoder.feed(b"1\r\na\r\n" * 1000, lambda _: None)
    fair = ChunkDecoder(min_average=16)
    for _ in range(40):
        fair.feed(b"10\r\n0123456789abcdef\r\n" * 1000, lambda _: None)


# ---- the wheel -------------------------------------------------------------------------------------------------------


class Thing:
    def __init__(self) -> None:
        self.deadline = NEVER
        self.slot = NEVER
        self.expired: list[float] = []

    def expire(self, now: float) -> None:
        self.expired.append(now)
        self.deadline = NEVER


MOVES = st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 20.0)), max_size=60)


@given(moves=MOVES)
def test_nothing_expires_early_or_is_forgotten(moves: list[tuple[int, float]]) -> None:
    """Against the plain rule: whatever is due is expired by the second sweep after its slot, never before its time."""
    wheel = Wheel(0.5)
    things = [Thing(), Thing(), Thing()]
    now = 0.0
    for which, amount in moves:
        if which == 3:
            now += amount
            due = [thing for thing in things if thing.deadline <= now - 0.5]
            early = [thing for thing in things if thing.deadline > now]
            counts = [len(thing.expired) for thing in early]
            wheel.sweep(now)
            assert all(thing.expired[-1:] == [now] for thing in due)
            assert [len(thing.expired) for thing in early] == counts
        else:
            things[which].deadline = now + amount
            wheel.file(things[which])


def test_a_deadline_moved_back_needs_no_filing() -> None:
    wheel, thing = Wheel(0.5), Thing()
    thing.deadline = 1.0
    wheel.file(thing)
    thing.deadline = 100.0
    wheel.sweep(50.0)
    assert thing.expired == []
    wheel.sweep(101.0)
    assert thing.expired == [101.0]


def test_a_dropped_thing_is_not_kept() -> None:
    wheel, thing = Wheel(0.5), Thing()
    thing.deadline = 1.0
    wheel.file(thing)
    wheel.drop(thing)
    wheel.sweep(10.0)
    assert thing.expired == []


# ---- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *("100.100.100.200", "192.0.0.192", "168.63.129.16", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255"),
        *("240.0.0.1", "192.88.99.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1"),
        *("ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a00:1", "::127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::1", "2002:a9fe:a9fe::"),
        "2001:0:808:808:0:0:f5ff:fffe",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "104.18.6.192", "2606:4700::6812:7c0", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_public(address: str) -> None:
    assert is_public(address)


def test_heads_that_differ_in_their_length_alone_share_what_was_made_of_them() -> None:
    reader = HeadReader()

    def read(key: str, length: int) -> RequestHead:
        raw = f"POST / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\ncontent-length: {length}".encode()
        return reader.read(raw)

    read("one", 1)
    known = read("one", 1)
    again, longer, other = read("one", 1), read("one", 22), read("two", 1)
    assert again.memo is known.memo
    assert longer.memo is known.memo
    assert (longer.length, longer.headers["content-length"]) == (22, "22")
    assert other.memo is not known.memo
    assert read("one", 1).memo is not other.memo
