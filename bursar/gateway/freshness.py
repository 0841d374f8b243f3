"""How old this node's directory may be. On one node it cannot be old; in a fleet, control confirms it each second.

A call that is held against a budget is checked by the store in the act itself, whatever this node believes: it needs no
fresh directory. Any other is served for a few seconds after the last confirmation, and then refused.
"""

from bursar.core.errors import Refusal
from bursar.core.policy import KeyPlan
from bursar.gateway.node import Node

STALE_AFTER_S = 5.0


def check_fresh(node: Node, plan: KeyPlan | None) -> None:
    """Raises Refusal(directory_stale). `plan` None: the key is not known here, and may be one that others have made."""
    if plan is not None and plan.fixed_budgets:
        return
    if node.clock.monotonic() > node.fresh_until:
        raise Refusal(
            "directory_stale",
            f"This node has not reached the store for more than {STALE_AFTER_S:g} s and no longer knows who may call",
            "Try again in a moment, or another node",
            retry_after=1,
        )
