"""The count of what a plain call costs runs, finds every stage, and has not grown out of hand."""

from pathlib import Path

import uvloop

from bench.count import byte_codes, table

CALLS = 20
MOST = 8_500  # byte codes: some 7,300 by Python 3.11, and what other versions make of the same lines


def test_a_plain_call_is_counted_whole_and_costs_no_more_than_it_should(tmp_path: Path) -> None:
    counted = uvloop.run(byte_codes(tmp_path, CALLS))
    told = table(counted, CALLS, 0)
    for page in ("wire/connection", "gateway/pipeline", "core/ledger", "stores/journal", "wire/upstream"):
        assert f"bursar/{page}.py" in told
    assert 1_000 < counted.total() / CALLS < MOST, told
