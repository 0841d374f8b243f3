"""What a store that cannot be written answers to writing."""

from typing import NoReturn

from bursar.core.errors import Refusal
from bursar.core.provider_keys import SecretEntry


class ReadOnly:
    """The writing half of `bursar.ports.SecretStore`, refused by one word."""

    writable = False
    where = "the store"  # what the operator changes instead

    def __init__(self, name: str) -> None:
        self.name = name

    async def put(self, *_: object, **__: object) -> tuple[str, int]:
        self._refuse()

    async def put_many(self, *_: object) -> list[tuple[str, int]]:
        self._refuse()

    async def put_version(self, *_: object, **__: object) -> int:
        self._refuse()

    async def tag(self, *_: object) -> SecretEntry:
        self._refuse()

    async def tag_many(self, *_: object) -> list[SecretEntry]:
        self._refuse()

    async def set_disabled(self, *_: object) -> SecretEntry:
        self._refuse()

    async def destroy(self, *_: object) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        hint = f"Change {self.where}, or store the key in another store: bursar secrets put --store"
        raise Refusal("store_read_only", f"The secret store {self.name} can only be read", hint)

    def _unknown(self, secret_id: str) -> Refusal:
        hint = "See: bursar secrets list"
        return Refusal("secret_not_found", f"There is no provider key {secret_id[:64]!r} in {self.name}", hint)
