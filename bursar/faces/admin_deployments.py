"""Names of Azure deployments and the models they stand for, over the admin API."""

from typing import Annotated

import msgspec

from bursar.core.deployments import parts_of
from bursar.core.directory import Deployment
from bursar.faces.admin_calls import AdminCall, items, page_of
from bursar.faces.admin_route import Route
from bursar.faces.admin_shapes import Page, Shape


class DeploymentMap(Shape, frozen=True, kw_only=True):
    """`team`: only for it; empty = for everybody."""

    name: Annotated[str, msgspec.Meta(max_length=64)]
    model: Annotated[str, msgspec.Meta(max_length=256)]
    team: str = ""


class DeploymentView(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    team: str
    model: str


def _view(deployment: Deployment) -> DeploymentView:
    name, team = parts_of(deployment)
    return DeploymentView(id=deployment.id, name=name, team=team, model=deployment.model)


async def list_deployments(call: AdminCall) -> object:
    rows, following = page_of(call.services.deployments.all(), call.query, lambda one: one.id)
    return items([_view(one) for one in rows], following)


async def map_deployment(call: AdminCall) -> object:
    given: DeploymentMap = call.body
    return _view(await call.services.deployments.map(call.actor, given.name, given.model, given.team))


async def unmap_deployment(call: AdminCall) -> None:
    await call.services.deployments.unmap(call.actor, call.path["id"])


ROUTES = (
    Route(
        "GET",
        "/deployments",
        "List the names of Azure deployments",
        list_deployments,
        DeploymentView,
        query=Page,
        page=True,
    ),
    Route(
        "POST",
        "/deployments",
        "Map a deployment to a model, or change what it stands for",
        map_deployment,
        DeploymentView,
        body=DeploymentMap,
        created=True,
        previews=True,
        refusals=("unknown_id",),
    ),
    Route(
        "DELETE", "/deployments/{id}", "Unmap a deployment", unmap_deployment, previews=True, refusals=("unknown_id",)
    ),
)
