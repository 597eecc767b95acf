"""A/B test: each block of time has its version, and there is always an answer."""

from collections.abc import Callable

import numpy as np
import pytest

from lobsmith.errors import DeadlineError, RequestError, ServingError
from lobsmith.online.ab_test import arm
from lobsmith.params import ClientParams
from lobsmith.trading.client.ab import AbClient
from lobsmith.trading.client.stream import Prediction
from lobsmith.trading.transport.base import Answer, ModelShape
from tests.trading.client.test_stream import Clock, F, S, Summing, rows, truth, ups

BLOCK_NS = 1_000_000_000
PRIME = 8
ROW_NS = BLOCK_NS // 10
"""Ten rows a block."""


class Two(Summing):
    """The model's version 1 and the candidate's version 7."""

    def __init__(self, candidate: bool = True) -> None:
        super().__init__()
        self.candidate = Summing(served=[7] if candidate else [])
        self.definitions = {"lob": "a", "lob_candidate": "a"}

    def versions(self, model: str) -> list[int]:
        return self.candidate.versions(model) if model == "lob_candidate" else super().versions(model)

    def describe(self, model: str) -> ModelShape:
        if not self.versions(model):
            raise ServingError(f"{model}: there is none")
        return ModelShape(F, S, 1, PRIME, self.definitions[model])

    def infer(self, model, version, features, state, deadline_s) -> Answer:
        if model == "lob_candidate":
            return self.candidate.infer("lob", version, features, state, deadline_s)
        return super().infer(model, version, features, state, deadline_s)


def split(transport: Two, clock: Clock) -> AbClient:
    return AbClient(
        transport,
        "lob",
        ClientParams(deadline_s=1.0, poll_s=1.0),
        symbol="simulator:SIM",
        block_s=1.0,
        share=0.5,
        salt="s",
        clock=clock,
    )


def theirs(count: int) -> np.ndarray:
    return np.array([arm("simulator:SIM", i * ROW_NS, block_s=1.0, share=0.5, salt="s") for i in range(count)])


def through(client: AbClient, data: np.ndarray, before: Callable[[int], None] = lambda _: None) -> list[Prediction]:
    out = []
    for index, row in enumerate(data):
        before(index)
        out.append(client.step(row, None, index * ROW_NS))
    return out


def test_each_block_is_answered_by_its_version_as_if_it_had_been_asked_all_along() -> None:
    transport, data = Two(), rows(300)
    predictions = through(split(transport, Clock()), data)
    assert theirs(300).any()
    assert not theirs(300).all()
    assert [prediction.model for prediction in predictions] == [
        "lob_candidate" if other else "lob" for other in theirs(300)
    ]
    expected = np.where(theirs(300), truth(data, 7), truth(data, 1))
    # A version that did not answer may miss only what fades from its state within PRIME rows.
    np.testing.assert_allclose(ups(predictions), expected, atol=1e-6)
    assert len(transport.asked) + len(transport.candidate.asked) == 300


@pytest.mark.parametrize("error", [DeadlineError("late"), RequestError("no"), ServingError("down")])
def test_a_row_that_the_candidate_does_not_answer_is_answered_by_the_active_version(error: Exception) -> None:
    transport, clock, data = Two(), Clock(), rows(300)
    client = split(transport, clock)
    first = int(np.flatnonzero(theirs(300))[3])

    def fail(index: int) -> None:
        if index == first:
            transport.candidate.failures = [error]
        if index == first + 20:
            clock.now += 2_000_000_000

    predictions = through(client, data, fail)
    assert not any(prediction.reason for prediction in predictions)
    assert predictions[first].model == "lob"
    assert (
        "late" in predictions[first].detail or "no" in predictions[first].detail or "down" in predictions[first].detail
    )
    models = np.array([prediction.model for prediction in predictions])
    # It is left alone for `poll_s` and then asked again.
    assert (models[first : first + 20] == "lob").all()
    assert (models[first + 20 :] == "lob_candidate").any()
    expected = np.where(models == "lob", truth(data, 1), truth(data, 7))
    np.testing.assert_allclose(ups(predictions), expected, atol=1e-6)


def test_without_a_candidate_the_active_version_answers_until_one_comes() -> None:
    transport, clock, data = Two(candidate=False), Clock(), rows(300)
    client = split(transport, clock)

    def come(index: int) -> None:
        if index == 150:
            transport.candidate.served = [7]
            clock.now += 2_000_000_000

    predictions = through(client, data, come)
    expected = np.where(theirs(300) & (np.arange(300) >= 150), "lob_candidate", "lob")
    assert [prediction.model for prediction in predictions] == expected.tolist()
    values = np.where(expected == "lob", truth(data, 1), truth(data, 7))
    np.testing.assert_allclose(ups(predictions), values, atol=1e-6)


def test_a_candidate_made_for_other_labels_is_never_asked() -> None:
    transport = Two()
    transport.definitions["lob_candidate"] = "b"
    assert {prediction.model for prediction in through(split(transport, Clock()), rows(100))} == {"lob"}


def test_a_reset_forgets_both_streams() -> None:
    transport, data = Two(), rows(200)
    client = split(transport, Clock())
    through(client, rows(50)[::-1].copy())
    client.reset()
    expected = np.where(theirs(200), truth(data, 7), truth(data, 1))
    np.testing.assert_allclose(ups(through(client, data)), expected, atol=1e-6)


def test_a_row_that_is_not_finite_says_nothing_of_the_candidate() -> None:
    data = rows(300)
    first = int(np.flatnonzero(theirs(300))[2])
    data[first, 0] = np.nan
    models = np.array([prediction.model for prediction in through(split(Two(), Clock()), data)])
    mine = theirs(300) & (np.arange(300) != first)
    assert (models[mine] == "lob_candidate").all()
