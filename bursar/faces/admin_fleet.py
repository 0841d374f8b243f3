"""The nodes of a fleet over the admin API: any node tells of all."""

from bursar.core.fleet import NodeSeen
from bursar.faces.admin_calls import AdminCall, items
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape, instant


class NodeView(Shape, frozen=True, kw_only=True):
    name: str
    live: bool  # its lease has not run out
    version: str  # of Bursar
    host: str
    directory_version: int
    gateways: int  # connected to its control
    joined_at: str
    seen_at: str


def _view(node: NodeSeen) -> NodeView:
    return NodeView(
        name=node.name,
        live=node.live,
        version=node.version,
        host=node.host,
        directory_version=node.directory_version,
        gateways=node.gateways,
        joined_at=instant(node.joined_ns),
        seen_at=instant(node.seen_ns),
    )


async def list_nodes(call: AdminCall) -> object:
    return items([_view(node) for node in await call.services.fleet.nodes()], None)


ROUTES = (
    Route(
        "GET",
        "/nodes",
        "The nodes that share the store, by their last heartbeat; none on one node",
        list_nodes,
        NodeView,
        query=Page,
        page=True,
        refusals=("store_unavailable",),
    ),
)
