"""Seven retrains through the flow, each promoted by its alias, with the real Prefect, MLflow and Triton."""

import numpy as np
import pytest
import tritonclient.grpc

from lobsmith.compress import GOLDEN
from lobsmith.compress.golden import load_golden
from lobsmith.params import load_params
from lobsmith.release.registry.aliases import CHAMPION, request
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.serving.triton.embedded import PORTS
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.workspace import Workspace
from tests.small import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
RETRAINS = 7


@pytest.mark.timeout(900)
def test_exactly_five_versions_stay_and_the_newest_is_what_an_unversioned_request_gets(workspace: Workspace) -> None:
    from lobsmith.pipelines.reconcile import reconcile
    from lobsmith.pipelines.retrain import retrain

    params = with_free_ports(load_params(workspace.params, SMALL))
    ports = {f"serving.{name}": getattr(params.serving, name) for name in PORTS}
    repository = Repository.of(workspace)
    promoted = []
    with running_triton(workspace, params) as control:
        for seed in range(1, RETRAINS + 1):
            changes = {**SMALL, **ports, "data.simulator.seed": seed}
            retrained = retrain(str(workspace.root), None, changes)
            assert retrained.outcome == ("candidate" if promoted else "promoted")
            if promoted:
                request(workspace, "lob", CHAMPION, retrained.registered, "a test")
                reconcile(str(workspace.root), changes)
            promoted.append(repository.active("lob"))
        assert params.release.keep == 5
        kept = promoted[-5:]
        assert len(set(promoted)) == RETRAINS
        assert repository.versions("lob") == repository.listed("lob") == kept
        ready = sorted((row.model, row.version) for row in control.index() if row.state == "READY")
        assert ready == [(model, version) for model in ("lob", "lob_drift") for version in kept]
        transport = GrpcTransport(control.endpoint.grpc_url)
        for version in kept:
            golden = load_golden(repository.directory("lob", version) / GOLDEN)
            answer = transport.infer("lob", version, golden.features, golden.state, 5.0)
            np.testing.assert_allclose(answer.probabilities, golden.probabilities, atol=1e-5)
        transport.close()
        assert nameless(control.endpoint.grpc_url, golden.features, golden.state) == kept[-1]
    retired = [
        entry.version_to
        for entry in journal.read(workspace.journal)
        if (entry.model, entry.action) == ("lob", journal.RETIRED)
    ]
    assert retired == promoted[:2]


def nameless(url: str, features: np.ndarray, state: np.ndarray) -> int:
    """Return which version answers a request that names none."""
    client = tritonclient.grpc.InferenceServerClient(url)
    inputs = []
    for name, array in (("features", features), ("state", state)):
        inputs.append(tritonclient.grpc.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(array)
    version = int(client.infer("lob", inputs).get_response().model_version)
    client.close()
    return version
