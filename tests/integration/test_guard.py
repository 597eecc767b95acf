"""A guarded client of the real Triton: without a monitor, its own rows change its mode and change it back."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lobsmith.errors import RequestError, ServingError
from lobsmith.features.definitions import COUNT
from lobsmith.features.stream import Row
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.params import Params
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.serving.triton.control import TritonControl
from lobsmith.trading.guard.effective_mode import Abstain
from lobsmith.trading.guard.guarded_client import GatedPrediction
from lobsmith.trading.session import Stream, open_stream
from lobsmith.trading.transport import open_transport
from lobsmith.workspace import Workspace
from tests.served import publish_small, rows
from tests.small import params_file, small_params
from tests.trading.recorded import eventually

pytestmark = pytest.mark.integration

BLOCK = rows(32, 3)


def step(stream: Stream, row: np.ndarray, raw: np.ndarray, index: int) -> GatedPrediction:
    return stream.step(Row(row, raw, index * 1_000_000, 1, 20_000))


@pytest.fixture(scope="module")
def params() -> Params:
    changes = {"drift.every_ms": 1, "reference.block_rows": 16, "guard.every_rows": 4, "client.poll_s": 0.1}
    return with_free_ports(small_params(**changes))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Iterator[tuple[Workspace, TritonControl]]:
    """A server of two versions, of which the older one has no score."""
    workspace = Workspace(tmp_path_factory.mktemp("guarded"))
    shutil.copy(params_file(), workspace.params)
    publish_small(workspace, params, seed=2)
    publish_small(workspace, params, seed=1, scored=True)
    with running_triton(workspace, params) as control:
        yield workspace, control


def test_every_transport_scores_alike(served: tuple[Workspace, TritonControl], params: Params) -> None:
    workspace, _ = served
    without, version = Repository.of(workspace).listed("lob")
    scores = []
    for name in ("grpc", "http", "inprocess"):
        transport = open_transport(workspace, params, name)
        scores.append(transport.score("lob", version, BLOCK, 5.0))
        with pytest.raises(ServingError):
            transport.score("lob", without, BLOCK, 5.0)
        with pytest.raises(RequestError):
            transport.score("lob", version, BLOCK[:, 1:], 5.0)
        transport.close()
    for answer in scores:
        np.testing.assert_allclose(answer.contributions, (BLOCK**2).mean(axis=0), rtol=1e-5)
        assert answer.score == pytest.approx((BLOCK**2).mean(axis=0).sum(), rel=1e-5)


@pytest.mark.parametrize("name", ["grpc", "http", "inprocess"])
def test_drifting_rows_change_the_mode_without_a_monitor(
    served: tuple[Workspace, TritonControl], params: Params, name: str
) -> None:
    workspace, _ = served
    asked = rows(120, 5)
    # The score is the sum of mean squares: 0.5 of calm rows, 2 of wild ones.
    calm, wild = (np.full(COUNT, np.sqrt(size / COUNT), np.float32) for size in (0.5, 2.0))
    with open_stream(
        "simulator:SIM", root=workspace, params=params, transport=name, record=None, backpressure=True
    ) as stream:
        got = [step(stream, asked[index], wild if 40 <= index < 60 else calm, index) for index in range(120)]
    assert all(gated.prediction.probabilities is not None for gated in got)
    codes = [gated.abstain for gated in got]
    assert codes[20:40] == [None] * 20
    assert codes[60] is Abstain.REFERENCE
    assert not any(got[60].actionable)
    assert got[60].mode is Mode.CONSERVATIVE
    assert codes[-1] is None
    assert set(codes) == {None, Abstain.NO_SIGNAL, Abstain.REFERENCE}


def test_a_server_that_goes_away_takes_answers_and_score_with_it(tmp_path: Path, params: Params) -> None:
    workspace = Workspace(tmp_path)
    publish_small(workspace, params, seed=1, scored=True)
    own = with_free_ports(params)
    raw = np.full(COUNT, 0.01, np.float32)
    with running_triton(workspace, own):
        stream = open_stream("simulator:SIM", root=workspace, params=own, record=None, backpressure=True)
        for index in range(20):
            gated = step(stream, BLOCK[0], raw, index)
        assert gated.abstain is None
    for index in range(20, 24):
        gated = step(stream, BLOCK[0], raw, index)
    assert (gated.actionable, gated.abstain) == ((False, False), Abstain.NO_ANSWER)
    eventually(lambda: stream.guard.state[0].abstain is Abstain.NO_SIGNAL)
    stream.close()
