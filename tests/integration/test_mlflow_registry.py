import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lobsmith.errors import RegistryError, ReleaseError
from lobsmith.files import sha256_file
from lobsmith.params import as_table
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import publish
from lobsmith.release.registry import mlflow_store
from lobsmith.release.registry.aliases import (
    CHALLENGER,
    CHAMPION,
    AliasTargets,
    Registered,
    alias_targets,
    delete_alias,
    find_registered,
    log_release,
    registered,
    release_of,
    set_alias,
    tag,
)
from lobsmith.release.registry.runs import log_run
from lobsmith.release.repository.repository import Repository
from lobsmith.workspace import Workspace
from tests.release import toy

pytestmark = pytest.mark.integration


def log(workspace, **changes):
    path = workspace.root / "run" / "model.onnx"
    if not path.exists():
        toy.artifact(path.parent)
    (workspace.root / "report.html").write_text("<p>fine")
    settings = {
        "experiment": "lob",
        "run_name": "nightly",
        "params": as_table(toy.params()),
        "metrics": {"test.log_loss": 0.9, "unknown": float("nan")},
        "history": [{"loss": 1.0, "validation": 1.1}, {"loss": 0.8, "validation": 1.0}],
        "artifacts": [workspace.root / "report.html"],
        "model_path": path,
        "model_name": "lob",
        "tags": {"flow_run": "7"},
    }
    return log_run(workspace, **settings | changes)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def run(workspace):
    return log(workspace)


@pytest.fixture(scope="module")
def client(workspace, run):
    import mlflow

    return mlflow.MlflowClient(workspace.mlflow_uri, workspace.mlflow_uri)


def test_records_parameters_metrics_and_files(workspace, run, client):
    logged = client.get_run(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "nightly"
    assert logged.data.params["train.learning_rate"] == "0.002"
    assert logged.data.metrics["test.log_loss"] == 0.9
    assert [(point.step, point.value) for point in client.get_metric_history(run.run_id, "loss")] == [
        (0, 1.0),
        (1, 0.8),
    ]
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["report.html"]


def test_keeps_the_model_bit_for_bit_in_one_file(workspace, run):
    import mlflow

    folder = mlflow.artifacts.download_artifacts(run.model_uri, tracking_uri=workspace.mlflow_uri)
    names = {path.name for path in (workspace.mlflow_artifacts / "models").rglob("*") if path.is_file()}
    assert sha256_file(Path(folder) / "model.onnx") == sha256_file(workspace.root / "run" / "model.onnx")
    assert "model.onnx" in names
    assert not any(name.endswith(".data") for name in names)
    signature = mlflow.models.get_model_info(run.model_uri).signature
    assert [tensor.name for tensor in signature.inputs.inputs] == ["features", "state"]
    assert [tensor.name for tensor in signature.outputs.inputs] == ["probabilities", "outlook", "next_state"]


def test_aliases_name_the_targets(workspace, run):
    assert alias_targets(workspace, "absent") == AliasTargets()
    assert alias_targets(workspace, "lob") == AliasTargets()
    tag(workspace, "lob", run.registry_version, {"triton_version": "7"})
    set_alias(workspace, "lob", CHAMPION, run.registry_version)
    set_alias(workspace, "lob", CHALLENGER, run.registry_version)
    targets = alias_targets(workspace, "lob")
    assert targets.champion == targets.challenger == registered(workspace, "lob", run.registry_version)
    assert targets.champion.run_id == run.run_id
    artifact = sha256_file(workspace.root / "run" / "model.onnx")
    assert targets.champion.tags == {"flow_run": "7", "artifact_id": artifact, "triton_version": "7"}
    for _ in range(2):
        delete_alias(workspace, "lob", CHALLENGER)
    assert alias_targets(workspace, "lob") == AliasTargets(champion=targets.champion)
    assert find_registered(workspace, "lob", {"artifact_id": artifact, "flow_run": "7"}) == [targets.champion]
    assert find_registered(workspace, "lob", {"flow_run": "8"}) == []


def test_a_version_is_fetched_as_it_was_published(workspace, run):
    version = registered(workspace, "lob", run.registry_version)
    with pytest.raises(ReleaseError, match="no release folder is kept"), release_of(workspace, "lob", version):
        pass
    artifact = toy.artifact(workspace.root / "run", step_scale=0.3)
    manifest = publish(Release(workspace, toy.params()), artifact, model="lob", contract=toy.CONTRACT)
    directory = Repository.of(workspace).directory("lob", manifest.version)
    log_release(workspace, run.run_id, directory)
    with release_of(workspace, "lob", version) as (fetched, kept):
        assert kept == manifest
        assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
            path.name: path.read_bytes() for path in directory.iterdir()
        }
    assert not fetched.exists()
    another = Registered(version.version, version.run_id, {"artifact_id": "5" * 64})
    with pytest.raises(ReleaseError, match="correct the tag"), release_of(workspace, "lob", another):
        pass


def test_an_altered_version_is_not_taken_back_from_the_registry(workspace, client):
    changed = log(workspace, run_name="altered")
    directory = workspace.root / "altered"
    manifest = publish(
        Release(workspace, toy.params()), toy.artifact(workspace.root / "run"), model="other", contract=toy.CONTRACT
    )
    shutil.copytree(Repository.of(workspace).directory("other", manifest.version), directory)
    path = directory / "manifest.json"
    path.write_text(path.read_text().replace('"precision": "fp32"', '"precision": "fp16"'))
    log_release(workspace, changed.run_id, directory)
    version = registered(workspace, "lob", changed.registry_version)
    with pytest.raises(ReleaseError, match="changed after it was signed"), release_of(workspace, "lob", version):
        pass


def test_the_next_run_is_the_next_registered_version(workspace, run):
    before = len(find_registered(workspace, "lob", {}))
    assert log(workspace).registry_version == before + 1


def test_refuses_what_the_registry_does_not_have(workspace, run):
    for alias in (CHAMPION, CHALLENGER):
        with pytest.raises(ReleaseError, match=r"mlflow.db: MLflow refused: .*not found") as caught:
            set_alias(workspace, "lob", alias, 99)
        assert not isinstance(caught.value, RegistryError), "MLflow is not away, the version is"
    with pytest.raises(ReleaseError, match="not found"):
        registered(workspace, "lob", 99)


def test_a_run_that_cannot_be_recorded_is_marked_as_failed(workspace, run, client):
    with pytest.raises(ReleaseError):
        log(workspace, run_name="broken", artifacts=[workspace.root / "absent.html"])
    [broken] = client.search_runs(
        [client.get_experiment_by_name("lob").experiment_id], "attributes.run_name = 'broken'"
    )
    assert broken.info.status == "FAILED"


def test_a_locked_database_is_named(workspace, run, monkeypatch):
    monkeypatch.setattr(mlflow_store, "_REACH_DEADLINE_S", 0.2)
    holder = sqlite3.connect(workspace.home / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(RegistryError, match=r"mlflow.db: MLflow's database cannot be used: database is locked"):
            alias_targets(workspace, "lob")
    finally:
        holder.close()


@pytest.mark.parametrize("content", [None, b"not a database at all, only words"])
def test_a_database_that_is_none_is_named(tmp_path, content):
    workspace = Workspace(tmp_path)
    path = workspace.home / "mlflow.db"
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(RegistryError, match=r"mlflow.db: MLflow's database cannot be used"):
        alias_targets(workspace, "lob")


def test_standard_output_and_error_stay_clean(tmp_path):
    code = "import sys; from pathlib import Path; from tests.integration.test_mlflow_registry import log; "
    code += "from lobsmith.workspace import Workspace; log(Workspace(Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
