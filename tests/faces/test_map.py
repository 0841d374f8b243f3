"""The map of the provider keys and the tagging of many, through the admin API and the command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.core.secret import Secret
from bursar.faces.client import AdminClient, ApiRefusal
from tests.faces.stand import Stand, standing

DAY = 86_400 * 10**9
ALPHA, WIDE = "openai/*/api_key/prod/alpha", "openai/*/api_key/prod/*"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with standing(tmp_path) as one:
        yield one


def client(stand: Stand) -> AdminClient:
    return AdminClient(stand.url, stand.token)


def stored(stand: Stand, address: str, value: str, **tags: str) -> str:
    secret_id, _ = stand.run(stand.secrets.put(address, Secret(value), tags, True))
    return str(secret_id)


def the_map(stand: Stand) -> dict[str, dict[str, Any]]:
    return {line["address"]: line for line in client(stand).call("GET", "/key-map")["items"]}


@pytest.fixture
def tenants(stand: Stand) -> None:
    client(stand).call("POST", "/owners", {"id": "ann", "name": "Ann"})
    for team in ("alpha", "beta"):
        client(stand).call("POST", "/teams", {"id": team, "name": team, "owner": "ann"})
    client(stand).call("POST", "/keys", {"name": "app", "team": "alpha"})


@pytest.mark.usefixtures("tenants")
def test_the_map_tells_who_and_what_is_wrong(stand: Stand) -> None:
    alpha = stored(stand, ALPHA, "value-one", billing_owner="ann", allowed_models="gpt-4o", expires="2020-01-01")
    stored(stand, WIDE, "value-one")
    stored(stand, "openai/*/api_key/prod/gone", "value-two", billing_owner="nobody", expires="soon")
    stand.clock.ns += 8 * DAY
    stand.ledger.used = {alpha: stand.clock.ns}
    lines = the_map(stand)
    assert (lines[ALPHA]["used_by"], lines[ALPHA]["keys"]) == (["alpha"], 1)
    assert (lines[ALPHA]["read_by"], lines[ALPHA]["rotated_by"]) == ([], ["role/admin"])
    assert lines[ALPHA]["flags"] == ["duplicate", "expired"]
    assert lines[ALPHA]["last_use"]
    assert (lines[WIDE]["used_by"], lines[WIDE]["flags"]) == (
        ["alpha", "beta"],
        ["unowned", "duplicate", "over_scoped", "never_used"],
    )
    assert lines["openai/*/api_key/prod/gone"]["flags"] == ["owner_gone", "no_team", "never_used", "expiring"]


@pytest.mark.usefixtures("tenants")
def test_a_sheet_changes_all_or_nothing(stand: Stand, tmp_path: Path) -> None:
    alpha = stored(stand, ALPHA, "value-one")
    wide = stored(stand, WIDE, "value-two", note="old")
    rows = [
        {"line": 2, "key": ALPHA, "tags": {"billing_owner": "ann"}},
        {"line": 3, "key": wide, "tags": {"note": None, "purpose": "embedding"}},
    ]
    previewed = client(stand).call("POST", "/provider-key-tags", {"rows": rows})
    assert previewed["applied"] is False
    assert previewed["changes"][0]["after"] == {"billing_owner": "ann"}
    assert previewed["changes"][1]["before"] == {"note": "old"}
    assert stand.run(stand.secrets.entry(wide)).tags["note"] == "old"
    applied = client(stand).call("POST", "/provider-key-tags", {"rows": rows, "apply": True})
    assert applied == {**previewed, "applied": True}
    assert stand.run(stand.secrets.entry(alpha)).tags["billing_owner"] == "ann"
    assert stand.run(stand.secrets.entry(wide)).tags == {"billing_owner": "unassigned", "purpose": "embedding"}
    assert stand.run(stand.secrets.get(wide)) == Secret("value-two"), "it opens under its new tags"
    assert {line["address"]: line["owner"] for line in the_map(stand).values()}[ALPHA] == "ann"


@pytest.mark.usefixtures("tenants")
def test_every_fault_of_a_sheet_is_told_by_its_line_and_nothing_is_changed(stand: Stand) -> None:
    alpha = stored(stand, ALPHA, "value-one")
    rows = [
        {"line": 2, "key": ALPHA, "tags": {"note": "new"}},
        {"line": 3, "key": "openai/*/api_key/x/y", "tags": {"note": "new"}},
        {"line": 4, "key": alpha, "tags": {"note": "again"}},
        {"line": 7, "key": WIDE, "tags": {"billing_owner": "an"}},
    ]
    stored(stand, WIDE, "value-two")
    for apply in (False, True):
        with pytest.raises(ApiRefusal) as refused:
            client(stand).call("POST", "/provider-key-tags", {"rows": rows, "apply": apply})
        assert [(fault["path"], fault["word"]) for fault in refused.value.faults] == [
            ("line 3", "secret_not_found"),
            ("line 4", "invalid_input"),
            ("line 7", "unknown_id"),
        ]
    assert "note" not in stand.run(stand.secrets.entry(alpha)).tags
