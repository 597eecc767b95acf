"""Recording against the real Triton: candidate and fallback answer the rows that the active version was asked about."""

from pathlib import Path

import numpy as np
import pytest

from lobsmith.monitoring.log.reader import PredictionLog, compared
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.trading.client.stream import StreamClient, newest, second_newest
from lobsmith.trading.transport.grpc import GrpcTransport
from tests.small import small_params
from tests.trading.recorded import COUNT, ROWS, SEGMENTS, eventually, probabilities, published, recorder, stream

pytestmark = pytest.mark.integration


def test_mirrored_answers_are_those_of_a_client_and_a_candidate_that_goes_takes_nothing_along(tmp_path: Path) -> None:
    workspace = published(tmp_path)
    params = with_free_ports(small_params(**{"client.deadline_s": 5.0, "mirror.probe_s": 0.05, "client.poll_s": 0.1}))
    repository = Repository.of(workspace)
    (fallback, active), (candidate,) = repository.listed("lob"), repository.listed("lob_candidate")
    gone = 900
    with running_triton(workspace, params) as control:
        transport = GrpcTransport(control.endpoint.grpc_url)
        expected = {}
        for name, model, choose in (("candidate", "lob_candidate", newest), ("fallback", "lob", second_newest)):
            direct = StreamClient.open(transport, model, params.client, choose=choose)
            parts = []
            for segment in np.unique(SEGMENTS):
                direct.reset()
                parts.append(probabilities(direct.predict(ROWS[segment == SEGMENTS])))
            expected[name] = np.concatenate(parts)
        client = StreamClient.open(transport, "lob", params.client)
        into = recorder(workspace, params, "grpc")
        primary = stream(client, into, 0, gone)
        eventually(lambda: into.waiting == 0)
        control.unload("lob_candidate")
        primary += stream(client, into, gone)
        recorded = into.close()
        transport.close()
    assert all(prediction.reason is None for prediction in primary)
    assert (recorded.logged, recorded.fallback) == (COUNT, COUNT)
    assert gone <= recorded.candidate < COUNT
    with PredictionLog.of(workspace, "lob") as log:
        beside = compared(log, ("lob", active), ("lob_candidate", candidate))
        np.testing.assert_array_equal(beside.first.probabilities, probabilities(primary)[: recorded.candidate])
        np.testing.assert_allclose(beside.second.probabilities[:gone], expected["candidate"][:gone], atol=1e-5)
        assert len(beside.first_probe_ns) == len(beside.second_probe_ns) > 0
        behind = compared(log, ("lob", active), ("lob", fallback))
        np.testing.assert_allclose(behind.second.probabilities, expected["fallback"], atol=1e-5)
