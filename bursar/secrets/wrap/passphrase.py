"""The key-encryption key made from a passphrase by Argon2id (RFC 9106).

All that is needed beside the passphrase stands in the wrapper's id, and the id stands in every sealed secret:

    passphrase:argon2id.m65536.t3.p4.<salt, 32 hex>.<check value, 8 hex>

so that no parameter file can be lost. The check value tells a wrong passphrase at once; it gives nothing to somebody
who guesses that a sealed secret does not give as well. Parameters below the floor are refused when read: a database
that was tampered with cannot talk Bursar into a weak key.
"""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from bursar.core.secret import Secret
from bursar.ports import Entropy
from bursar.secrets.sealing import WrapperError
from bursar.secrets.wrap.local import KEY_BYTES, LocalWrapper, check_value

ENVIRONMENT = "BURSAR_PASSPHRASE"
MIN_CHARACTERS = 12
MEMORY_KIB, PASSES, LANES = 65_536, 3, 4
_MAX_MEMORY_KIB, _MAX_PASSES, _MAX_LANES = 1 << 20, 16, 16
_MAX_INPUT = 4096
Costs = tuple[int, int, int, bytes]  # memory in KiB, passes, lanes, salt
_ID = re.compile(r"passphrase:argon2id\.m(\d{1,8})\.t(\d{1,3})\.p(\d{1,3})\.([0-9a-f]{32})\.([0-9a-f]{8})", re.ASCII)


class PassphraseWrapper(LocalWrapper):
    """Made by `create` and `unlock`; both take about 0.2 s and 64 MiB, once."""


def create(
    passphrase: Secret, entropy: Entropy, memory_kib: int = MEMORY_KIB, passes: int = PASSES
) -> PassphraseWrapper:
    """A new wrapper with a fresh salt. Raises WrapperError(wrapper_unsafe): a short passphrase, weak parameters."""
    check_length(passphrase)
    salt = entropy.token_bytes(16)
    stem = f"passphrase:argon2id.m{memory_kib}.t{passes}.p{LANES}.{salt.hex()}"
    return _wrapper(passphrase, stem, (memory_kib, passes, LANES, salt), entropy)


def unlock(passphrase: Secret, wrapper_id: str, entropy: Entropy) -> PassphraseWrapper:
    """The wrapper named by `wrapper_id` (found in the sealed secrets themselves).

    Raises WrapperError: wrapper_wrong (the passphrase is another), wrapper_unsafe (weak or absurd parameters),
    wrapper_lost (the id is not a passphrase's).
    """
    match = _ID.fullmatch(wrapper_id)
    if match is None:
        raise WrapperError(
            "wrapper_lost", "The wrapping key is not made from a passphrase", facts={"wrapper": wrapper_id}
        )
    memory_kib, passes, lanes = (int(match[group]) for group in (1, 2, 3))
    stem = wrapper_id.rpartition(".")[0]
    wrapper = _wrapper(passphrase, stem, (memory_kib, passes, lanes, bytes.fromhex(match[4])), entropy)
    if wrapper.id != wrapper_id:
        raise WrapperError("wrapper_wrong", "The passphrase is not the one the secrets were sealed under", "Try again")
    return wrapper


def read_passphrase(
    environ: MutableMapping[str, str], path: Path | None = None, fd: int | None = None
) -> Secret | None:
    """The passphrase from an open file descriptor, else a file, else the environment; None when there is none.

    One trailing line end is dropped. The variable is removed from `environ`, so that no child process inherits it.
    """
    inherited = Secret(environ.pop(ENVIRONMENT, ""))
    if fd is not None:
        with os.fdopen(fd, "rb") as file:
            return _line(file.read(_MAX_INPUT))
    if path is not None:
        if path.stat().st_mode & 0o077:
            raise WrapperError("wrapper_unsafe", f"Others can read the passphrase file {path}", f"chmod 600 {path}")
        with path.open("rb") as file:
            return _line(file.read(_MAX_INPUT))
    return inherited if inherited.reveal() else None


def _line(raw: bytes) -> Secret:
    return Secret(raw.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r"))


def check_length(passphrase: Secret) -> None:
    """Raises WrapperError(wrapper_unsafe)."""
    if len(passphrase.reveal()) < MIN_CHARACTERS:
        hint = "Six random words are good"
        raise WrapperError("wrapper_unsafe", f"The passphrase has less than {MIN_CHARACTERS} characters", hint)


def stretched(passphrase: Secret, costs: Costs) -> bytes:
    """The key of a passphrase, 256 bits. Raises WrapperError(wrapper_unsafe): parameters out of bounds."""
    memory_kib, passes, lanes, salt = costs
    _check_parameters(memory_kib, passes, lanes)
    derive = Argon2id(salt=salt, length=KEY_BYTES, iterations=passes, lanes=lanes, memory_cost=memory_kib).derive
    return derive(passphrase.reveal().encode("utf-8", "surrogatepass"))


def _wrapper(passphrase: Secret, stem: str, costs: Costs, entropy: Entropy) -> PassphraseWrapper:
    key = stretched(passphrase, costs)
    return PassphraseWrapper(f"{stem}.{check_value(key, 4)}", key, entropy)


def _check_parameters(memory_kib: int, passes: int, lanes: int) -> None:
    strong = memory_kib >= MEMORY_KIB and passes >= PASSES and lanes >= 1
    if not strong or memory_kib > _MAX_MEMORY_KIB or passes > _MAX_PASSES or lanes > _MAX_LANES:
        hint = f"At least {MEMORY_KIB} KiB and {PASSES} passes, at most {_MAX_MEMORY_KIB} KiB and {_MAX_PASSES} passes"
        raise WrapperError("wrapper_unsafe", "The Argon2id parameters are out of bounds", hint)
