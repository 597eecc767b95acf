"""A replay puts rows through a stream; its metrics equal those computed by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from lobsmith.errors import DataError, ServingError
from lobsmith.features.dataset import Dataset
from lobsmith.features.labels import Targets
from lobsmith.features.stream import Rows
from lobsmith.market.instrument import Instrument
from lobsmith.params import ClientParams
from lobsmith.trading.client.stream import StreamClient
from lobsmith.trading.guard.guarded_client import UnguardedClient
from lobsmith.trading.guard.trained_instruments import TrainedInstruments
from lobsmith.trading.replay import quality_by_horizon, replay
from lobsmith.trading.session import Stream
from lobsmith.trading.transport.base import Answer
from lobsmith.workspace import Workspace

COUNT = 600
ROWS = np.random.default_rng(5).normal(size=(COUNT, 2)).astype(np.float32)


class Counting:
    """State: how many rows were seen; the answer is that number's parity."""

    def __init__(self, failing: range = range(0)) -> None:
        self.calls, self.failing = 0, failing

    def versions(self, model: str) -> list[int]:
        return [3] if model == "toy" else []

    def describe(self, model) -> None:
        raise ServingError("says nothing")

    def infer(self, model, version, features, state, deadline_s) -> Answer:
        self.calls += 1
        if self.calls in self.failing:
            raise ServingError("down")
        seen = state[0, 0] + np.arange(1, features.shape[1] + 1)
        odd = seen % 2
        probabilities = np.stack([odd, 0 * odd, 1 - odd], axis=1)[None, :, None].astype(np.float32)
        outlook = np.repeat(odd, 5).reshape(1, -1, 1, 5).astype(np.float32)
        return Answer(version, probabilities, outlook, np.array([[seen[-1]]], np.float32))

    def close(self) -> None: ...


def stream(transport: Counting) -> Stream:
    client = StreamClient(
        transport,
        "toy",
        feature_count=2,
        state_size=1,
        prime_rows=lambda _version: 4,
        params=ClientParams(deadline_s=1.0, poll_s=1.0),
    )
    gated = UnguardedClient(client, horizons=1)
    instruments = TrainedInstruments(Workspace(Path("absent")), transport, "lob", "simulator:SIM", remote=True)
    return Stream(
        transport,
        client,
        gated,
        instruments=instruments,
        guard=None,
        recorder=None,
        definitions="same",
        backpressure=False,
    )


def dataset(rows: np.ndarray = ROWS, *, gap: int = COUNT) -> Dataset:
    """Rows whose label is the parity of their number in their segment: what `Counting` answers in step with it."""
    place = np.arange(len(rows))
    segment = (place >= gap).astype(np.int64)
    seen = np.where(place < gap, place, place - gap) + 1
    return Dataset(
        instrument=Instrument(venue="simulator", symbol="SIM", tick_size=0.1, lot_size=0.001),
        rows=Rows(rows, rows, place * 1_000_000, place + 20_000, segment, np.ones(len(rows), bool)),
        labels=np.where(seen % 2, 0, 2).astype(np.int8)[:, None],
        targets=Targets(*(np.zeros((len(rows), 1)) for _ in range(4))),
        horizons_ms=(100,),
        data_fingerprint="0" * 64,
        definitions_sha256="same",
    )


def test_each_row_is_stepped_and_progress_is_reported() -> None:
    reported: list[tuple[int, int]] = []
    transport = Counting()
    measured = replay(stream(transport), dataset(), on_progress=lambda done, total: reported.append((done, total)))
    assert transport.calls == COUNT
    assert (measured.rows, measured.answered, measured.versions) == (COUNT, COUNT, [3])
    assert [quality.accuracy for quality in measured.quality] == [1.0]
    assert 0 < measured.latency_us["p50"] <= measured.latency_us["p99_9"]
    assert measured.reasons == {}
    assert reported == [(256, 600), (512, 600), (600, 600)]


@pytest.mark.parametrize("first", [300, 301])
def test_rows_before_the_first_only_move_the_state(first: int) -> None:
    measured = replay(stream(Counting()), dataset(), first, limit=3)
    assert measured.rows == 3
    assert [quality.accuracy for quality in measured.quality] == [1.0]


def test_a_gap_resets_the_stream_and_rows_before_it_prime_nothing_after_it() -> None:
    assert replay(stream(Counting()), dataset(gap=301)).quality[0].accuracy == 1.0
    assert replay(stream(Counting()), dataset(gap=301), 401).quality[0].accuracy == 1.0


def test_rows_without_an_answer_are_counted_and_not_scored() -> None:
    bad = ROWS[:10].copy()
    bad[7] = np.nan
    measured = replay(stream(Counting(failing=range(3, 5))), dataset(bad))
    assert (measured.rows, measured.answered, measured.quality[0].rows) == (10, 7, 7)
    assert measured.reasons == {"unavailable": 2, "non_finite_input": 1}


def test_no_rows_and_no_answers_are_no_error() -> None:
    nothing = replay(stream(Counting()), dataset(ROWS[:0]))
    assert (nothing.rows, nothing.answered, nothing.latency_us) == (0, 0, {})
    unanswered = replay(stream(Counting(failing=range(100))), dataset(ROWS[:5]))
    assert (unanswered.rows, unanswered.answered, unanswered.latency_us) == (5, 0, {})


def test_rows_of_other_features_are_refused() -> None:
    other = stream(Counting())
    other.definitions_sha256 = "other"
    with pytest.raises(DataError, match="other features or labels"):
        replay(other, dataset())


def test_log_loss_and_accuracy_by_hand() -> None:
    p = np.array([[[0.5, 0.25, 0.25]], [[0.1, 0.8, 0.1]], [[math.nan] * 3], [[0.2, 0.2, 0.6]]], np.float32)
    labels = np.array([[0], [2], [1], [-1]], np.int8)
    (only,) = quality_by_horizon(p, labels, (100,))
    assert (only.horizon_ms, only.rows, only.accuracy) == (100, 2, 0.5)
    assert only.log_loss == pytest.approx((math.log(2) + math.log(10)) / 2)


def test_a_certainty_that_was_wrong_is_costly_but_finite() -> None:
    (only,) = quality_by_horizon(np.array([[[1.0, 0.0, 0.0]]], np.float32), np.array([[2]], np.int8), (100,))
    assert 10 < only.log_loss < 20


def test_no_answer_at_all_is_no_number() -> None:
    (only,) = quality_by_horizon(np.full((2, 1, 3), np.nan, np.float32), np.array([[2], [0]], np.int8), (100,))
    assert only.rows == 0
    assert math.isnan(only.accuracy)
    assert math.isnan(only.log_loss)
