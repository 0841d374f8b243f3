"""Deployments: the names by which callers of the Azure paths ask for a model.

Azure has its customers name each model they may use, and knows no other name. Here the name is mapped to a model, for
everybody or for one team; the policy, the price and the budget are those of the model.
Reference: https://learn.microsoft.com/azure/ai-services/openai/reference (paths),
https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules (names).
"""

import re
from collections.abc import Mapping

from bursar.core.directory import Deployment
from bursar.core.errors import Refusal

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def deployment_id(name: str, team_id: str = "") -> str:
    """Unique in the directory. Neither a name nor a team's id holds a colon."""
    return f"{team_id}:{name}" if team_id else name


def parts_of(deployment: Deployment) -> tuple[str, str]:
    """-> (name, team id or "")."""
    team_id, _, name = deployment.id.rpartition(":")
    return name, team_id


def models_by_name(deployments: Mapping[str, Deployment], team_id: str) -> dict[str, str]:
    """Every name that the team may call by, and what it stands for."""
    found: dict[str, str] = {}
    for deployment in sorted(deployments.values(), key=lambda one: ":" in one.id):  # a team's own goes before
        name, of_team = parts_of(deployment)
        if of_team in ("", team_id):
            found[name] = deployment.model
    return dict(sorted(found.items()))


def model_of(deployments: Mapping[str, Deployment], team_id: str, name: str) -> str:
    """The model that a name stands for: what the team has mapped goes before what holds for all.

    Raises Refusal(deployment_unknown).
    """
    found = deployments.get(deployment_id(name, team_id)) or deployments.get(name)
    if found is None or ":" in name:
        command = f"bursar models map {name if NAME.fullmatch(name) else 'NAME'} MODEL"
        raise Refusal(
            "deployment_unknown",
            f"The deployment {name[:64]!r} is mapped to no model for this team",
            f"Whoever runs this broker can map it: `{command}`",
        )
    return found.model
