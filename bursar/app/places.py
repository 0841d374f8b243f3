"""Where things of a node lie, for those who must not load what opens them."""

import socket
from pathlib import Path

from bursar.config import Config, Secrets, Wrapper

MOVING = "moving"
"""In a data folder: a store is half way into it, and no node may start on it."""
CHAINS = "audit-chains"
"""In a data folder: audits of the other nodes of a fleet from which the store came, a file each."""


def node_name(config: Config) -> str:
    """As configured; a node that was given no name goes by its host's."""
    return config.node if config.node != Config().node else socket.gethostname()


def keyfile_path(wrapper: Wrapper, folder: Path) -> Path:
    """The wrapping key's file: as configured, else in the data folder."""
    return Path(wrapper.path).expanduser() if wrapper.path else folder / "wrapping.key"


def key_place(wrapper: Wrapper, folder: Path) -> str:
    """Where the wrapping key is, in words."""
    if wrapper.kind == "passphrase":
        return f"derived from your passphrase ({wrapper.passphrase_env})"
    if wrapper.kind == "awskms":
        return f"in AWS KMS, {wrapper.awskms.key if wrapper.awskms else '?'}"
    if wrapper.kind == "transit":
        return f"in Vault, {wrapper.transit.mount}/{wrapper.transit.key}" if wrapper.transit else "in Vault"
    return f"in {keyfile_path(wrapper, folder)}"


def checkpoints_path(config: Config, folder: Path) -> Path:
    """The signed checkpoints of the audit: as configured (a second place), else in the data folder."""
    named = config.audit.checkpoints
    return Path(named).expanduser() if named else folder / "audit-checkpoints.jsonl"


def secret_variables(secrets: Secrets) -> list[str]:
    """Variables that hold what only control may see: how it is let in to a store, and provider keys."""
    logins = [vault.login.env for vault in secrets.vault.values() if not vault.login.file]
    return logins + [name for store in secrets.environment.values() for name in store.variables]
