"""The reader of outside tokens against anything, and against another library."""

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from bursar.control.issuer_keys import read_keys
from bursar.control.subject_jwt import ALGORITHMS, is_signed_by, read_subject
from bursar.core.errors import Refusal
from tests.control.issuers import claims, ec_key, ed_key, jwk, mint, rsa_key

LETTERS = string.ascii_letters + string.digits + "-_."
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


def key_of(alg: str) -> Any:
    kty, crv = ALGORITHMS[alg]
    return ec_key(crv) if kty == "EC" else {"RSA": rsa_key, "OKP": ed_key}[kty]()


def accepted(token: str, keys: str, alg: str) -> bool:
    try:
        read = read_subject(token)
    except Refusal:
        return False
    return read.alg == alg and any(
        is_signed_by(key, alg, read.signed, read.signature) for key in read_keys(keys.encode()) if key.serves(alg)
    )


@given(st.one_of(st.text(max_size=200), st.text(alphabet=LETTERS, max_size=200)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_subject(text)
    except Refusal as refusal:
        assert refusal.word.startswith("subject_")  # noqa: PT017 - anything else that is raised fails


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_any_header_and_claims_are_read_or_refused(header: dict[str, Any], payload: dict[str, Any]) -> None:
    try:
        read_subject(mint(json.dumps(payload), alg="HS256", key=b"k" * 32, header=header))
    except Refusal as refusal:
        assert refusal.word.startswith("subject_")  # noqa: PT017 - anything else that is raised fails


@settings(deadline=None)
@given(st.sampled_from(sorted(ALGORITHMS)), st.data())
def test_one_letter_changed_is_another_token(alg: str, data: st.DataObject) -> None:
    token = mint(claims(), alg=alg, key=key_of(alg))
    keys = json.dumps({"keys": [jwk(key_of(alg), "k1")]})
    assert accepted(token, keys, alg)
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from(LETTERS).filter(lambda c: c != token[place]))
    assert not accepted(token[:place] + letter + token[place + 1 :], keys, alg)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(ALGORITHMS)), st.sampled_from(sorted(ALGORITHMS)), st.data())
def test_what_is_accepted_here_another_library_accepts(alg: str, other: str, data: st.DataObject) -> None:
    """And the other way round, for whole tokens: the right key under a right and a wrong algorithm."""
    token = mint(claims(), alg=alg, key=key_of(alg), header={"kid": "k1"})
    if data.draw(st.booleans()):
        token = token[: data.draw(st.integers(len(token) - 40, len(token)))]
    keys = json.dumps({"keys": [jwk(key_of(alg), "k1")]})
    try:
        jws.deserialize_compact(token, KeySet.import_key_set(json.loads(keys)), algorithms=[other])
        theirs = True
    except (JoseError, ValueError):
        theirs = False
    ours = accepted(token, keys, other)
    assert ours == theirs or (theirs and not ours and len(token.split(".")[2]) % 4)  # theirs is lax with padding


@pytest.mark.parametrize("alg", ["none", "HS256", "HS384", "HS512", "ES256K", "RSA1_5", ""])
def test_what_can_never_be_allowed(alg: str) -> None:
    assert alg not in ALGORITHMS
