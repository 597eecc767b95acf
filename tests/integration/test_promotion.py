"""Aliases, commands and the real Triton: what is asked for answers."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.params import load_params
from lobsmith.release.context import Release
from lobsmith.release.reconcile.reconcile import reconcile
from lobsmith.release.registry.aliases import ARTIFACT_ID, CHALLENGER, CHAMPION, alias_targets, log_release
from lobsmith.release.registry.mlflow_store import mlflow_store
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.names import candidate_model
from lobsmith.serving.running_server import running_server
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.workspace import Workspace
from tests.release.registrations import workspace_with_mlflow
from tests.served import publish_small, rows
from tests.small import SMALL, params_file

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DEPLOYMENT = candidate_model("lob")


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "params.yaml").write_text(params_file().read_text())
    return workspace_with_mlflow(tmp_path)


@pytest.fixture
def params(workspace):
    return with_free_ports(load_params(workspace.params, SMALL))


def nominated(workspace: Workspace, params, seed: int) -> tuple[int, str]:
    """Deploy a candidate as a retrain does; return its registered version and its artifact."""
    server = running_server(workspace, params)
    manifest = publish_small(workspace, params, seed=seed, model=DEPLOYMENT, server=server)
    with mlflow_store(workspace) as client:
        existing = client.get_experiment_by_name("lob")
        location = workspace.mlflow_artifacts.as_uri()
        experiment = existing.experiment_id if existing else client.create_experiment("lob", artifact_location=location)
        run = client.create_run(experiment).info.run_id
        if not client.search_registered_models("name = 'lob'"):
            client.create_registered_model("lob")
        tags = {ARTIFACT_ID: manifest.artifact_id}
        version = int(client.create_model_version("lob", f"runs:/{run}/release", run_id=run, tags=tags).version)
    log_release(workspace, run, Repository.of(workspace).directory(DEPLOYMENT, manifest.version))
    with mlflow_store(workspace) as client:
        client.set_registered_model_alias("lob", CHALLENGER, str(version))
    return version, manifest.artifact_id


def command(workspace: Workspace, *arguments: str) -> dict:
    result = CliRunner().invoke(cli, ["--root", str(workspace.root), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def answer(endpoint, version: int) -> np.ndarray:
    transport = GrpcTransport(endpoint.grpc_url)
    try:
        state = np.zeros((1, transport.describe("lob").state_size), np.float32)
        return transport.infer("lob", version, rows(8, seed=5)[None], state, 10.0).probabilities
    finally:
        transport.close()


def test_from_challenger_to_champion_and_back(workspace, params):
    repository = Repository.of(workspace)
    with running_triton(workspace, params) as control:
        first, first_artifact = nominated(workspace, params, 1)
        server = running_server(workspace, params)
        # Nothing serves yet: the first challenger is promoted, and the candidate undeployed.
        done = reconcile(Release(workspace, params, server), "lob")
        assert control.ready_versions("lob") == [done.active]
        assert control.ready_versions(DEPLOYMENT) == []
        before = answer(control.endpoint, done.active)

        second, second_artifact = nominated(workspace, params, 2)
        assert reconcile(Release(workspace, params, server), "lob").actions == ()
        [candidate] = control.ready_versions(DEPLOYMENT)
        plan = command(workspace, "models", "promote", "--dry-run")
        assert (plan["artifact_id"], plan["refusals"]) == (second_artifact, [])
        assert control.ready_versions("lob") == [done.active]

        # The candidate's own number will do as well as the registered version, or none for the challenger.
        promoted = command(workspace, "models", "promote", str(candidate), "--reason", "it is better")
        assert promoted["registered"] == second
        assert control.ready_versions("lob") == [done.active, promoted["active"]]
        assert control.ready_versions(DEPLOYMENT) == []
        after = answer(control.endpoint, promoted["active"])
        assert np.abs(after - before).max() > 1e-3

        back = command(workspace, "models", "rollback", "--reason", "it is not")
        assert back["version_to"] == done.active
        assert back["alias_follows_later"] is None
        assert control.ready_versions("lob") == [done.active]
        np.testing.assert_array_equal(answer(control.endpoint, done.active), before)
        assert alias_targets(workspace, "lob").champion.version == first

        # Promoting a rolled-back version is a new request, and gets a new highest number.
        again = command(workspace, "models", "promote", f"registry:{second}")
        assert again["active"] > promoted["active"]
        np.testing.assert_array_equal(answer(control.endpoint, again["active"]), after)
        assert repository.verify("lob", again["active"]).artifact_id == second_artifact

        listing = command(workspace, "models", "list")
        assert [row["state"] for row in listing["versions"]] == ["active", "fallback"]
        aliases = {row["version"]: row["aliases"] for row in listing["registered"]}
        assert aliases == {first: [], second: [CHAMPION]}
        shown = command(workspace, "models", "show", str(again["active"]))
        assert shown["manifest"]["promoted_from"]["model"] in ("lob", DEPLOYMENT)
        assert [entry["action"] for entry in shown["journal"] if entry["model"] == "lob"][-1] == "promoted"
        state = command(workspace, "status")
        assert state["models"]["lob"]["champion"] == f"registered version {second}"
        assert first_artifact != second_artifact


def test_the_past_can_be_asked_for(workspace, params):
    publish_small(workspace, params, seed=1)
    version = Repository.of(workspace).active("lob")
    now = command(workspace, "status", "--at", "2100-01-01")
    assert now["models"]["lob"]["version"] == version
    assert command(workspace, "status", "--at", "2000-01-01T00:00+02:00")["models"]["lob"] is None
