"""Key file and passphrase: what is unsafe, lost or wrong is refused by name, and nothing of a key is shown."""

import base64
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.core.secret import Secret
from bursar.ports import Entropy
from bursar.secrets.sealing import WrapperError
from bursar.secrets.wrap import keyfile, passphrase
from bursar.secrets.wrap.local import LocalWrapper
from tests.secrets.driving import at_once

CONTEXT = b"context"
PHRASE = Secret("correct horse battery staple")


def refused_word(path: Path, entropy: Entropy) -> str:
    with pytest.raises(WrapperError) as refused:
        keyfile.load(path, entropy)
    return refused.value.word


def test_a_created_key_file_loads_as_the_same_key(folder: Path, entropy: Entropy) -> None:
    made = keyfile.create(folder / "key", entropy)
    wrapped = at_once(made.wrap(b"k" * 32, CONTEXT))
    assert at_once(keyfile.load(folder / "key", entropy).unwrap(wrapped, CONTEXT)) == b"k" * 32
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    assert re.fullmatch(r"keyfile:[0-9a-f]{16}", made.id)


def test_the_mode_does_not_depend_on_the_umask(folder: Path, entropy: Entropy) -> None:
    before = os.umask(0)
    try:
        keyfile.create(folder / "key", entropy)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600


def test_an_existing_key_is_never_overwritten(folder: Path, entropy: Entropy) -> None:
    keyfile.create(folder / "key", entropy)
    before = (folder / "key").read_bytes()
    with pytest.raises(FileExistsError):
        keyfile.create(folder / "key", entropy)
    (folder / "link").symlink_to(folder / "elsewhere")
    with pytest.raises(FileExistsError):
        keyfile.create(folder / "link", entropy)
    assert (folder / "key").read_bytes() == before
    assert not (folder / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601, 0o700 | 0o010])
def test_a_file_that_others_may_touch_is_refused(folder: Path, entropy: Entropy, mode: int) -> None:
    keyfile.create(folder / "key", entropy)
    (folder / "key").chmod(mode)
    assert refused_word(folder / "key", entropy) == "wrapper_unsafe"


def test_a_link_a_pipe_and_a_folder_are_refused(folder: Path, entropy: Entropy) -> None:
    keyfile.create(folder / "key", entropy)
    (folder / "link").symlink_to(folder / "key")
    os.mkfifo(folder / "pipe", 0o600)  # opening it must not wait for a writer
    (folder / "folder").mkdir(mode=0o700)
    for name in ("link", "pipe", "folder"):
        assert refused_word(folder / name, entropy) == "wrapper_unsafe"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_folder_everybody_can_write_to_is_refused(folder: Path, entropy: Entropy, mode: int) -> None:
    keyfile.create(folder / "key", entropy)
    folder.chmod(mode)
    assert refused_word(folder / "key", entropy) == "wrapper_unsafe"
    with pytest.raises(WrapperError):
        keyfile.create(folder / "another", entropy)
    assert not (folder / "another").exists()


def test_a_file_of_another_user_is_refused(folder: Path, entropy: Entropy) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to give a file away")
    keyfile.create(folder / "key", entropy)
    os.chown(folder / "key", 12345, -1)
    assert refused_word(folder / "key", entropy) == "wrapper_unsafe"


def test_a_missing_file_or_folder_is_named(folder: Path, entropy: Entropy) -> None:
    assert refused_word(folder / "key", entropy) == "wrapper_lost"
    assert refused_word(folder / "none" / "key", entropy) == "wrapper_unsafe"


def test_every_damaged_byte_of_the_key_line_is_noticed(folder: Path, entropy: Entropy) -> None:
    path = folder / "key"
    keyfile.create(path, entropy)
    intact = path.read_bytes()
    start = intact.index(b"bursar-key-file-1")
    for at in range(start, len(intact) - 1):
        path.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
        assert refused_word(path, entropy) == "wrapper_wrong"
    path.write_bytes(intact[:-3])
    assert refused_word(path, entropy) == "wrapper_wrong"
    path.write_bytes(intact + intact)
    assert refused_word(path, entropy) == "wrapper_wrong"


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_content_is_read_without_a_fault(folder: Path, entropy: Entropy, noise: bytes) -> None:
    path = folder / "noise"
    path.touch(0o600)
    for content in (noise, b"bursar-key-file-1 " + noise):
        path.write_bytes(content)
        assert refused_word(path, entropy) == "wrapper_wrong"


def test_a_wrapped_key_is_bound_to_wrapper_and_context(entropy: Entropy) -> None:
    key = os.urandom(32)
    wrapper = LocalWrapper("test:one", key, entropy)
    wrapped = at_once(wrapper.wrap(b"k" * 32, CONTEXT))
    renamed = LocalWrapper("test:two", key, entropy)
    spoiled = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    cases = [
        (wrapper, wrapped, b"other"),
        (renamed, wrapped, CONTEXT),
        (wrapper, spoiled, CONTEXT),
        (wrapper, b"", CONTEXT),
    ]
    for by, what, context in cases:
        with pytest.raises(WrapperError) as refused:
            at_once(by.unwrap(what, context))
        assert refused.value.word == "wrapper_wrong"


def test_no_repr_shows_a_key(folder: Path, entropy: Entropy, shown: Callable[[BaseException], str]) -> None:
    made = keyfile.create(folder / "key", entropy)
    encoded = (folder / "key").read_text().split()[-1]
    assert repr(made) == f"KeyFileWrapper({made.id})"
    (folder / "key").write_text((folder / "key").read_text().replace(made.id[-4:], "0000"))
    with pytest.raises(WrapperError) as refused:
        keyfile.load(folder / "key", entropy)
    text = shown(refused.value)
    assert encoded not in text
    assert repr(base64.b64decode(encoded))[2:-1] not in text


# ---- passphrase ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> passphrase.PassphraseWrapper:
    class Random:
        token_bytes = staticmethod(os.urandom)

    return passphrase.create(PHRASE, Random())


def test_the_passphrase_and_the_id_are_all_it_takes(made: passphrase.PassphraseWrapper, entropy: Entropy) -> None:
    wrapped = at_once(made.wrap(b"k" * 32, CONTEXT))
    again = passphrase.unlock(PHRASE, made.id, entropy)
    assert at_once(again.unwrap(wrapped, CONTEXT)) == b"k" * 32
    assert made.id.startswith("passphrase:argon2id.m65536.t3.p4.")


def test_a_wrong_passphrase_is_told_at_once(
    made: passphrase.PassphraseWrapper, entropy: Entropy, shown: Callable[[BaseException], str]
) -> None:
    with pytest.raises(WrapperError) as refused:
        passphrase.unlock(Secret("correct horse battery stable"), made.id, entropy)
    assert refused.value.word == "wrapper_wrong"
    assert "stable" not in shown(refused.value)


@pytest.mark.parametrize(
    ("part", "instead"), [("m65536", "m1024"), ("t3", "t1"), ("m65536", "m99999999"), ("t3", "t999"), ("p4", "p0")]
)
def test_weak_or_absurd_parameters_are_refused_before_any_work(
    made: passphrase.PassphraseWrapper, entropy: Entropy, part: str, instead: str
) -> None:
    with pytest.raises(WrapperError) as refused:
        passphrase.unlock(PHRASE, made.id.replace(f".{part}.", f".{instead}."), entropy)
    assert refused.value.word == "wrapper_unsafe"


@given(st.text(max_size=80))
def test_any_other_id_is_refused_without_a_fault(text: str) -> None:
    class Random:
        token_bytes = staticmethod(os.urandom)

    with pytest.raises(WrapperError) as refused:
        passphrase.unlock(PHRASE, "passphrase:" + text, Random())
    assert refused.value.word == "wrapper_lost"


def test_a_short_passphrase_is_refused(entropy: Entropy) -> None:
    with pytest.raises(WrapperError) as refused:
        passphrase.create(Secret("short"), entropy)
    assert refused.value.word == "wrapper_unsafe"


def test_the_passphrase_is_read_from_descriptor_file_or_environment_and_not_inherited(folder: Path) -> None:
    path = folder / "phrase"
    path.touch(0o600)
    path.write_text("from the file\r\n")
    reader, writer = os.pipe()
    os.write(writer, b"from the descriptor\n")
    os.close(writer)
    environ = {"BURSAR_PASSPHRASE": "from the environment", "HOME": "/"}
    assert passphrase.read_passphrase(dict(environ), path, reader) == Secret("from the descriptor")
    assert passphrase.read_passphrase(dict(environ), path) == Secret("from the file")
    assert passphrase.read_passphrase(environ) == Secret("from the environment")
    assert environ == {"HOME": "/"}
    assert passphrase.read_passphrase(environ) is None
    path.chmod(0o644)
    with pytest.raises(WrapperError):
        passphrase.read_passphrase(environ, path)
