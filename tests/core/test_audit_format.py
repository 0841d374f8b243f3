"""The form of audit lines: what is framed is read back, and the bytes are what they were when the form was fixed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.audit import GENESIS, Event, chain_hash, check_event, decode_record, encode_record, frame, unframe

texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
events = st.builds(
    Event,
    actor=texts,
    action=texts,
    target=texts,
    facts=st.dictionaries(texts, texts | st.integers(-(10**30), 10**30), max_size=4),
    outcome=st.sampled_from(["allowed", "refused", "failed"]),
)


@given(events, st.integers(1, 2**62), st.integers(0, 2**62))
def test_what_is_framed_is_read_back(event: Event, seq: int, at_ns: int) -> None:
    check_event(event)
    payload = encode_record(seq, at_ns, event)
    line = frame(chain_hash(GENESIS, payload), payload)
    assert b"\n" not in line
    assert unframe(line) == (chain_hash(GENESIS, payload), payload)
    record = decode_record(payload)
    assert (record.seq, record.at_ns, record.actor, record.facts) == (seq, at_ns, event.actor, event.facts)
    assert json.loads(line)["record"]["target"] == event.target


@given(st.binary(max_size=200))
def test_any_line_is_read_or_refused(noise: bytes) -> None:
    for line in (noise, b'{"hash":"' + noise, b'{"hash":"' + b"0" * 64 + b'","record":' + noise + b"}"):
        try:
            record_hash, payload = unframe(line)
        except ValueError:
            continue
        assert frame(record_hash, payload) == line


def test_the_form_is_what_it_was_when_it_was_fixed() -> None:
    event = Event(actor="admin", action="key.create", target="key/a", facts={"limit": 5, "name": "é"})
    payload = encode_record(1, 2, event)
    expected = (
        '{"seq":1,"at_ns":2,"actor":"admin","action":"key.create","target":"key/a",'
        '"outcome":"allowed","facts":{"limit":5,"name":"é"}}'
    )
    assert payload.decode() == expected
    assert GENESIS.hex() == "1d08b2a12071887ff5d021c15256ad6bb98de6bbe2e5b4940dc54cd3f11022c6"
    assert chain_hash(GENESIS, payload).hex() == "1a260d779904a3e5f71efc5b43ea61d1b5bb51a6df961682d39d87e7f507b80f"


def test_an_upper_case_hash_is_not_ours() -> None:
    payload = encode_record(1, 2, Event(actor="a", action="b", target="c"))
    line = frame(chain_hash(GENESIS, payload), payload)
    with pytest.raises(ValueError, match="not a line"):
        unframe(line[:9] + line[9:73].upper() + line[73:])
