"""The client of one stream: it holds the state and returns a prediction or a reason for each row."""

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
"""Rows kept before a version's `prime_rows` are known."""
_SUM_TOLERANCE = 1e-3
_PLANS_SHARE = 0.5
"""Of the deadline, for the TensorRT plans."""


class Reason(StrEnum):
    """Why there is no answer."""

    DEADLINE = "deadline"
    UNAVAILABLE = "unavailable"
    NO_VERSION = "no_version"
    REFUSED = "refused"
    NON_FINITE_INPUT = "non_finite_input"
    BAD_ANSWER = "bad_answer"
    PRIMING = answers.PRIMING
    """There is an answer, from a state primed with too few rows."""


def newest(versions: list[int]) -> int | None:
    """Return the active version of the served ones, None where none is."""
    return max(versions, default=None)


def second_newest(versions: list[int], trained: Callable[[int], bool] = lambda _version: True) -> int | None:
    """Return the version that a rollback would activate, None where none is.

    Args:
        versions: served ones.
        trained: whether a version was trained on the instrument.

    >>> second_newest([3, 5, 7], lambda version: version != 5)
    3
    >>> second_newest([7])
    """
    return next((version for version in sorted(versions)[-2::-1] if trained(version)), None)


@dataclass(frozen=True)
class Prediction:
    """The answer to one row, or the reason why there is none.

    Attributes:
        probabilities: float32 [H, 3].
        outlook: auxiliary heads, float32 [H, 5], see `lobsmith.release.version.contract`.
        version: asked, None where none was known.
        latency_ns: of the whole call; rows of one request share it.
        model: that answered: the ONNX model or its TensorRT plans.
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
    """A client of one stream: `step` predicts a row, `predict` only primes."""

    def step(self, row: Float32, raw: Float32, time_ns: int, /) -> StepT_co:
        """Predict the next row.

        Args:
            row: float32 [F], normalised.
            raw: float32 [F], the same in natural units.
            time_ns: local receive time, UTC.

        Raises:
            RequestError: wrong shape or type. Server failures are a reason in the prediction.
        """

    def predict(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64], /) -> list[Prediction]:
        """Feed rows, float32 [T, F], raw rows, float32 [T, F], and times, int64 [T].

        Raises:
            RequestError: wrong shape or type.
        """

    def reset(self) -> None:
        """Start from a cold state with the next row, after a gap."""


@dataclass(frozen=True)
class _Failure:
    reason: Reason
    detail: str


class StreamClient:
    """The client of one stream: its state, its last rows, the version it asks. Not thread-safe.

    A new version starts from a cold state, primed with the remembered rows. A failed request's rows go into the next
    one. TensorRT plans (`<model>_trt`) that a lookup finds READY are asked first; both have the same state. When the
    plans fail, the model answers the same call and all rows until the next lookup.
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
        """Make a client with a cold state; nothing is requested yet.

        Args:
            transport: to the server.
            model: the model's name.
            feature_count: F.
            state_size: S.
            prime_rows: rows that prime a version's cold state.
            params: deadline and lookup interval, s.
            choose: which served version to ask.
            clock: monotonic, ns.
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
        """Make a client, see `StreamClient`, with the shape and priming rows that the server reports.

        `params`: deadline and lookup interval, s.

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
        """The version in use, None before a lookup found one."""
        return self._version

    @property
    def prime_rows(self) -> int:
        """Rows that prime that version, 0 without one."""
        return self._prime_rows

    def step(self, row: Float32, _raw: Float32 | None = None, _time_ns: int = 0) -> Prediction:
        """See `Client.step`; only the row is used."""
        if row.ndim != 1:
            raise RequestError(f"row: expected float32 [{self._history.width}], got {list(row.shape)}")
        return self.predict(row[np.newaxis])[0]

    def predict(
        self, rows: Float32, _raw: Float32 | None = None, _times_ns: NDArray[np.int64] | None = None
    ) -> list[Prediction]:
        """Predict the next T rows, at most `MAX_ROWS` a request; a row that is not finite changes no state.

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
        """Take rows, float32 [T, F], which the next request carries; rows that are not finite are left out."""
        finite = np.isfinite(rows).all(axis=1)
        rows = rows if finite.all() else rows[finite]
        self._history.append(rows)
        self._pending += len(rows)

    def reset(self) -> None:
        """See `Client.reset`."""
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
        latency_ns = self._clock() - started
        answers = None if outcome is None or isinstance(outcome, _Failure) else zip(*outcome, strict=True)
        predictions = []
        for accepted in finite:
            if not accepted:
                prediction = Prediction(
                    None, None, self._version, Reason.NON_FINITE_INPUT, latency_ns, "a feature is not finite"
                )
            elif isinstance(outcome, _Failure):
                prediction = Prediction(None, None, self._version, outcome.reason, latency_ns, outcome.detail)
            else:
                assert answers is not None  # noqa: S101 - a finite row was asked about
                prediction = Prediction(*next(answers), self._version, None, latency_ns, model=self._answered_by)
            predictions.append(prediction)
        return predictions

    def _advance(self, rows: Float32) -> tuple[Float32, Float32] | _Failure:
        """Move the state over finite rows [n, F], n <= `MAX_ROWS`; return both outputs [n, ...] or a failure."""
        self._history.append(rows)
        self._pending += len(rows)
        self._look_up()
        outcome = self._ask(len(rows))
        if isinstance(outcome, _Failure) and outcome.reason is Reason.UNAVAILABLE and self._version is not None:
            # The version may have been unloaded since the last lookup.
            before = self._version
            self._look_up(force=True)
            if self._version not in (before, None):
                outcome = self._ask(len(rows))
        return outcome

    def _look_up(self, *, force: bool = False) -> None:
        """Find the active version, at most every `poll_s`; a change drops the state."""
        now = self._clock()
        if not force and self._looked_up_ns is not None and now - self._looked_up_ns < self._params.poll_s * NS_PER_S:
            return
        self._looked_up_ns = now
        try:
            active = self._choose(self._transport.versions(self._model))
            if active is not None and active != self._version:
                self._prime_rows = self._prime_rows_of(active)
        except ServingError as error:
            # A failed lookup does not invalidate the version in use.
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
        """Feed pending rows, priming a cold state; return outputs for the last `count`."""
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
        probabilities, outlook = (np.concatenate(chunks)[-count:] for chunks in zip(*parts, strict=True))
        return probabilities, outlook

    def _infer(self, version: int, features: Float32, state: Float32) -> Answer | _Failure:
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
    """Return what is wrong with an answer's values, None if valid."""
    probabilities = answer.probabilities
    # NaN fails every comparison; each pass over an array costs microseconds a row.
    if not ((abs(probabilities.sum(axis=-1) - 1) <= _SUM_TOLERANCE).all() and probabilities.min() >= 0):
        return "the answer's probabilities are not finite, negative, or do not sum to one"
    if not np.isfinite(answer.outlook).all():
        return "the answer's outlook is not finite"
    if not np.isfinite(answer.next_state).all():
        return "the answer's state is not finite"
    return None
