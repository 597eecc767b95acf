"""A stream of rows through a client and the recorder, for several tests."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lobsmith.features.labels import direction_labels
from lobsmith.monitoring.log.writer import Source
from lobsmith.params import Params
from lobsmith.trading.client.stream import Prediction, StreamClient
from lobsmith.trading.recorder.recorder import Recorder
from lobsmith.workspace import Workspace
from tests.served import publish_small, rows
from tests.small import params_file, small_params

COUNT = 1200
TIMES = 1_700_000_000_000_000_000 + np.cumsum(np.random.default_rng(3).integers(1, 40, COUNT)) * 1_000_000
MIDS = 20_000 + np.cumsum(np.random.default_rng(4).integers(-2, 3, COUNT))
SEGMENTS = np.where(np.arange(COUNT) < 700, 5, 6)
ROWS = rows(COUNT, 8)
RAW = rows(COUNT, 9)


def eventually(holds: Callable[[], bool], within_s: float = 90.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


def published(root: Path, *, candidate: bool = True) -> Workspace:
    """Two versions of the model, and a candidate."""
    workspace = Workspace(root)
    shutil.copy(params_file(), workspace.params)
    publish_small(workspace, small_params(), seed=1)
    publish_small(workspace, small_params(), seed=2)
    if candidate:
        publish_small(workspace, small_params(), seed=3, model="lob_candidate")
    return workspace


def recorder(workspace: Workspace, params: Params, transport: str = "inprocess", **changes) -> Recorder:
    return Recorder(
        workspace, params, model="lob", instrument="simulator:SIM", source=Source.LIVE, transport=transport, **changes
    )


def stream(
    client: StreamClient, into: Recorder, start: int = 0, stop: int = COUNT, pause_s: float = 0.0
) -> list[Prediction]:
    """Ask about rows one by one, as a trading process does."""
    predictions = []
    for index in range(start, stop):
        if index and SEGMENTS[index] != SEGMENTS[index - 1]:
            client.reset()
            into.reset()
        predictions.append(client.step(ROWS[index]))
        columns = int(TIMES[index]), int(SEGMENTS[index]), int(MIDS[index])
        into.record(*columns, ROWS[index], predictions[-1], raw=RAW[index])
        if pause_s:
            time.sleep(pause_s)
    return predictions


def probabilities(predictions: list[Prediction]) -> np.ndarray:
    return np.stack([prediction.probabilities for prediction in predictions])


def labels(horizons_ms: tuple[int, ...]) -> np.ndarray:
    return direction_labels(TIMES, MIDS, SEGMENTS, horizons_ms)
