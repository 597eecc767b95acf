"""Recording with the real engine and the real log: what trading did, and what the mirrored versions made of it."""

import numpy as np
import pytest

from lobsmith.monitoring.log_reader import PredictionLog, answers, compared
from lobsmith.params import Params
from lobsmith.release.repository import Repository
from lobsmith.trading.client import StreamClient, second_newest
from lobsmith.trading.recorder import SHARED_MEMORY
from lobsmith.trading.transports import InProcessTransport
from lobsmith.workspace import Workspace
from tests.small import small_params
from tests.trading.recorded import COUNT, ROWS, SEGMENTS, TIMES, labels, probabilities, published, recorder, stream


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return published(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def params() -> Params:
    return small_params(**{"mirror.probe_s": 0.05, "prediction_log.flush_s": 0.2})


def client(workspace: Workspace, params: Params, model: str = "lob", **choose) -> StreamClient:
    return StreamClient.open(InProcessTransport(Repository(workspace.repository)), model, params.client, **choose)


def directly(workspace: Workspace, params: Params, model: str, **choose) -> np.ndarray:
    asked = client(workspace, params, model, **choose)
    parts = []
    for segment in np.unique(SEGMENTS):
        asked.reset()
        parts.append(probabilities(asked.predict(ROWS[segment == SEGMENTS])))
    return np.concatenate(parts)


def test_every_prediction_is_logged_with_its_outcome_and_the_mirrored_answers(template, params) -> None:
    into = recorder(template, params)
    primary = stream(client(template, params), into)
    recorded = into.close()
    assert (recorded.rows, recorded.logged, recorded.dropped, recorded.faults) == (COUNT, COUNT, 0, 0)
    assert (recorded.candidate, recorded.fallback) == (COUNT, COUNT)
    assert recorded.probes > 0
    fallback, active = Repository(template.repository).listed("lob")
    (candidate,) = Repository(template.repository).listed("lob_candidate")
    with PredictionLog.of(template, "lob") as log:
        (session,) = log.sessions()
        assert (session["session"], session["source"], session["instrument"]) == (
            recorded.session,
            "live",
            "simulator:SIM",
        )
        live = answers(log, "lob", active)
        np.testing.assert_array_equal(live.probabilities, probabilities(primary))
        np.testing.assert_array_equal(live.latency_ns, [one.latency_ns for one in primary])
        np.testing.assert_array_equal(live.time_ns, TIMES)
        np.testing.assert_array_equal(live.labels, labels(params.labels.horizons_ms))
        mirrored = compared(log, ("lob", active), ("lob_candidate", candidate))
        np.testing.assert_allclose(
            mirrored.second.probabilities, directly(template, params, "lob_candidate"), atol=1e-5
        )
        assert len(mirrored.first_probe_ns) == len(mirrored.second_probe_ns) > 0
        np.testing.assert_allclose(
            answers(log, "lob", fallback).probabilities,
            directly(template, params, "lob", choose=second_newest),
            atol=1e-5,
        )
    assert not list(template.predictions.glob("recording/*.json"))
    assert not list(SHARED_MEMORY.glob(f"*{recorded.session}*"))
