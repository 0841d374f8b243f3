"""Several entries at once, in a store that changes one after the other."""

from collections.abc import Mapping, Sequence

from bursar.core.errors import Refusal
from bursar.core.provider_keys import Put, SecretEntry, check_address, check_apart, check_tags
from bursar.ports import SecretStore


async def tag_each(store: SecretStore, changes: Mapping[str, Mapping[str, str | None]]) -> list[SecretEntry]:
    """All are looked at first, so that bad input changes nothing; an outage between two of them leaves some done.

    It can be said again: what is done already changes nothing.
    """
    for secret_id, changed in changes.items():
        merged = {**(await store.entry(secret_id)).tags, **changed}
        check_tags({name: value for name, value in merged.items() if value is not None})
    return [await store.tag(secret_id, changed) for secret_id, changed in changes.items()]


async def put_each(store: SecretStore, puts: Sequence[Put]) -> list[tuple[str, int]]:
    """New entries: when one is refused, those before it are destroyed again.

    Raises Refusal(store_unsupported) where an address is taken: the value before could not be brought back as it was.
    What cannot even be destroyed again, because the store is away by then, is named in the refusal.
    """
    check_apart(puts)
    for put in puts:
        check_address(put.address)
        check_tags(put.tags)
    taken = {entry.address for entry in await store.entries()}
    for put in puts:
        if put.address in taken:
            message = f"{put.address} is taken, and {store.name} replaces one value at a time"
            raise Refusal("store_unsupported", message, "Put that one by itself: bursar secrets put")
    done: list[tuple[str, int]] = []
    try:
        for put in puts:
            done.append(await store.put(put.address, put.value, put.tags))  # noqa: PERF401 - known when one fails
    except Refusal as refusal:
        left = await _destroyed_again(store, done)
        if left:
            message = f"{refusal.message}; what was stored before that could not be destroyed again"
            raise Refusal(refusal.word, message, f"bursar secrets destroy {' '.join(left)}") from None
        raise
    return done


async def _destroyed_again(store: SecretStore, done: Sequence[tuple[str, int]]) -> list[str]:
    """Ids of those that are still there."""
    left = []
    for secret_id, _ in reversed(done):
        try:
            await store.destroy(secret_id)
        except Refusal:
            left.append(secret_id)
    return left
