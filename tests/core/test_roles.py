"""The table of roles: nobody who only looks may change anything, and nobody may do more than the admin."""

from typing import get_args

import pytest

from bursar.core.errors import Refusal
from bursar.core.roles import MEANING, RIGHTS, Caller, Right, Role


def test_every_role_has_its_row_and_its_meaning() -> None:
    assert set(RIGHTS) == set(MEANING) == set(get_args(Role))


def test_no_role_has_more_than_the_admin_and_every_right_is_somebodys() -> None:
    assert RIGHTS["admin"] == set(get_args(Right))
    assert all(rights <= RIGHTS["admin"] for rights in RIGHTS.values())


def test_who_only_looks_changes_nothing() -> None:
    for role in ("viewer", "auditor"):
        assert RIGHTS[role] <= {"read", "read_audit"}


@pytest.mark.parametrize("role", RIGHTS)
@pytest.mark.parametrize("right", get_args(Right))
def test_a_caller_may_do_what_the_table_says_and_nothing_else(role: Role, right: Right) -> None:
    caller = Caller("admin:somebody", role)
    if right in RIGHTS[role]:
        caller.require(right)
        return
    with pytest.raises(Refusal) as refused:
        caller.require(right)
    assert refused.value.word == "role_not_allowed"
    assert refused.value.facts == {"role": role, "right": right}
    assert "admin" in refused.value.hint
