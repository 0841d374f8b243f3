"""Which key wraps the secrets of this node: by configuration, and by what an existing database was sealed under."""

from collections.abc import MutableMapping
from pathlib import Path

from bursar.app.places import keyfile_path
from bursar.config import Config
from bursar.core.secret import Secret
from bursar.ports import Entropy, KeyWrapper
from bursar.secrets.sealed_file import sealed_under
from bursar.secrets.sealing import WrapperError
from bursar.secrets.wrap import keyfile, passphrase


def choose_wrapper(
    config: Config, folder: Path, database: Path, env: MutableMapping[str, str], entropy: Entropy
) -> KeyWrapper:
    """The wrapper to seal and open with; a key file is made at the first start only. Raises WrapperError."""
    if config.wrapper.kind == "passphrase":
        return _from_passphrase(config.wrapper.passphrase_env, database, env, entropy)
    path = keyfile_path(config, folder)
    if not path.exists() and not sealed_under(database):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return keyfile.create(path, entropy)
    return keyfile.load(path, entropy)


def _from_passphrase(variable: str, database: Path, env: MutableMapping[str, str], entropy: Entropy) -> KeyWrapper:
    given = Secret(env.pop(variable, ""))
    if not given.reveal():
        raise WrapperError("wrapper_lost", f"The passphrase is missing: {variable} is not set", f"Set {variable}")
    for wrapper_id in sealed_under(database):
        if wrapper_id.startswith("passphrase:"):
            return passphrase.unlock(given, wrapper_id, entropy)
    return passphrase.create(given, entropy)
