"""Stage 4 for callers of the Azure paths: they name a deployment, and the directory says which model it stands for."""

from collections.abc import Callable

from bursar.core.calls import Call
from bursar.core.deployments import model_of
from bursar.gateway.flight import Flight
from bursar.gateway.node import Node
from bursar.gateway.routes import Route
from bursar.ports import Dialect


def understand_deployed(node: Node, flight: Flight, route: Route, dialect: Dialect) -> Callable[[str, bytes], Call]:
    """`dialect.understand` behind the map. The path's name goes before the body's, as at Azure.

    What it gives raises Refusal(deployment_unknown) besides the dialect's own.
    """
    plan = flight.plan
    assert plan is not None

    def naming(said: str) -> str:
        return model_of(node.tenants.deployments, plan.team_id, route.deployment or said)

    return lambda name, body: dialect.understand(name, dialect.rename(body, naming))
