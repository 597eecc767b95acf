"""Versions come and go while clients ask, with the real Triton."""

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc

from benchmarks.swap import bench_swap
from lobsmith.release.candidate import retire_candidate
from lobsmith.release.promote import promote
from lobsmith.release.publish import publish
from lobsmith.release.repository import Repository
from lobsmith.serving.running import running_server
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.trading.transports import GrpcTransport
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.small import small_params

pytestmark = pytest.mark.integration


def test_no_request_fails_while_versions_are_swapped() -> None:
    report = bench_swap(small_params(), swaps=3, rate=100, before_s=1, note=lambda _: None)
    assert report.failures == {}
    assert (report.swaps, report.rolled_back, report.restarts) == (3, 1, 0)
    assert all(way.requests > 50 for way in report.ways.values())


@pytest.mark.slow
def test_seven_retrains_each_promoted_leave_five_versions_that_answer(tmp_path: Path) -> None:
    workspace, params = Workspace(tmp_path), with_free_ports(toy.params(model__name="toy"))
    repository = Repository.of(workspace)
    promoted = []
    with running_triton(workspace, params) as control:
        server = running_server(workspace, params)
        for number in range(7):
            artifact = toy.artifact(tmp_path / str(number), scale=0.1 * (1 + number))
            candidate = publish(
                workspace, params, artifact, model="toy_candidate", contract=toy.CONTRACT, server=server
            ).version
            source = repository.directory("toy_candidate", candidate)
            promoted.append((promote(workspace, params, source, model="toy", server=server).version, artifact))
            retire_candidate(workspace, params, "toy", server=server)
        assert params.release.keep == 5
        versions = [version for version, _ in promoted[-5:]]
        assert repository.versions("toy") == repository.listed("toy") == versions
        rows = [(row.model, row.version) for row in control.index() if row.state == "READY"]
        assert sorted(rows) == [("toy", version) for version in versions]
        transport = GrpcTransport(control.endpoint.grpc_url)
        state = np.zeros((1, toy.S), np.float32)
        for version, artifact in promoted[-5:]:
            answer = transport.infer("toy", version, toy.ROWS[None], state, 5.0)
            np.testing.assert_allclose(answer.probabilities, artifact.golden.probabilities, atol=1e-6)
        transport.close()
        assert nameless(control.endpoint.grpc_url) == versions[-1]


def nameless(url: str) -> int:
    """Return which version answers a request that names none."""

    client = tritonclient.grpc.InferenceServerClient(url)
    inputs = []
    for name, array in (("features", toy.ROWS[None]), ("state", np.zeros((1, toy.S), np.float32))):
        inputs.append(tritonclient.grpc.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(array)
    version = int(client.infer("toy", inputs).get_response().model_version)
    client.close()
    return version
