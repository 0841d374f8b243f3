"""Provider keys in several stores: the directory follows them, and does not mistake silence for absence."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bursar.control.provider_keys import ProviderKeys
from bursar.control.release import Releases
from bursar.core.errors import Refusal
from bursar.core.layout import Layout
from bursar.core.secret import Secret
from bursar.secrets.embedded import EmbeddedStore
from bursar.secrets.mounted import MountedStore
from bursar.secrets.stores import Stores
from bursar.secrets.wrap.keyfile import create
from tests.control.tenants import ACTOR, SeededEntropy, Tenants

OWN = "openai/*/api_key/prod/*"
MOUNTED = "anthropic/*/*/*/*"
VALUE = Secret("sk-proj-canary-0123456789")


class Place(Tenants):
    """The node's own store and a mounted one."""

    def __init__(self, folder: Path, own: EmbeddedStore, *, may_reveal: bool = False) -> None:
        super().__init__(folder)
        self.mount = folder / "mount"
        self.mount.mkdir(exist_ok=True)
        self.stores = Stores([own, MountedStore("csi", self.mount, Layout(path="{provider}"))])
        self.stores.lies_in = self._lies_in
        self.keys_of_providers = ProviderKeys(
            self.directory, self.stores, self.audit, ("openai", "anthropic"), may_reveal=may_reveal
        )

    def _lies_in(self, secret_id: str) -> str | None:
        found = {key.id: key.store for key in self.directory.snapshot().provider_keys}
        return found.get(secret_id)

    def lies(self) -> dict[str, str]:
        return {key.address: key.store for key in self.directory.snapshot().provider_keys}


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    entropy = SeededEntropy()
    wrapper = create(tmp_path / "wrapping.key", entropy)
    store = await EmbeddedStore.open(tmp_path / "secrets.db", [wrapper], SetClock(), entropy)
    yield store
    store.close()


class SetClock:
    def __init__(self) -> None:
        self.ns = 1_700_000_000 * 10**9

    def now(self) -> int:
        self.ns += 1
        return self.ns

    def monotonic(self) -> float:
        return self.ns / 1e9


@pytest.fixture
async def place(tmp_path: Path, own: EmbeddedStore) -> AsyncIterator[Place]:
    made = Place(tmp_path, own)
    await made.owners.create(ACTOR, "ACME")
    yield made
    made.store.close()


async def word_of(doing: object) -> str:
    with pytest.raises(Refusal) as refused:
        await doing  # type: ignore[misc]
    return refused.value.word


async def test_what_others_put_into_a_store_reaches_the_directory(place: Place) -> None:
    await place.keys_of_providers.put(ACTOR, OWN, VALUE, {"billing_owner": "acme"})
    (place.mount / "anthropic").write_text("sk-mounted")
    (place.mount / "anthropic.tags.json").write_text(json.dumps({"billing_owner": "somebody"}))
    assert await place.keys_of_providers.sync() == 1
    assert place.lies() == {OWN: "embedded", MOUNTED: "csi"}
    assert await place.keys_of_providers.sync() == 0
    (mounted,) = [entry for entry in await place.keys_of_providers.all() if entry.store == "csi"]
    assert place.keys_of_providers.flags(mounted) == ("unknown_owner",)
    (place.mount / "anthropic").unlink()
    assert await place.keys_of_providers.sync() == 1
    assert place.lies() == {OWN: "embedded"}


async def test_keys_of_a_store_that_does_not_answer_stay(place: Place) -> None:
    (place.mount / "anthropic").write_text("sk-mounted")
    await place.keys_of_providers.sync()
    place.mount.rename(place.mount.with_name("away"))
    assert await place.keys_of_providers.sync() == 0
    assert place.lies() == {MOUNTED: "csi"}
    (key,) = place.directory.snapshot().provider_keys
    assert await word_of(place.keys_of_providers.get(key.id)) == "secrets_unavailable"
    (state,) = [state for state in place.keys_of_providers.stores() if state.fault]
    assert (state.name, state.fault) == ("csi", "secrets_unavailable")
    place.mount.with_name("away").rename(place.mount)
    assert await place.keys_of_providers.sync() == 0


async def test_a_gateway_that_asks_for_the_version_before_a_swap_gets_the_present_one(place: Place) -> None:
    """A mounted directory keeps no older one: until the directory has followed, that must not fail a call."""
    (place.mount / "anthropic").write_text("sk-mounted")
    (entry,) = await place.keys_of_providers.all()
    releases = Releases(place.stores, place.audit, place.clock)
    lease = await releases.release(entry.id, entry.version - 5, "n1", "lease")
    assert (lease.value, lease.version) == (Secret("sk-mounted"), entry.version)
    assert await word_of(releases.release(entry.id, entry.version + 5, "n1", "lease")) == "no_provider_key"


async def test_what_is_closed_in_its_store_is_refused_by_its_word(place: Place) -> None:
    (place.mount / "anthropic").write_text("two\nlines")
    (entry,) = await place.keys_of_providers.all()
    await place.keys_of_providers.sync()
    (key,) = place.directory.snapshot().provider_keys
    assert key.disabled
    assert place.keys_of_providers.flags(entry) == ("unowned", "secret_malformed")
    releases = Releases(place.stores, place.audit, place.clock)
    assert await word_of(releases.release(entry.id, entry.version, "n1", "lease")) == "secret_malformed"


async def test_an_address_that_cannot_be_read_never_reaches_the_gateways(place: Place) -> None:
    """They take addresses apart for every call: a malformed one would stop the others."""
    (place.mount / "no provider").write_text("sk-mounted")
    (entry,) = await place.keys_of_providers.all()
    assert entry.fault == "invalid_address"
    assert await place.keys_of_providers.sync() == 0
    assert place.lies() == {}


async def test_a_value_of_unknown_shape_is_accepted_and_flagged(place: Place) -> None:
    odd = await place.keys_of_providers.put(ACTOR, OWN, Secret("AQ.some-new-shape"), {"billing_owner": "acme"})
    assert place.keys_of_providers.flags(odd) == ("unknown_shape",)
    (record,) = [line for line in place.audit.lines if line.action == "secret.put"]
    assert record.facts["shape"] == "unknown"
    known = "sk-" + "Ab3" * 6 + "Zx" + "T3BlbkFJ" + "Qw5" * 6 + "Er"
    fine = await place.keys_of_providers.put(ACTOR, OWN, Secret(known), {"billing_owner": "acme"})
    assert place.keys_of_providers.flags(fine) == ()
    (place.mount / "anthropic").write_text("sk-mounted")
    entry = next(one for one in await place.keys_of_providers.all() if one.store == "csi")
    releases = Releases(place.stores, place.audit, place.clock, look_at=place.keys_of_providers.look_at)
    await releases.release(entry.id, entry.version, "n1", "lease")
    assert "unknown_shape" in place.keys_of_providers.flags(entry), "one that nobody put is looked at when it is lent"


async def test_a_move_is_on_record_and_the_directory_says_where_it_lies_now(place: Place, own: EmbeddedStore) -> None:
    entry = await place.keys_of_providers.put(ACTOR, OWN, VALUE, {"billing_owner": "acme"}, store="embedded")
    assert await word_of(place.keys_of_providers.move(ACTOR, entry.id, "csi")) == "store_read_only"
    assert await word_of(place.keys_of_providers.move(ACTOR, entry.id, "nowhere")) == "store_unknown"
    acts = [(line.action, line.outcome) for line in place.audit.lines if line.action == "secret.move"]
    assert acts == [("secret.move", "allowed"), ("secret.move", "failed")] * 2
    assert place.lies() == {OWN: "embedded"}


async def test_reading_in_clear_is_refused_and_on_record_unless_it_is_on(tmp_path: Path, own: EmbeddedStore) -> None:
    off = Place(tmp_path, own)
    await off.owners.create(ACTOR, "ACME")
    entry = await off.keys_of_providers.put(ACTOR, OWN, VALUE, {"billing_owner": "acme"})
    assert await word_of(off.keys_of_providers.reveal("ann", entry.id, None, "why")) == "reveal_not_allowed"
    record = off.audit.lines[-1]
    assert (record.actor, record.action, record.outcome, record.facts["reason"]) == (
        "ann",
        "secret.reveal",
        "refused",
        "why",
    )
    on = ProviderKeys(off.directory, off.stores, off.audit, may_reveal=True)
    assert await on.reveal("ann", entry.id, None, "why") == (entry, VALUE)
    record = off.audit.lines[-1]
    assert (record.action, record.outcome, record.facts["version"]) == ("secret.reveal", "allowed", "current")
    off.store.close()
