"""What the audit says of a directory change: digests of before and after that chain from change to change."""

from itertools import pairwise
from typing import Any

from bursar.control.directory import Directory
from bursar.control.owners import OwnerInput, Owners
from bursar.core.audit import decode_record, unframe
from bursar.stores.directory_db import DirectoryDb

Desk = Any  # tests/control/conftest.py


async def test_the_audit_binds_each_change_to_what_was_and_what_is(desk: Desk) -> None:
    """The digest after one change is the digest before the next one of the same thing."""
    trail = desk.trail()
    store = DirectoryDb(desk.db.parent / "directory.db")
    directory = Directory(store.load(), store, desk.open(trail=trail), desk.clock)
    owners = Owners(directory)
    made = await owners.create("admin", "First", ("a@example.com",))
    await owners.update("admin", made.id, lambda _: OwnerInput(name="Second"))
    await owners.update("admin", made.id, lambda _: OwnerInput(name="First", contacts=("a@example.com",)))
    await owners.remove("admin", made.id)
    records = [decode_record(unframe(line)[1]) for line in await trail.read(0, 100)]
    facts = [record.facts for record in records if record.action.startswith("owner.")]
    assert len(facts) == 4
    for earlier, later in pairwise(facts):
        assert earlier["digest_after"] == later["digest_before"]
    assert facts[0]["digest_after"] == facts[2]["digest_after"]
    assert facts[0]["digest_before"] == facts[3]["digest_after"]  # nothing before, nothing after
    assert len({fact["digest_after"] for fact in facts}) == 3
    store.close()
