"""A client that says of each answer whether it may be acted on."""

import traceback
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lobsmith.errors import RequestError
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.progress import console
from lobsmith.release.version.names import plans_model
from lobsmith.trading.client.stream import Client, Prediction
from lobsmith.trading.guard.effective_mode import Abstain
from lobsmith.trading.guard.guard import Guard

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class GatedPrediction:
    """An answer and what may be done with it.

    Attributes:
        prediction: the answer, or why there is none: in every mode alike.
        mode: that holds for this client.
        may_act: H of them, whether the answer at that horizon may be acted on.
        abstain: why not all may be; None where all may.
        detail: one line for people, None where all may be acted on.
    """

    prediction: Prediction
    mode: Mode
    actionable: tuple[bool, ...]
    abstain: Abstain | None
    detail: str | None


class GuardedClient:
    """A stream's client with a guard beside it; the guard never delays an answer, and never changes one.

    Normal mode acts on every answer, paused mode on none. Conservative mode acts where answers of such confidence have
    come true nearly always, by the last counts known of the version; never on an answer of the candidate, which has no
    counts. Not safe to share between threads.
    """

    def __init__(self, client: Client[Prediction], guard: Guard, *, model: str, horizons: int) -> None:
        """Put a guard beside a client.

        Args:
            client: answers; it is not closed here.
            guard: of the same stream and model; it is not closed here.
            model: the production model.
            horizons: H.
        """
        self._client = client
        self._guard = guard
        self._own_answers = (model, plans_model(model))
        self._all, self._none = (True,) * horizons, (False,) * horizons
        self.faults = 0

    def step(self, row: Float32, raw: Float32, time_ns: int) -> GatedPrediction:
        """See `Client.step`."""
        return self._gated(self._client.step(row, raw, time_ns), raw, time_ns)

    def ask(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[GatedPrediction]:
        """Ask about rows that have come together, in one request: see `Client.predict`."""
        predictions = self._client.predict(rows, raw, times_ns)
        return list(map(self._gated, predictions, raw, times_ns.tolist()))

    def _gated(self, prediction: Prediction, raw: Float32, time_ns: int) -> GatedPrediction:
        try:
            return self._gate(prediction, raw, time_ns)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer must come, and nothing is known
            self.faults += 1
            if self.faults == 1:
                console.print(f"the guard failed:\n{traceback.format_exc()}", markup=False)
            detail = f"the guard failed: {type(error).__name__}: {error}"
            return GatedPrediction(prediction, Mode.CONSERVATIVE, self._none, Abstain.NO_SIGNAL, detail)

    def predict(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[Prediction]:
        """See `Client.predict`."""
        predictions = self._client.predict(rows, raw, times_ns)
        for prediction, one, time_ns in zip(predictions, raw, times_ns.tolist(), strict=True):
            self._guard.observe(one, time_ns, self._version_of(prediction))
        return predictions

    def reset(self) -> None:
        """Forget the stream: after a gap in the feed the next row starts from a cold state, and an empty block."""
        self._client.reset()
        self._guard.reset()

    def _gate(self, prediction: Prediction, raw: Float32, time_ns: int) -> GatedPrediction:
        finite = self._guard.observe(raw, time_ns, self._version_of(prediction))
        holding, win_rates = self._guard.state
        if prediction.probabilities is None or prediction.reason is not None:
            detail = f"no answer: {prediction.reason}"
            return GatedPrediction(prediction, holding.mode, self._none, Abstain.NO_ANSWER, detail)
        if not finite:
            # The mode holds for the stream; this row is in no block that was scored.
            return GatedPrediction(
                prediction, holding.mode, self._none, Abstain.NO_SIGNAL, "a raw feature is not finite"
            )
        if holding.mode is Mode.NORMAL:
            return GatedPrediction(prediction, holding.mode, self._all, None, None)
        actionable = self._none
        if holding.mode is Mode.CONSERVATIVE and prediction.model in self._own_answers:
            actionable = win_rates.actionable(prediction.probabilities)
        return GatedPrediction(
            prediction,
            holding.mode,
            actionable,
            None if all(actionable) else holding.abstain,
            holding.detail,
        )

    def _version_of(self, prediction: Prediction) -> int | None:
        """Return the version in use of the guarded model, None where another model answered or none did."""
        return prediction.version if prediction.model in self._own_answers else None


class UnguardedClient:
    """The same without a guard: every answer may be acted on."""

    def __init__(self, client: Client[Prediction], *, horizons: int) -> None:
        """Let a client's answers through, for H horizons."""
        self._client = client
        self._all, self._none = (True,) * horizons, (False,) * horizons

    def step(self, row: Float32, raw: Float32, time_ns: int) -> GatedPrediction:
        """See `Client.step`."""
        return self._gated(self._client.step(row, raw, time_ns))

    def ask(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[GatedPrediction]:
        """See `GuardedClient.ask`."""
        return list(map(self._gated, self._client.predict(rows, raw, times_ns)))

    def _gated(self, prediction: Prediction) -> GatedPrediction:
        if prediction.probabilities is None or prediction.reason is not None:
            detail = f"no answer: {prediction.reason}"
            return GatedPrediction(prediction, Mode.NORMAL, self._none, Abstain.NO_ANSWER, detail)
        return GatedPrediction(prediction, Mode.NORMAL, self._all, None, None)

    def predict(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[Prediction]:
        """See `Client.predict`."""
        return self._client.predict(rows, raw, times_ns)

    def reset(self) -> None:
        """See `Client.reset`."""
        self._client.reset()
