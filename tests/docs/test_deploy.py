"""What lies in deploy/kubernetes is what Kubernetes and `bursar` take: kinds, a private pod, options that exist."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bursar.faces.cli import Offline, build_cli

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_is_a_list_of_named_objects(path: Path) -> None:
    for document in documents(path):
        assert {"apiVersion", "kind", "metadata"} <= document.keys()
        assert document["metadata"]["name"]


def test_the_token_sidecar_holds_no_key_and_calls_bursar_as_it_is() -> None:
    account, pod = documents(FOLDER / "token-sidecar.yaml")
    spec = pod["spec"]
    assert spec["serviceAccountName"] == account["metadata"]["name"]
    (sidecar,), (application,) = spec["initContainers"], spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    (source,) = volumes["identity"]["projected"]["sources"]
    url = next(env["value"] for env in sidecar["env"] if env["name"] == "BURSAR_URL")
    assert source["serviceAccountToken"]["audience"] == url
    mounted = {mount["name"]: mount["mountPath"] for mount in sidecar["volumeMounts"]}
    program, command, *arguments = sidecar["command"]
    assert (program, command) == ("bursar", "token")
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options["--subject-file"].startswith(mounted["identity"])
    assert options["--watch"].startswith(mounted["bursar"])
    told = CliRunner().invoke(build_cli(_nothing()), ["token", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in told for option in options)
    assert "API_KEY" not in (FOLDER / "token-sidecar.yaml").read_text()
    for container in (sidecar, application):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


def _nothing() -> Offline:
    """`--help` asks nobody."""
    return Offline(**dict.fromkeys(Offline.__dataclass_fields__, None))  # type: ignore[arg-type]
