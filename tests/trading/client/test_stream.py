"""The client against a hand-written transport: a network that sums what it has seen."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from lobsmith.errors import DeadlineError, RequestError, ServingError
from lobsmith.params import ClientParams
from lobsmith.trading.client.stream import Reason, StreamClient
from lobsmith.trading.transport.base import Answer

F, S, PRIME = 3, 2, 8


@dataclass
class Summing:
    """State: a sum of the rows' first features times the version, of which a tenth is left at each step."""

    served: list[int] = field(default_factory=lambda: [1])
    failures: list[Exception] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    looked_up: int = 0
    poison: str | None = None
    wrong_version: bool = False
    plans: list[int] = field(default_factory=list)
    plans_failures: list[Exception] = field(default_factory=list)
    plans_asked: int = 0
    plans_poison: str | None = None

    def versions(self, model: str) -> list[int]:
        if model == "lob_trt":
            return self.plans
        self.looked_up += 1
        return self.served

    def infer(self, model, version, features, state, deadline_s) -> Answer:
        if model == "lob_trt":
            self.plans_asked += 1
            if self.plans_failures:
                raise self.plans_failures.pop(0)
        else:
            self.asked.append((version, features.shape[1]))
            if self.failures:
                raise self.failures.pop(0)
        if version not in (self.plans if model == "lob_trt" else self.served):
            raise ServingError(f"version {version} is not there")
        assert state[0, 1] in (0.0, float(version)), "a state of another version"
        value, out = float(state[0, 0]), []
        for row in features[0]:
            value = 0.1 * value + float(row[0]) * version
            up = 1 / (1 + np.exp(-value))
            out.append([[1 - up, 0.0, up]])
        probabilities = np.asarray([out], np.float32)
        # An outlook equal to the probabilities, so that a mismatch of their rows is detected.
        outlook = np.repeat(probabilities[..., 2:], 5, axis=3)
        next_state = np.asarray([[value, version]], np.float32)
        if poison := self.plans_poison if model == "lob_trt" else self.poison:
            {"probabilities": probabilities, "outlook": outlook, "next_state": next_state}[poison][:] = np.nan
        return Answer(version + self.wrong_version, probabilities, outlook, next_state)

    def close(self) -> None: ...


@dataclass
class Clock:
    now: int = 0

    def __call__(self) -> int:
        return self.now


def client(transport: Summing, clock: Clock) -> StreamClient:
    return StreamClient(
        transport,
        "lob",
        feature_count=F,
        state_size=S,
        prime_rows=lambda _version: PRIME,
        params=ClientParams(deadline_s=1.0, poll_s=1.0),
        clock=clock,
    )


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, F)).astype(np.float32)


def truth(data: np.ndarray, version: int = 1) -> np.ndarray:
    value, out = 0.0, []
    for row in data:
        value = 0.1 * value + float(row[0]) * version
        out.append(1 / (1 + np.exp(-value)))
    return np.asarray(out)


def ups(predictions) -> np.ndarray:
    for p in predictions:
        assert (p.probabilities is None) == (p.outlook is None)
        if p.probabilities is not None:
            assert p.outlook.shape == (1, 5)
            np.testing.assert_array_equal(p.outlook, np.repeat(p.probabilities[:, 2:], 5, axis=1))
    return np.asarray([np.nan if p.probabilities is None else p.probabilities[0, 2] for p in predictions])


def test_each_step_carries_the_state() -> None:
    transport, data = Summing(), rows(30)
    stream = client(transport, Clock())
    np.testing.assert_allclose(ups([stream.step(row) for row in data]), truth(data), atol=1e-6)
    assert transport.asked == [(1, 1)] * 30
    assert transport.looked_up == 1


def test_many_rows_go_in_chunks_and_give_the_same() -> None:
    transport, data = Summing(), rows(600)
    np.testing.assert_allclose(ups(client(transport, Clock()).predict(data)), truth(data), atol=1e-6)
    assert [count for _, count in transport.asked] == [256, 256, 88]


def test_a_new_version_is_primed_with_the_last_rows() -> None:
    transport, clock, data = Summing(), Clock(), rows(40)
    stream = client(transport, clock)
    for row in data[:30]:
        stream.step(row)
    transport.served = [1, 2]
    clock.now += 2_000_000_000
    answer = stream.step(data[30])
    assert (answer.version, transport.asked[-1]) == (2, (2, PRIME + 1))
    # What the version forgets within PRIME rows is all that a primed stream may miss.
    assert ups([answer])[0] == pytest.approx(truth(data[:31], 2)[-1], abs=1e-6)
    assert transport.asked[-1][0] == stream.version == 2


def test_a_version_that_vanishes_is_replaced_at_once() -> None:
    transport, data = Summing(served=[1, 2]), rows(20)
    stream = client(transport, Clock())
    for row in data[:19]:
        assert stream.step(row).version == 2
    transport.served = [1]
    answer = stream.step(data[19])
    assert (answer.version, answer.reason) == (1, None)
    assert ups([answer])[0] == pytest.approx(truth(data, 1)[-1], abs=1e-6)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DeadlineError("late"), Reason.DEADLINE),
        (RequestError("bad"), Reason.REFUSED),
        (ServingError("down"), Reason.UNAVAILABLE),
    ],
)
def test_after_a_failure_no_row_is_missing_from_the_state(error: Exception, reason: Reason) -> None:
    transport, data = Summing(), rows(12)
    stream = client(transport, Clock())
    for row in data[:5]:
        stream.step(row)
    transport.failures = [error]
    failed = stream.step(data[5])
    assert (failed.probabilities, failed.outlook, failed.reason) == (None, None, reason)
    np.testing.assert_allclose(ups([stream.step(row) for row in data[6:]]), truth(data)[6:], atol=1e-6)


def test_a_long_outage_is_bridged_by_priming() -> None:
    transport, data = Summing(), rows(1000)
    stream = client(transport, Clock())
    transport.failures = [ServingError("down")] * 900
    for row in data[:900]:
        assert stream.step(row).reason is Reason.UNAVAILABLE
    np.testing.assert_allclose(ups([stream.step(row) for row in data[900:]]), truth(data)[900:], atol=1e-6)


def test_an_answer_that_is_not_finite_or_of_another_version_is_none() -> None:
    for transport, reason in (
        (Summing(poison="probabilities"), Reason.BAD_ANSWER),
        (Summing(poison="outlook"), Reason.BAD_ANSWER),
        (Summing(poison="next_state"), Reason.BAD_ANSWER),
        (Summing(wrong_version=True), Reason.UNAVAILABLE),
    ):
        answer = client(transport, Clock()).step(rows(1)[0])
        assert (answer.probabilities, answer.outlook, answer.reason) == (None, None, reason)


def test_a_row_that_is_not_finite_changes_no_state() -> None:
    transport, data = Summing(), rows(10)
    stream = client(transport, Clock())
    bad = np.full(F, np.nan, np.float32)
    for row in data[:5]:
        stream.step(row)
    assert stream.step(bad).reason is Reason.NON_FINITE_INPUT
    np.testing.assert_allclose(ups([stream.step(row) for row in data[5:]]), truth(data)[5:], atol=1e-6)


def test_no_version_is_a_reason() -> None:
    assert client(Summing(served=[]), Clock()).step(rows(1)[0]).reason is Reason.NO_VERSION


def test_a_reset_forgets_the_stream() -> None:
    transport, data = Summing(), rows(20)
    stream = client(transport, Clock())
    for row in data[:10]:
        stream.step(row)
    stream.reset()
    np.testing.assert_allclose(ups([stream.step(row) for row in data[10:]]), truth(data[10:]), atol=1e-6)


@pytest.mark.parametrize("row", [np.zeros(F + 1, np.float32), np.zeros(F), np.zeros((1, F), np.float32)])
def test_a_row_of_the_wrong_shape_or_type_is_refused(row: np.ndarray) -> None:
    with pytest.raises(RequestError, match="expected"):
        client(Summing(), Clock()).step(row)


def test_plans_are_asked_where_they_are_ready_for_the_version() -> None:
    transport, clock, data = Summing(served=[1, 2], plans=[1]), Clock(), rows(30)
    stream = client(transport, clock)
    predictions = [stream.step(row) for row in data[:10]]
    assert {p.model for p in predictions} == {"lob"}
    transport.plans = [1, 2]
    clock.now += 2_000_000_000
    predictions += [stream.step(row) for row in data[10:20]]
    assert {p.model for p in predictions[10:]} == {"lob_trt"}
    # A new version whose plans do not exist yet.
    transport.served = [1, 2, 3]
    clock.now += 2_000_000_000
    assert [(p.model, p.version) for p in stream.predict(data[20:])] == [("lob", 3)] * 10
    assert transport.plans_asked == 10
    np.testing.assert_allclose(ups(predictions), truth(data[:20], 2), atol=1e-6)


@pytest.mark.parametrize("error", [DeadlineError("late"), RequestError("no profile"), ServingError("down")])
def test_a_row_that_plans_do_not_answer_is_answered_by_the_model(error: Exception) -> None:
    transport, clock, data = Summing(plans=[1]), Clock(), rows(30)
    stream = client(transport, clock)
    predictions = [stream.step(row) for row in data[:10]]
    transport.plans_failures = [error]
    predictions += [stream.step(row) for row in data[10:20]]
    assert [p.model for p in predictions] == ["lob_trt"] * 10 + ["lob"] * 10
    assert transport.plans_asked == 11
    clock.now += 2_000_000_000
    predictions += [stream.step(row) for row in data[20:]]
    assert {p.model for p in predictions[20:]} == {"lob_trt"}
    np.testing.assert_allclose(ups(predictions), truth(data), atol=1e-6)


@pytest.mark.parametrize("poison", ["probabilities", "outlook", "next_state"])
def test_an_answer_of_plans_that_is_not_finite_is_not_taken(poison: str) -> None:
    transport, data = Summing(plans=[1], plans_poison=poison), rows(20)
    stream = client(transport, Clock())
    predictions = [stream.step(row) for row in data]
    assert {p.model for p in predictions} == {"lob"}
    np.testing.assert_allclose(ups(predictions), truth(data), atol=1e-6)


def test_plans_and_model_share_one_deadline() -> None:
    clock, deadlines = Clock(), []

    class Slow(Summing):
        def infer(self, model, version, features, state, deadline_s) -> Answer:
            deadlines.append((model, deadline_s))
            if model == "lob_trt":
                clock.now += int(deadline_s * 1e9)
                raise DeadlineError("late")
            return super().infer(model, version, features, state, deadline_s)

    assert client(Slow(plans=[1]), clock).step(rows(1)[0]).model == "lob"
    assert deadlines == [("lob_trt", 0.5), ("lob", 0.5)]
