"""The seal: it opens for just what it was sealed for, and every other way is a named refusal."""

import hmac
import os
from collections.abc import Callable, Sequence

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.provider_keys import tag_digest
from bursar.core.secret import Secret
from bursar.ports import Entropy, KeyWrapper
from bursar.secrets import sealing
from bursar.secrets.sealing import SealError, WrapperError, open_sealed, rewrap, seal, wrapper_ids
from bursar.secrets.wrap.local import LocalWrapper
from tests.secrets.driving import at_once

TAGS = tag_digest("openai/*/api/prod/alpha", {"billing_owner": "ann"})


class Random:
    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)


RING = (LocalWrapper("test:ring", os.urandom(32), Random()),)


def word_of(blob: bytes, *wrappers: KeyWrapper, secret_id: str = "sec_a", version: int = 1, tags: bytes = TAGS) -> str:
    with pytest.raises(SealError) as refused:
        at_once(open_sealed(blob, secret_id, version, tags, wrappers))
    return refused.value.word


@given(st.text(max_size=200), st.text(min_size=1, max_size=40), st.integers(0, 2**62))
def test_what_is_sealed_opens_again(value: str, secret_id: str, version: int) -> None:
    blob = at_once(seal(secret_id, version, TAGS, Secret(value), RING, Random()))
    assert at_once(open_sealed(blob, secret_id, version, TAGS, RING)).reveal() == value
    assert len(value.encode()) < 8 or value.encode() not in blob.replace(secret_id.encode(), b"")


def test_two_seals_of_one_value_share_nothing(wrapper: KeyWrapper, canary: Secret, entropy: Entropy) -> None:
    one, two = (
        msgspec.msgpack.decode(at_once(seal("sec_a", 1, TAGS, canary, [wrapper], entropy))[5:-32]) for _ in "12"
    )
    assert one[:3] == two[:3]
    assert all(left != right for left, right in zip(one[3:], two[3:], strict=True))


def test_every_flipped_bit_is_refused(
    wrapper: KeyWrapper, recovery: KeyWrapper, canary: Secret, entropy: Entropy
) -> None:
    """Each byte, the recovery wrapper's entry included, which this opening does not even need."""
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper, recovery], entropy))
    words = set()
    for at in range(len(blob)):
        for bit in (0x01, 0x80):
            spoiled = blob[:at] + bytes([blob[at] ^ bit]) + blob[at + 1 :]
            words.add(word_of(spoiled, wrapper, recovery))
    assert words == {"tampered", "tags_changed", "format_unknown"}


def test_every_cut_and_every_addition_is_refused(wrapper: KeyWrapper, canary: Secret, entropy: Entropy) -> None:
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper], entropy))
    for length in range(len(blob)):
        assert word_of(blob[:length], wrapper) in {"tampered", "format_unknown"}
    assert word_of(blob + b"\0", wrapper) == "tampered"


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes_are_read_without_a_fault(noise: bytes) -> None:
    for blob in (noise, b"BSRS" + noise, b"BSRS\x01" + noise):
        assert word_of(blob, *RING) in {"tampered", "format_unknown"}


def test_a_later_format_is_named(wrapper: KeyWrapper, canary: Secret, entropy: Entropy) -> None:
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper], entropy))
    assert word_of(blob[:4] + b"\x02" + blob[5:], wrapper) == "format_unknown"


def test_a_loose_encoding_of_the_same_fields_is_refused(wrapper: KeyWrapper, canary: Secret, entropy: Entropy) -> None:
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper], entropy))
    assert blob[5] == 0x97  # msgpack array of 7
    loose = blob[:5] + b"\xdc\x00\x07" + blob[6:]  # the same array with a 16-bit length
    assert word_of(loose, wrapper) == "tampered"


def test_it_opens_for_its_own_entry_version_and_tags_only(
    wrapper: KeyWrapper, canary: Secret, entropy: Entropy
) -> None:
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper], entropy))
    assert word_of(blob, wrapper, secret_id="sec_b") == "tampered"
    assert word_of(blob, wrapper, version=2) == "tampered"
    assert (
        word_of(blob, wrapper, tags=tag_digest("openai/*/api/prod/alpha", {"billing_owner": "bob"})) == "tags_changed"
    )
    assert word_of(blob, wrapper, tags=tag_digest("openai/*/api/prod/beta", {"billing_owner": "ann"})) == "tags_changed"


def test_a_header_rewritten_to_fit_is_still_refused(wrapper: KeyWrapper, canary: Secret, entropy: Entropy) -> None:
    """Somebody who can write the database changes the tags and the digest inside the blob as well."""
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper], entropy))
    other = tag_digest("openai/*/api/prod/alpha", {"billing_owner": "bob"})
    assert word_of(blob.replace(TAGS, other), wrapper, tags=other) == "tampered"


def test_a_lost_and_a_wrong_wrapper_have_their_words(wrapper: KeyWrapper, canary: Secret, entropy: Entropy) -> None:
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper], entropy))
    assert word_of(blob) == "wrapper_lost"
    assert word_of(blob, LocalWrapper("test:other", os.urandom(32), entropy)) == "wrapper_lost"
    assert word_of(blob, LocalWrapper(wrapper.id, os.urandom(32), entropy)) == "wrapper_wrong"


def test_the_recovery_wrapper_serves_alone(
    wrapper: KeyWrapper, recovery: KeyWrapper, canary: Secret, entropy: Entropy
) -> None:
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper, recovery], entropy))
    assert wrapper_ids(blob) == ("test:one", "test:recovery")
    assert at_once(open_sealed(blob, "sec_a", 1, TAGS, [recovery])) == canary
    stranger = LocalWrapper(wrapper.id, os.urandom(32), entropy)
    assert at_once(open_sealed(blob, "sec_a", 1, TAGS, [stranger, recovery])) == canary


def test_rewrap_changes_wrappers_and_nothing_else(
    wrapper: KeyWrapper, recovery: KeyWrapper, canary: Secret, entropy: Entropy
) -> None:
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper], entropy))
    moved = at_once(rewrap(blob, [wrapper], [recovery]))
    before, after = (msgspec.msgpack.decode(each[5:-32]) for each in (blob, moved))
    assert before[:5] + before[6:] == after[:5] + after[6:]
    assert at_once(open_sealed(moved, "sec_a", 1, TAGS, [recovery])) == canary
    assert word_of(moved, wrapper) == "wrapper_lost"
    spoiled = blob[:-40] + bytes([blob[-40] ^ 1]) + blob[-39:]
    with pytest.raises(SealError, match="altered"):
        at_once(rewrap(spoiled, [wrapper], [recovery]))


@pytest.mark.parametrize("count", [0, sealing.MAX_WRAPPERS + 1])
def test_no_seal_without_a_wrapper_nor_with_too_many(count: int, canary: Secret, entropy: Entropy) -> None:
    ring = [LocalWrapper(f"test:{n}", os.urandom(32), entropy) for n in range(count)]
    with pytest.raises(ValueError, match="wrappers"):
        at_once(seal("sec_a", 1, TAGS, canary, ring, entropy))


def test_the_same_wrapper_twice_is_a_mistake(wrapper: KeyWrapper, canary: Secret, entropy: Entropy) -> None:
    with pytest.raises(ValueError, match="different"):
        at_once(seal("sec_a", 1, TAGS, canary, [wrapper, wrapper], entropy))


FIRST_RELEASE = bytes.fromhex(
    "425352530197a57365635f6101c4207fd0282fd42122633e828daf9e0790e990a6537cc0a67782e328c2dae9a5c887c42073"
    "fb79c5d062dc1ae9466cee09df2f01718f3b7be7daff6379a6bf7274cfbef5c40c0202020202020202020202029192aa7465"
    "73743a6669786564c43c030303030303030303030303ef4a3dd70a935317df5c077fccab55061b57f7f1dbf93db083bc471c"
    "0523a853a7a8d03f2b9011809c26cff2f3735d5bc433d01cebe1c49927bcd36002c54f25534b6cc3e795f72d1bf57edb3995"
    "4df738becb1b799b90e25d855b3a75591d69966673815baf6390ed9cd264a6c51ca1dbf3610db4b2cb0b62625e8ab8950241"
    "31768c57ae"
)


def test_what_the_first_release_sealed_opens_for_ever(entropy: Entropy) -> None:
    """The format is final: if this fails, every stored provider key in the world is lost."""
    wrapper = LocalWrapper("test:fixed", bytes(range(32)), entropy)
    tags = tag_digest("openai/*/api/prod/alpha", {"purpose": "inference", "billing_owner": "ann"})
    value = at_once(open_sealed(FIRST_RELEASE, "sec_a", 1, tags, [wrapper]))
    assert value.reveal() == "a value sealed by the first release"


# ---- commitment: one ciphertext that really opens under two keys -----------------------------------------------------


def _multiply(x: int, y: int) -> int:
    """In GF(2^128) with GCM's bit order (NIST SP 800-38D §6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if (x >> bit) & 1:
            product ^= y
        y = (y >> 1) ^ (0xE1 << 120) if y & 1 else y >> 1
    return product


def _inverse(x: int) -> int:
    result, power = 1 << 127, x
    for bit in range(128):
        if (2**128 - 2) >> bit & 1:
            result = _multiply(result, power)
        power = _multiply(power, power)
    return result


def _hash(subkey: int, blocks: Sequence[bytes]) -> int:
    state = 0
    for block in blocks:
        state = _multiply(state ^ int.from_bytes(block), subkey)
    return state


def _block(key: bytes, text: bytes) -> int:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415  raw AES, here only

    return int.from_bytes(Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(text))


def _colliding(keys: tuple[bytes, bytes], nonce: bytes, aad: bytes) -> bytes:
    """A ciphertext and tag valid under both keys: solve the tag equation for the free second block."""
    padded = aad + bytes(-len(aad) % 16)
    lengths = (len(aad) * 8).to_bytes(8) + (32 * 8).to_bytes(8)
    first = b"any first block."
    blocks = [padded[i : i + 16] for i in range(0, len(padded), 16)] + [first, bytes(16), lengths]
    subkeys = [_block(key, bytes(16)) for key in keys]
    masks = [_block(key, nonce + b"\0\0\0\1") for key in keys]
    tags = [_hash(subkey, blocks) ^ mask for subkey, mask in zip(subkeys, masks, strict=True)]
    squares = [_multiply(subkey, subkey) for subkey in subkeys]
    free = _multiply(tags[0] ^ tags[1], _inverse(squares[0] ^ squares[1]))
    return first + free.to_bytes(16) + (tags[0] ^ _multiply(free, squares[0])).to_bytes(16)


def test_a_ciphertext_that_opens_under_two_keys_is_refused_by_its_commitment(
    entropy: Entropy, wrapper: KeyWrapper, recovery: KeyWrapper
) -> None:
    """The second recipient of a forged seal would read another value than the first; the commitment forbids it."""

    def derive(key: bytes, use: bytes) -> bytes:
        return HKDF(SHA256(), 32, salt=None, info=b"bursar seal 1 " + use).derive(key)

    keys = os.urandom(32), os.urandom(32)
    nonce, aad = os.urandom(12), sealing.associated_data("sec_a", 1, TAGS)
    inner = derive(keys[0], b"encrypt"), derive(keys[1], b"encrypt")
    ciphertext = _colliding(inner, nonce, aad)
    plain = [AESGCM(key).decrypt(nonce, ciphertext, aad) for key in inner]
    assert plain[0] != plain[1]  # GCM accepts both: this is what the commitment is for

    context = sealing.wrap_context("sec_a", 1)
    wrapped = [(w.id, at_once(w.wrap(key, context))) for w, key in zip((wrapper, recovery), keys, strict=True)]
    fields = ["sec_a", 1, TAGS, derive(keys[0], b"commit"), nonce, wrapped, ciphertext]
    covered = b"BSRS\x01" + msgspec.msgpack.encode(fields)
    for key in keys:
        forged = covered + hmac.digest(derive(key, b"header"), covered, "sha256")
        assert word_of(forged, recovery) == "tampered"
        with pytest.raises(SealError):
            at_once(rewrap(forged, [recovery], [recovery]))


# ---- canaries --------------------------------------------------------------------------------------------------------


class Failing:
    id = "test:failing"

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        del data_key
        raise WrapperError("wrapper_lost", "The key service is away")

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        raise WrapperError("wrapper_lost", "The key service is away")


class Recorded:
    """Remembers what was drawn, so that the test knows the data key."""

    def __init__(self) -> None:
        self.drawn: list[bytes] = []

    def token_bytes(self, count: int) -> bytes:
        self.drawn.append(os.urandom(count))
        return self.drawn[-1]


def test_no_failure_shows_the_value_or_the_data_key(
    wrapper: KeyWrapper, canary: Secret, shown: Callable[[BaseException], str]
) -> None:
    known = Recorded()
    blob = at_once(seal("sec_a", 1, TAGS, canary, [wrapper], known))
    attempts = [
        lambda: at_once(open_sealed(blob[:-1] + b"\0", "sec_a", 1, TAGS, [wrapper])),
        lambda: at_once(open_sealed(blob[:-60] + bytes(60), "sec_a", 1, TAGS, [wrapper])),
        lambda: at_once(open_sealed(blob, "sec_a", 2, TAGS, [wrapper])),
        lambda: at_once(open_sealed(blob, "sec_a", 1, TAGS, [LocalWrapper(wrapper.id, os.urandom(32), known)])),
        lambda: at_once(rewrap(blob, [wrapper], [Failing()])),
        lambda: at_once(seal("sec_a", 1, TAGS, canary, [Failing()], known)),
        lambda: at_once(seal("sec_a", 1, TAGS, canary, [], known)),
    ]
    for attempt in attempts:
        with pytest.raises((SealError, ValueError)) as refused:
            attempt()
        text = shown(refused.value)
        assert canary.reveal() not in text
        for drawn in known.drawn:
            if len(drawn) == 32:
                assert repr(drawn)[2:-1] not in text
                assert drawn.hex() not in text


def test_a_value_that_utf8_cannot_hold_makes_the_round_trip(wrapper: KeyWrapper, entropy: Entropy) -> None:
    odd = Secret("odd-\udc80-value")
    assert (
        at_once(open_sealed(at_once(seal("sec_a", 1, TAGS, odd, [wrapper], entropy)), "sec_a", 1, TAGS, [wrapper]))
        == odd
    )
