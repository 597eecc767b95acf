"""The client that holds one stream's state and always gives an answer or a reason."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lobsmith.errors import DeadlineError, RequestError, ServingError
from lobsmith.online import answers
from lobsmith.params import ClientParams
from lobsmith.release.version.contract import MAX_ROWS
from lobsmith.release.version.names import plans_model
from lobsmith.trading.client.history import RowHistory
from lobsmith.trading.transport.base import Answer, Transport
from lobsmith.units import NS_PER_S

Float32 = NDArray[np.float32]

_FIRST_HISTORY_ROWS = 2048
"""Rows kept before any version has said how many it needs."""
_SUM_TOLERANCE = 1e-3
_PLANS_SHARE = 0.5
"""Of the deadline, for the plans' answer: what is left must do for the ONNX model's."""


class Reason(StrEnum):
    """Why there is no answer."""

    DEADLINE = "deadline"
    UNAVAILABLE = "unavailable"
    NO_VERSION = "no_version"
    REFUSED = "refused"
    NON_FINITE_INPUT = "non_finite_input"
    BAD_ANSWER = "bad_answer"
    PRIMING = answers.PRIMING
    """There is an answer, from a state that has not seen enough rows to be that of a warm stream."""


def newest(versions: list[int]) -> int | None:
    """Return the active one of the served versions, None where there is none."""
    return max(versions, default=None)


def second_newest(versions: list[int], has_learnt: Callable[[int], bool] = lambda _version: True) -> int | None:
    """Return the version to go back to from the active one, None where there is none.

    Args:
        versions: that are served.
        has_learnt: says whether one has learnt the stream's instrument; no other is gone back to.

    >>> second_newest([3, 5, 7], lambda version: version != 5)
    3
    >>> second_newest([7])
    """
    return next((version for version in sorted(versions)[-2::-1] if has_learnt(version)), None)


@dataclass(frozen=True)
class Prediction:
    """The answer to one row, or the reason why there is none.

    `probabilities` float32 [H, 3] come with `outlook` float32 [H, 5] (see `lobsmith.release.version.contract`), or
    there is a `reason`. `version` is the one that was asked, None where none was known. `latency_ns` is what the whole
    step took, look-ups and priming included; rows asked together share it. `detail` is a line for people. `model` is
    the one that answered: the ONNX model, or its TensorRT plans.
    """

    probabilities: Float32 | None
    outlook: Float32 | None
    version: int | None
    reason: Reason | None
    latency_ns: int
    detail: str | None = None
    model: str | None = None


StepT_co = TypeVar("StepT_co", covariant=True)


class Client(Protocol[StepT_co]):
    """One stream's side of the conversation: `step` for each row, `predict` for rows that only prime.

    Every client takes all of a row, and each uses what it needs of it.
    """

    def step(self, row: Float32, raw: Float32, time_ns: int, /) -> StepT_co:
        """Ask about the next row.

        Args:
            row: float32 [F], what the network sees.
            raw: float32 [F], the same row in its own units.
            time_ns: local receive time of the row, UTC.

        Raises:
            RequestError: wrong shape or type. Whatever happens at the server is a reason in the prediction instead.
        """

    def predict(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64], /) -> list[Prediction]:
        """Move the stream over rows, float32 [T, F], raw rows, float32 [T, F], and times, int64 [T].

        Raises:
            RequestError: wrong shape or type.
        """

    def reset(self) -> None:
        """Forget the stream: after a gap in the feed the next row starts from a cold state."""


@dataclass(frozen=True)
class _Failure:
    reason: Reason
    detail: str


class StreamClient:
    """One stream's side of the conversation: its state, its last rows, and the version it talks to.

    The state belongs to the version that made it. When the active version changes or vanishes, the client starts from a
    cold state and feeds the rows it remembers through the new one. After a failure the rows it could not ask about go
    into the next request, so no row is ever lost from the state.

    Where a look-up finds the version's TensorRT plans READY (`<model>_trt`) they are asked first. State means the same
    to both, so a row that the plans do not answer is answered by the model in the same call, and so are all rows until
    the next look-up. Not safe to share between threads.
    """

    def __init__(
        self,
        transport: Transport,
        model: str,
        *,
        feature_count: int,
        state_size: int,
        prime_rows: Callable[[int], int],
        params: ClientParams,
        choose: Callable[[list[int]], int | None] = newest,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Make a client with a cold state; nothing is asked yet.

        Args:
            transport: what answers.
            model: the model's name.
            feature_count: F.
            state_size: S.
            prime_rows: how many rows a version needs before a cold state agrees with a warm one.
            params: deadline of one request and how often the served versions are looked up, both in seconds.
            choose: which of the served versions to talk to, the active one by default.
            clock: nanoseconds that never go back.
        """
        self._transport = transport
        self._model = model
        self._state_size = state_size
        self._prime_rows_of = prime_rows
        self._params = params
        self._choose = choose
        self._clock = clock
        self._history = RowHistory(feature_count, _FIRST_HISTORY_ROWS)
        self._version: int | None = None
        self._plans_ready = False
        self._answered_by = model
        self._prime_rows = 0
        self._state: Float32 | None = None
        self._pending = 0
        self._looked_up_ns: int | None = None
        self._lookup_failure: _Failure | None = None

    @classmethod
    def open(
        cls,
        transport: Transport,
        model: str,
        params: ClientParams,
        *,
        choose: Callable[[list[int]], int | None] = newest,
    ) -> "StreamClient":
        """Make a client that takes the model's shape and priming rows from the server.

        Args:
            transport: what answers.
            model: the model's name.
            params: deadline of one request and how often the served versions are looked up, both in seconds.
            choose: which of the served versions to talk to, the active one by default.

        Raises:
            ServingError: the server does not answer, or has no such model.
        """
        shape = transport.describe(model)
        return cls(
            transport,
            model,
            feature_count=shape.feature_count,
            state_size=shape.state_size,
            prime_rows=lambda _version: transport.describe(model).prime_rows,
            params=params,
            choose=choose,
        )

    @property
    def version(self) -> int | None:
        """The version that the client talks to, None before the first look-up found one."""
        return self._version

    @property
    def prime_rows(self) -> int:
        """The rows after which a cold state of that version can be trusted, 0 before any is known."""
        return self._prime_rows

    def step(self, row: Float32, _raw: Float32 | None = None, _time_ns: int = 0) -> Prediction:
        """See `Client.step`: the row is all that this client needs."""
        if row.ndim != 1:
            raise RequestError(f"row: expected float32 [{self._history.width}], got {list(row.shape)}")
        return self.predict(row[np.newaxis])[0]

    def predict(
        self, rows: Float32, _raw: Float32 | None = None, _times_ns: NDArray[np.int64] | None = None
    ) -> list[Prediction]:
        """Ask about the next T rows, at most `MAX_ROWS` at a time.

        A row that holds NaN or infinity is left out of the stream: it changes no state and gets the reason.

        Args:
            rows: float32 [T, F], oldest first.

        Returns:
            One prediction for each row.

        Raises:
            RequestError: wrong shape or type.
        """
        if rows.ndim != 2 or rows.shape[1] != self._history.width or rows.dtype != np.float32:
            raise RequestError(
                f"rows: expected float32 [T, {self._history.width}], got {rows.dtype} {list(rows.shape)}"
            )
        predictions: list[Prediction] = []
        for start in range(0, len(rows), MAX_ROWS):
            predictions += self._predict_chunk(rows[start : start + MAX_ROWS])
        return predictions

    def observe(self, rows: Float32) -> None:
        """Take rows, float32 [T, F], into the stream without asking about them: the next request makes up for it.

        As in `predict`, a row that is not finite is left out.
        """
        finite = np.isfinite(rows).all(axis=1)
        rows = rows if finite.all() else rows[finite]
        self._history.append(rows)
        self._pending += len(rows)

    def reset(self) -> None:
        """Forget the stream: after a gap in the feed the next row starts from a cold state."""
        self._history = RowHistory(self._history.width, _FIRST_HISTORY_ROWS)
        self._history.reserve(self._prime_rows + MAX_ROWS)
        self._state, self._pending = None, 0

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    def _predict_chunk(self, rows: Float32) -> list[Prediction]:
        started = self._clock()
        finite = np.isfinite(rows).all(axis=1)
        outcome = self._advance(rows if finite.all() else rows[finite]) if finite.any() else None
        took = self._clock() - started
        answers = None if outcome is None or isinstance(outcome, _Failure) else zip(*outcome, strict=True)
        predictions = []
        for accepted in finite:
            if not accepted:
                prediction = Prediction(
                    None, None, self._version, Reason.NON_FINITE_INPUT, took, "a feature is not finite"
                )
            elif isinstance(outcome, _Failure):
                prediction = Prediction(None, None, self._version, outcome.reason, took, outcome.detail)
            else:
                assert answers is not None  # noqa: S101 - a finite row was asked about
                prediction = Prediction(*next(answers), self._version, None, took, model=self._answered_by)
            predictions.append(prediction)
        return predictions

    def _advance(self, rows: Float32) -> tuple[Float32, Float32] | _Failure:
        """Move the state over finite rows [n, F], n <= `MAX_ROWS`; return both answers, [n, ...], or why not."""
        self._history.append(rows)
        self._pending += len(rows)
        self._look_up()
        outcome = self._ask(len(rows))
        if isinstance(outcome, _Failure) and outcome.reason is Reason.UNAVAILABLE and self._version is not None:
            # The version may have been unloaded since the last look-up.
            before = self._version
            self._look_up(force=True)
            if self._version not in (before, None):
                outcome = self._ask(len(rows))
        return outcome

    def _look_up(self, *, force: bool = False) -> None:
        """Learn which version is active, at most every `poll_s`; on a change forget the state."""
        now = self._clock()
        if not force and self._looked_up_ns is not None and now - self._looked_up_ns < self._params.poll_s * NS_PER_S:
            return
        self._looked_up_ns = now
        try:
            active = self._choose(self._transport.versions(self._model))
            if active is not None and active != self._version:
                self._prime_rows = self._prime_rows_of(active)
        except ServingError as error:
            # A look-up that fails says nothing of the version in use: go on asking it.
            self._lookup_failure = _failure(error)
            return
        self._lookup_failure = None
        self._plans_ready = active is not None and self._has_plans(active)
        if active != self._version:
            self._version, self._state = active, None
            self._history.reserve(self._prime_rows + MAX_ROWS)

    def _has_plans(self, version: int) -> bool:
        try:
            return version in self._transport.versions(plans_model(self._model))
        except ServingError:
            return False

    def _ask(self, count: int) -> tuple[Float32, Float32] | _Failure:
        """Feed what the state has not seen yet, priming first where it is cold; answer for the last `count` rows."""
        if self._version is None:
            return self._lookup_failure or _Failure(Reason.NO_VERSION, f"{self._model}: no version is served")
        prime = self._prime_rows + count
        if self._state is not None and self._pending <= max(prime, MAX_ROWS):
            state, rows = self._state, self._history.last(self._pending)
        else:
            state, rows = np.zeros((1, self._state_size), np.float32), self._history.last(prime)
        parts = []
        for start in range(0, len(rows), MAX_ROWS):
            answer = self._infer(self._version, rows[np.newaxis, start : start + MAX_ROWS], state)
            if isinstance(answer, _Failure):
                return answer
            state = answer.next_state
            parts.append((answer.probabilities[0], answer.outlook[0]))
        self._state, self._pending = state, 0
        probabilities, outlook = (np.concatenate(one)[-count:] for one in zip(*parts, strict=True))
        return probabilities, outlook

    def _infer(self, version: int, features: Float32, state: Float32) -> Answer | _Failure:
        """Ask the plans where they are READY; ask the model where they are not or give no sound answer."""
        left_s = self._params.deadline_s
        if self._plans_ready:
            started = self._clock()
            answer = self._infer_by(plans_model(self._model), version, features, state, left_s * _PLANS_SHARE)
            if isinstance(answer, Answer):
                return answer
            self._plans_ready = False
            left_s = max(0.0, left_s - (self._clock() - started) / NS_PER_S)
        return self._infer_by(self._model, version, features, state, left_s)

    def _infer_by(
        self, model: str, version: int, features: Float32, state: Float32, deadline_s: float
    ) -> Answer | _Failure:
        try:
            answer = self._transport.infer(model, version, features, state, deadline_s)
        except ServingError as error:
            return _failure(error)
        if answer.version != version:
            return _Failure(Reason.UNAVAILABLE, f"version {answer.version} answered for {version}")
        fault = _fault(answer)
        if fault is not None:
            return _Failure(Reason.BAD_ANSWER, f"{model}/{version}: {fault}")
        self._answered_by = model
        return answer


def _failure(error: ServingError) -> _Failure:
    if isinstance(error, DeadlineError):
        return _Failure(Reason.DEADLINE, str(error))
    if isinstance(error, RequestError):
        return _Failure(Reason.REFUSED, str(error))
    return _Failure(Reason.UNAVAILABLE, str(error))


def _fault(answer: Answer) -> str | None:
    """Say what is wrong with an answer's values, None where nothing is."""
    probabilities = answer.probabilities
    # NaN fails every comparison, so these two cover it; each pass over an array costs microseconds of a tick.
    if not ((abs(probabilities.sum(axis=-1) - 1) <= _SUM_TOLERANCE).all() and probabilities.min() >= 0):
        return "the answer's probabilities are not finite, negative, or do not sum to one"
    if not np.isfinite(answer.outlook).all():
        return "the answer's outlook is not finite"
    if not np.isfinite(answer.next_state).all():
        return "the answer's state is not finite"
    return None
