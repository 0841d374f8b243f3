"""What a batch costs by its result files: never less than what was run, exact where they leave nothing open."""

from typing import NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.batches import BatchState, Job, LineResult, Tally, encode_job, read_job
from bursar.core.calls import Usage
from bursar.core.prices import cost
from tests.gateway.ground import price_table

MOST_IN, MOST_OUT = 400, 100


class Line(NamedTuple):
    usage: Usage  # what it used, if it was run
    told: str  # what the files say of it: "usage", "nothing", "no_line", "error", "refused", "not_run"


PRICE = price_table().find("openai", "gpt-4o-mini", 1_795_435_200 * 10**9)
assert PRICE is not None
DEAREST = MOST_IN * PRICE.bands[0].input + MOST_OUT * PRICE.bands[0].output
USAGES = st.builds(
    lambda i, o, c: Usage(input_tokens=i, output_tokens=o, cache_read=min(c, i)),
    st.integers(1, MOST_IN),
    st.integers(0, MOST_OUT),
    st.integers(0, MOST_IN),
)
TOLD = st.sampled_from(["usage", "usage", "nothing", "no_line", "error", "refused", "not_run"])
LINES = st.lists(st.builds(Line, USAGES, TOLD), min_size=1, max_size=12)


def job(lines: int) -> Job:
    names = {name: name for name in ("batch", "input_file", "team", "key", "route", "model", "prices", "boot", "by")}
    return Job(**names, made_at=0, lines=lines, ceiling=lines * DEAREST, dearest=DEAREST, hold=1, until=0)


def billed(usage: Usage) -> int:
    assert PRICE is not None
    return cost(PRICE, msgspec.structs.replace(usage, service_tier="batch")).pico


@given(lines=LINES, counted=st.booleans(), status=st.sampled_from(["completed", "expired"]))
def test_what_was_run_is_paid_whatever_the_files_leave_out(lines: list[Line], counted: bool, status: str) -> None:
    assert PRICE is not None
    tally = Tally(PRICE)
    for line in lines:
        if line.told == "usage":
            tally.add(line.usage)
        elif line.told == "nothing":
            tally.add(None)
        elif line.told == "error":
            tally.add_failed(LineResult(None, 500, ""), refused=False)
        elif line.told == "refused":
            tally.add_failed(LineResult(None, 400, ""), refused=True)
        elif line.told == "not_run":
            tally.add_failed(LineResult(None, 0, "batch_expired"), refused=False)
    run = [line for line in lines if line.told in ("usage", "nothing", "no_line")]
    state = BatchState("b", "f", "over", status == "completed", len(run) if counted else None, (), b"")
    found = tally.settlement(job(len(lines)), state)
    true = sum(billed(line.usage) for line in lines if line.told not in ("refused", "not_run"))
    assert true <= found.cost_pico <= len(lines) * DEAREST
    known = all(line.told in ("usage", "refused", "not_run") for line in lines)
    assert found.exact is known
    if known:
        assert found.cost_pico == true
        assert found.usage is not None
        assert found.usage.input_tokens == sum(line.usage.input_tokens for line in run)


@given(lines=st.lists(USAGES, min_size=1, max_size=5), more=st.integers(1, 1000))
def test_more_than_was_held_is_told_in_full(lines: list[Usage], more: int) -> None:
    assert PRICE is not None
    tally = Tally(PRICE)
    large = Usage(input_tokens=10 * MOST_IN * more, output_tokens=MOST_OUT)
    for usage in (*lines, large):
        tally.add(usage)
    state = BatchState("b", "f", "over", True, len(lines) + 1, (), b"")
    assert tally.settlement(job(len(lines) + 1), state).cost_pico == sum(map(billed, (*lines, large)))


def test_a_job_is_read_as_it_was_written_and_nothing_else_is() -> None:
    assert read_job(encode_job(job(3))) == job(3)
    for text in ("", "{}", "[]", '{"batch": 1}', "\x00"):
        assert read_job(text) is None
