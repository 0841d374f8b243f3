"""Tags of several entries, in a store that changes one after the other."""

from collections.abc import Mapping

from bursar.core.provider_keys import SecretEntry, check_tags
from bursar.ports import SecretStore


async def tag_each(store: SecretStore, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
    """All are looked at first, so that bad input changes nothing; an outage between two of them leaves some done.

    It can be said again: what is done already changes nothing.
    """
    for secret_id, changed in changes.items():
        merged = {**(await store.entry(secret_id)).tags, **changed}
        check_tags({name: value for name, value in merged.items() if value is not None})
    return [await store.tag(secret_id, changed) for secret_id, changed in changes.items()]
