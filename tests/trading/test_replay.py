"""A replay is the client, row by row, and what came of each."""

import numpy as np

from lobsmith.errors import ServingError
from lobsmith.params import ClientParams
from lobsmith.trading.client.stream import StreamClient
from lobsmith.trading.replay import replay
from lobsmith.trading.transport.answer import Answer

ROWS = np.random.default_rng(5).normal(size=(600, 2)).astype(np.float32)


class Counting:
    """State: how many rows were seen; the answer is that number's parity."""

    def __init__(self, failing: range = range(0)) -> None:
        self.calls, self.failing = 0, failing

    def versions(self, model: str) -> list[int]:
        return [3] if model == "toy" else []

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


def client(transport: Counting) -> StreamClient:
    return StreamClient(
        transport,
        "toy",
        feature_count=2,
        state_size=1,
        prime_rows=lambda _version: 4,
        params=ClientParams(deadline_s=1.0, poll_s=1.0),
    )


def test_each_row_is_stepped_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    transport = Counting()
    result = replay(ROWS, client(transport), on_progress=lambda done, total: told.append((done, total)))
    assert transport.calls == 600
    assert result.probabilities.shape == (600, 1, 3)
    assert result.probabilities[:4, 0, 0].tolist() == [1, 0, 1, 0]
    assert set(result.versions) == {3}
    assert (result.latencies_ns > 0).all()
    assert result.reasons == {}
    assert told == [(256, 600), (512, 600), (600, 600)]


def test_rows_before_the_first_only_move_the_state() -> None:
    transport = Counting()
    result = replay(ROWS[301:], client(transport), prime=ROWS[:301], stop_after=3)
    assert len(result.versions) == 3
    assert result.probabilities[:, 0, 0].tolist() == [0, 1, 0]


def test_rows_without_an_answer_are_nan_and_counted() -> None:
    bad = ROWS[:10].copy()
    bad[7] = np.nan
    result = replay(bad, client(Counting(failing=range(3, 5))))
    missing = np.isnan(result.probabilities).any(axis=(1, 2))
    assert np.flatnonzero(missing).tolist() == [2, 3, 7]
    assert result.reasons == {"unavailable": 2, "non_finite_input": 1}


def test_no_rows_and_no_answers_have_a_shape() -> None:
    assert replay(ROWS[:0], client(Counting())).probabilities.shape == (0, 0, 3)
    assert replay(ROWS[:5], client(Counting(failing=range(100)))).probabilities.shape == (5, 0, 3)
