"""Who may do what in the admin API: five roles, and the one table that says which rights each has.

A right names a kind of act, not a path; each route names the one right that it asks for (`bursar.faces.admin_routes`).
Nothing is implied: a right that a role does not have here, it does not have.
"""

from typing import Literal

import msgspec

from bursar.core.errors import Refusal

Role = Literal["viewer", "auditor", "approver", "operator", "admin"]
Right = Literal[
    "read",  # the directory, balances, usage, status
    "read_audit",
    "approve",  # what waits for a person's yes
    "operate",  # switch off and on, rotate, store and tag provider keys that were granted: running what is there
    "reveal",  # read a provider key in clear, on a node that lets it out at all
    "administer",  # create, change and remove tenants, budgets and policies
    "manage_admins",  # who may do all this
]

RIGHTS: dict[Role, frozenset[Right]] = {
    "viewer": frozenset({"read"}),
    "auditor": frozenset({"read", "read_audit"}),
    "approver": frozenset({"read", "approve"}),
    "operator": frozenset({"read", "approve", "operate"}),
    "admin": frozenset({"read", "read_audit", "approve", "operate", "reveal", "administer", "manage_admins"}),
}

MEANING: dict[Role, str] = {
    "viewer": "sees tenants, budgets, usage and status",
    "auditor": "sees that and the audit, changes nothing",
    "approver": "sees tenants, and decides what waits for a yes",
    "operator": "runs what is there: switches, rotations, approvals, and the provider keys granted to it",
    "admin": "everything, also who else may enter",
}


class Caller(msgspec.Struct, frozen=True):
    """Somebody whom the door let in. `actor` is the name that the audit has of him."""

    actor: str
    role: Role
    session: str = ""  # id of the login by which he came, if by one

    def require(self, right: Right) -> None:
        """The one place that checks. Raises Refusal(role_not_allowed)."""
        if right not in RIGHTS[self.role]:
            able = ", ".join(role for role, rights in RIGHTS.items() if right in rights)
            raise Refusal(
                "role_not_allowed",
                f"{self.actor} is {self.role}, and this needs the right to {right.replace('_', ' ')}",
                f"Have it done by: {able}",
                facts={"role": self.role, "right": right},
            )
