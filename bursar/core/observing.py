"""Provider keys that applications still present themselves: their ids here, and the twin of a plan that they share.

An id is made of the keyed digest, so that every node, and the first call before anybody has heard of the key, knows
the application by the same one; it tells nothing of the key to who has not the pepper.
"""

from base64 import b32encode

from msgspec.structs import replace

from bursar.core.directory import Observed
from bursar.core.ledger_records import SWAPPED
from bursar.core.plans import KeyPlan

_PRESENTED = "presented-"


def key_id_of(digest: bytes) -> str:
    """The public id of the key with this digest: as those that are drawn by lot, 60 bits in base32."""
    return b32encode(digest[:8]).decode()[:12].lower()


def presented_id(key_id: str) -> str:
    """How the presented provider key is called where one of the vault has its id: in the ledger, and beside ids that
    its provider makes.
    """
    return f"{_PRESENTED}{key_id}"


def is_presented(secret_id: str) -> bool:
    return secret_id.startswith(_PRESENTED)


def is_passed_on(observed: Observed | None) -> bool:
    """Whether calls go up with the provider key that they came with, and with no other."""
    return observed is not None and not observed.secret_id


def swapped(plan: KeyPlan) -> KeyPlan:
    """The plan of a sealed key for callers that still present the provider key: what it may do, under another mark."""
    return replace(plan, credential=SWAPPED, parent=plan)
