"""Publishing to a running Triton."""

import numpy as np
import pytest
import tritonclient.http as triton

from lobsmith.errors import ServingError
from lobsmith.release.audit.verify import verify
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import publish
from lobsmith.release.publish.promote import promote
from lobsmith.release.repository.candidate import undeploy_candidate
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.release.version.triton_config import read_config
from lobsmith.serving.running_server import RunningServer, running_server
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.serving.triton.control import connect, served_versions
from lobsmith.workspace import Workspace
from tests.release import toy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def params():
    return with_free_ports(toy.params())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, params):
    """A project whose Triton serves one version of the model `toy`."""
    workspace = Workspace(tmp_path_factory.mktemp("project"))
    publish(
        Release(workspace, params), toy.artifact(workspace.root / "run", rows=5), model="toy", contract=toy.CONTRACT
    )
    with running_triton(workspace, params):
        yield workspace


@pytest.fixture(scope="module")
def client(workspace, params):
    # Triton waits for an open connection until its exit deadline, so this one is closed first.
    with triton.InferenceServerClient(f"127.0.0.1:{params.serving.http_port}") as client:
        yield client


def put(workspace, params, server, **changes):
    artifact = toy.artifact(workspace.root / "run", **changes)
    return publish(Release(workspace, params, server), artifact, model="toy", contract=toy.CONTRACT), artifact


def ask(client, version, rows, output="probabilities"):
    """Return the probabilities [1, T, H, 3] or another output for features [T, F] on a cold stream."""
    features = triton.InferInput("features", [1, *rows.shape], "FP32")
    features.set_data_from_numpy(rows[np.newaxis])
    state = triton.InferInput("state", [1, toy.S], "FP32")
    state.set_data_from_numpy(np.zeros((1, toy.S), np.float32))
    return client.infer("toy", [features, state], str(version)).as_numpy(output)


def executions(client, version):
    [statistics] = client.get_inference_statistics("toy", str(version))["model_stats"]
    return statistics["execution_count"]


def test_a_new_version_answers_and_the_old_one_is_not_loaded_again(workspace, params, client):
    repository = Repository.of(workspace)
    old = repository.active("toy")
    for _ in range(5):
        ask(client, old, toy.ROWS)
    before = executions(client, old)
    manifest, artifact = put(workspace, params, running_server(workspace, params), scale=0.5, rows=8)
    np.testing.assert_allclose(ask(client, manifest.version, toy.ROWS), artifact.golden.probabilities, atol=1e-6)
    outlook = ask(client, manifest.version, toy.ROWS, "outlook")
    np.testing.assert_allclose(outlook, artifact.golden.outlook, atol=1e-6)
    # Triton counts from zero again for a version that it loads again.
    assert executions(client, old) >= before > 1
    assert read_config(repository.config_path("toy")).parameters["prime_rows"].string_value == "8"


def test_a_version_that_is_refused_after_loading_is_served_no_longer(workspace, params, client):
    repository = Repository.of(workspace)
    active, versions = repository.active("toy"), repository.versions("toy")
    loaded = []

    class Wrong(RunningServer):
        def serve(self, model, version):
            super().serve(model, version)
            if version > active:
                loaded.append(ask(client, version, toy.ROWS))
                raise ServingError("its answers through the server are wrong")

    with pytest.raises(ServingError, match="wrong"):
        put(workspace, params, Wrong(workspace, params))
    assert len(loaded) == 1
    assert (repository.active("toy"), repository.versions("toy")) == (active, versions)
    assert connect(workspace).ready_versions("toy") == versions
    assert ask(client, "", toy.ROWS).shape == (1, len(toy.ROWS), 2, 3)


def test_promotion_rollback_and_retirement_are_followed_by_the_server(workspace, params, client):
    repository, server = Repository.of(workspace), running_server(workspace, params)
    publish(
        Release(workspace, params, server),
        toy.artifact(workspace.root / "run", scale=0.7),
        model="toy_candidate",
        contract=toy.CONTRACT,
    )
    source = repository.directory("toy_candidate", repository.active("toy_candidate"))
    before = repository.active("toy")
    new = promote(Release(workspace, params, server), source, model="toy").version
    assert undeploy_candidate(Release(workspace, params, server), "toy") == int(source.name)
    assert not client.is_model_ready("toy_candidate")
    assert verify(workspace, served_versions(workspace)) == []
    assert client.is_model_ready("toy", str(new))
    assert rollback(Release(workspace, params, server), "toy").version_to == before
    assert not client.is_model_ready("toy", str(new))
    assert client.is_model_ready("toy", str(before))
    assert ask(client, "", toy.ROWS).shape == (1, len(toy.ROWS), 2, 3)
    assert verify(workspace, served_versions(workspace)) == []
