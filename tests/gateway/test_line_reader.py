"""Lines of a long body: whole and in their order, however they arrive, and never far more in memory than is read."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.errors import Refusal, UpstreamFault
from bursar.gateway import line_reader
from bursar.gateway.line_reader import read_lines
from tests.gateway.fakes import FakeResponse

BODIES = st.lists(st.sampled_from([b"", b"a", b"\r", b"bc" * 40, b"x" * 20_000]), max_size=12).map(b"\n".join)


async def read(script: list[object], most: int = 10**9) -> list[bytes]:
    found: list[bytes] = []

    async def look(lines: list[bytes]) -> None:
        await asyncio.sleep(0)
        found.extend(lines)

    await read_lines(FakeResponse(script), most, look)
    return found


@settings(max_examples=100, deadline=None)
@given(body=BODIES, cuts=st.lists(st.integers(0, 60_000), max_size=8), end=st.booleans())
async def test_lines_come_whole_however_they_are_cut(body: bytes, cuts: list[int], end: bool) -> None:
    body += b"\n" * end
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces: list[object] = [body[a:b] for a, b in pairwise(edges)]
    assert await read(pieces) == (body.removesuffix(b"\n").split(b"\n") if body else [])


async def test_it_reads_no_faster_than_is_looked_at() -> None:
    piece = b"y" * 99 + b"\n"
    response = FakeResponse([piece * 100] * 2_000)
    ahead: list[int] = []
    looked_at = 0

    async def look(lines: list[bytes]) -> None:
        nonlocal looked_at
        for _ in range(3):
            await asyncio.sleep(0)
        looked_at += 100 * len(lines)
        ahead.append(response.delivered * len(piece) * 100 - looked_at)

    await read_lines(response, 10**9, look)
    assert looked_at == 2_000 * 10_000
    assert max(ahead) < 2 * line_reader._AHEAD


@pytest.mark.parametrize("fault", [UpstreamFault("reset", sent=True), Refusal("invalid_field", "no")])
async def test_a_break_is_told_and_closes(fault: Exception) -> None:
    with pytest.raises(type(fault)):
        await read([b"a\nb", fault])


async def test_what_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UpstreamFault, match="the file is larger"):
        await read([b"a\n" * 10], most=19)
    assert len(await read([b"a\n" * 10], most=20)) == 10
    monkeypatch.setattr(line_reader, "_LONGEST_LINE", 1_000_000)
    assert [len(line) for line in await read([b"z" * 100_000] * 10)] == [1_000_000]
    with pytest.raises(UpstreamFault, match="a line is longer"):
        await read([b"z" * 100_000] * 11)


async def test_who_looks_may_stop_it() -> None:
    response = FakeResponse([b"a\n"] * 100)

    async def look(lines: list[bytes]) -> None:
        raise Refusal("invalid_field", "enough")

    with pytest.raises(Refusal):
        await read_lines(response, 10**9, look)
    assert response.aborted
