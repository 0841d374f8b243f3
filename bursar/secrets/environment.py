"""The environment as a store: variables that the configuration names. For reading; changes with a restart only."""

from collections.abc import Mapping

import msgspec

from bursar.core.errors import Refusal
from bursar.core.layout import derived_id
from bursar.core.provider_keys import UNASSIGNED, SecretEntry, SecretVersion, check_address, check_tags
from bursar.core.secret import Secret
from bursar.ports import Clock
from bursar.secrets.read_only import ReadOnly
from bursar.secrets.values import found_value


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """What a variable holds the key of."""

    address: str
    tags: dict[str, str] = {}


class EnvironmentStore(ReadOnly):
    """`env` is read here, once. A variable that is not set is no entry. The version is this start's millisecond."""

    where = "the environment"

    def __init__(self, name: str, variables: Mapping[str, Variable], env: Mapping[str, str], clock: Clock) -> None:
        super().__init__(name)
        self._version = clock.now() // 1_000_000
        self._values: dict[str, Secret | Refusal] = {}
        self._entries: dict[str, SecretEntry] = {}
        for variable, meant in variables.items():
            if variable in env:
                self._take(variable, meant, env[variable], clock.now())

    def _take(self, variable: str, meant: Variable, raw: str, now: int) -> None:
        secret_id = derived_id(self.name, variable)
        tags, fault = _checked(meant)
        try:
            self._values[secret_id] = found_value(raw, f"The variable {variable}")
        except Refusal as refusal:
            self._values[secret_id], fault = refusal, fault or refusal.word
        self._entries[secret_id] = SecretEntry(
            id=secret_id,
            address=meant.address,
            tags=tags,
            version=self._version,
            versions=(SecretVersion(version=self._version, state="current", created_at=now),),
            created_at=now,
            updated_at=now,
            store=self.name,
            fault=fault,
        )

    async def get(self, secret_id: str, version: int | None = None) -> Secret:
        value = self._values.get(secret_id)
        if value is None or version not in (None, self._version):
            raise self._unknown(secret_id)
        if isinstance(value, Refusal):
            raise value
        return value

    async def entry(self, secret_id: str) -> SecretEntry:
        if secret_id not in self._entries:
            raise self._unknown(secret_id)
        return self._entries[secret_id]

    async def entries(self) -> list[SecretEntry]:
        return sorted(self._entries.values(), key=lambda entry: (entry.address, entry.id))

    async def find(self, value: Secret) -> SecretEntry | None:
        return next((self._entries[key] for key, held in self._values.items() if held == value), None)


def _checked(meant: Variable) -> tuple[dict[str, str], str]:
    """Tags, and the word of what is wrong with them or the address."""
    fault = ""
    try:
        check_address(meant.address)
        return check_tags(meant.tags), ""
    except Refusal as refusal:
        fault = refusal.word
    return {"billing_owner": UNASSIGNED}, fault
