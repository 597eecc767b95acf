"""Win rates read from a prediction log."""

import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from lobsmith.monitoring.log.writer import LogWriter, Role, Source
from lobsmith.monitoring.mode.hit_rates import count_hits
from lobsmith.params import load_params
from lobsmith.workspace import Workspace
from tests.small import params_file

S = 1_000_000_000
START_NS = 1_772_000_000 * S
PARAMS = load_params(params_file(), {"labels.horizons_ms": [1000], "train.horizon_weights": [1], "modes.buckets": 2})


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    shutil.copy(params_file(), tmp_path / "params.yaml")
    return Workspace(tmp_path)


def put(
    log: LogWriter,
    name: str,
    rows: int,
    *,
    version=3,
    role=Role.PRIMARY,
    up=0.9,
    instrument="a:X",
    live=True,
    start_s=0,
) -> None:
    """A session of rows a second apart that all answer up; it was up but in each fourth row."""
    row, start_ns = np.arange(rows), START_NS + start_s * S
    log.begin(name, Source.LIVE if live else Source.REPLAY, instrument, start_ns)
    log.add_predictions(
        name,
        "lob",
        version,
        role,
        row=row,
        time_ns=start_ns + row * S,
        asked_ns=start_ns + row * S,
        segment=0,
        mid=1000,
        latency_ns=1000,
        rows=1,
        probabilities=np.tile(np.float32([1 - up, 0, up]), (rows, 1, 1)),
    )
    log.add_outcomes(name, row, np.where(row % 4, 2, 0).reshape(-1, 1).astype(np.int8), start_ns + row * S)


def test_live_answers_of_the_serving_version_count_on_all_instruments(workspace: Workspace) -> None:
    assert count_hits(workspace, PARAMS.modes, "lob", 3) is None
    with LogWriter.of(workspace, "lob", PARAMS) as log:
        put(log, "one", 100)
        put(log, "same rows", 100)
        put(log, "other instrument", 40, instrument="a:Y", up=0.6)
        put(log, "mirrored", 400, role=Role.FALLBACK)
        put(log, "replayed", 400, live=False)
        put(log, "other version", 400, version=4)
    rates = count_hits(workspace, PARAMS.modes, "lob", 3)
    assert (rates.counts, rates.wins) == (((40, 100),), ((30, 75),))
    assert (rates.version, rates.horizons_ms) == (3, (1000,))
    assert count_hits(workspace, PARAMS.modes, "lob", 5) is None


def test_of_a_long_session_the_newest_rows_count(workspace: Workspace) -> None:
    with LogWriter.of(workspace, "lob", PARAMS) as log:
        put(log, "long", 100)
        put(log, "short", 7, instrument="a:Y", up=0.6)
    assert count_hits(workspace, replace(PARAMS.modes, win_rows=20), "lob", 3).counts == ((7, 20),)
    assert count_hits(workspace, replace(PARAMS.modes, win_rows=100), "lob", 3).counts == ((7, 100),)


def test_of_many_short_sessions_the_newest_count(workspace: Workspace) -> None:
    with LogWriter.of(workspace, "lob", PARAMS) as log:
        for number in range(10):
            put(log, f"{number}", 10, start_s=100 * number)
    rates = count_hits(workspace, replace(PARAMS.modes, win_rows=25), "lob", 3)
    assert rates.counts == ((0, 30),)
