import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lobsmith.errors import PredictionLogError
from lobsmith.monitoring.log.reader import PredictionLog, answers, compared
from lobsmith.monitoring.log.writer import LogWriter, Role
from tests.monitoring.logged import (
    CANDIDATE,
    HORIZONS,
    MODEL,
    PARAMS,
    START_NS,
    STEP_NS,
    add,
    begin,
    random_probabilities,
    writer,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lob.db"


def test_reads_what_was_written(path) -> None:
    probabilities = random_probabilities(250)
    probabilities[7] = np.nan
    reasons = [None] * 250
    reasons[7] = "deadline"
    labels = np.random.default_rng(1).integers(-1, 3, (200, 2)).astype(np.int8)
    with writer(path) as log:
        begin(log, "a")
        add(log, "a", MODEL, 0, 250, probabilities=probabilities, reasons=reasons)
        log.add_outcomes("a", np.arange(200), labels, START_NS)
    with PredictionLog(path) as log:
        got = answers(log, *MODEL)
        streams = log.streams()
    row = np.arange(250)
    assert_array_equal(got.probabilities, probabilities)
    assert_array_equal(got.labels[:200], labels)
    assert (got.labels[200:] == -1).all()
    assert_array_equal(got.time_ns, START_NS + row * STEP_NS)
    assert_array_equal(got.segment, row // 100)
    assert_array_equal(got.latency_ns, 20_000 + row)
    assert got.reasons == {"deadline": 1}
    assert got.horizons_ms == HORIZONS
    assert streams == [(*MODEL, "primary", 250, START_NS + 500, START_NS + 500 + 249 * STEP_NS)]


def test_compared_has_the_rows_of_both(path) -> None:
    with writer(path) as log:
        for session in ("a", "b"):
            begin(log, session)
            add(log, session, MODEL, 0, 300)
            add(log, session, CANDIDATE, 150, 400, role=Role.CANDIDATE, seed=2)
            log.add_outcomes(session, np.arange(400), np.ones((400, 2), np.int8), START_NS)
        log.add_probe("a", START_NS, MODEL, 10, CANDIDATE, 20)
        log.add_probe("a", START_NS + 1, CANDIDATE, 21, MODEL, 11)
    with PredictionLog(path) as log:
        both = compared(log, MODEL, CANDIDATE)
        late = compared(log, MODEL, CANDIDATE, since_ns=START_NS + 200 * STEP_NS)
        of_session = compared(log, MODEL, CANDIDATE, sessions=["b"])
    rows = np.concatenate([np.arange(150, 300)] * 2)
    for got in (both.first, both.second):
        assert_array_equal(got.time_ns, START_NS + rows * STEP_NS)
        assert_array_equal(got.segment, np.repeat([0, 1, 2, 3], [50, 100, 50, 100]))
        assert (got.labels == 1).all()
    assert_array_equal(both.first.probabilities, np.concatenate([random_probabilities(300)[150:]] * 2))
    assert_array_equal(both.second.probabilities, np.concatenate([random_probabilities(250, 2)[:150]] * 2))
    assert (both.first_probe_ns.tolist(), both.second_probe_ns.tolist()) == ([10, 11], [20, 21])
    assert len(late.first.time_ns) == 200
    assert len(late.first_probe_ns) == 0
    assert (len(of_session.first.time_ns), len(of_session.first_probe_ns)) == (150, 0)


def test_no_rows_are_no_error(path) -> None:
    writer(path).close()
    with PredictionLog(path) as log:
        both = compared(log, MODEL, CANDIDATE)
        assert log.streams() == []
    assert both.first.probabilities.shape == (0, 2, 3)
    assert both.first.labels.shape == (0, 2)


def test_a_row_counts_once(path) -> None:
    with writer(path) as log:
        begin(log, "a")
        add(log, "a", MODEL, 0, 10)
        add(log, "a", MODEL, 0, 10)
        add(log, "a", MODEL, 5, 12, role=Role.FALLBACK, seed=3, asked_ns=START_NS + 10**9)
    with PredictionLog(path) as log:
        got = answers(log, *MODEL)
    assert_array_equal(got.probabilities, np.concatenate([random_probabilities(10), random_probabilities(7, 3)[5:]]))


def test_other_horizons_are_refused(path) -> None:
    writer(path).close()
    before = path.read_bytes()
    with pytest.raises(PredictionLogError, match=r"lob\.db: logged for horizons .*move the file away"):
        LogWriter(path, (50, 100), PARAMS)
    assert path.read_bytes() == before
