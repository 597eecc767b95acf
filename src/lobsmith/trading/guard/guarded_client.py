"""Clients that return gated predictions."""

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
    """A prediction, and whether it may be acted on.

    Attributes:
        prediction: the same in every mode.
        mode: effective mode of the client.
        actionable: by horizon [H].
        abstain: why not all are actionable.
        detail: the same, one line for people.
    """

    prediction: Prediction
    mode: Mode
    actionable: tuple[bool, ...]
    abstain: Abstain | None
    detail: str | None


class GuardedClient:
    """A client with a guard, which neither delays nor changes predictions.

    Normal: all actionable; paused: none. Conservative: where the version's last hit rates at that confidence suffice;
    never the candidate's, which has none. Not thread-safe.
    """

    def __init__(self, client: Client[Prediction], guard: Guard, *, model: str, horizons: int) -> None:
        """Put a guard of the same stream and model beside a client; neither is closed here."""
        self._client = client
        self._guard = guard
        self._production_models = (model, plans_model(model))
        self._all, self._none = (True,) * horizons, (False,) * horizons
        self.faults = 0

    def step(self, row: Float32, raw: Float32, time_ns: int) -> GatedPrediction:
        """See `Client.step`."""
        return self._gated(self._client.step(row, raw, time_ns), raw, time_ns)

    def ask(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[GatedPrediction]:
        """Predict rows that came together: see `Client.predict`."""
        predictions = self._client.predict(rows, raw, times_ns)
        return list(map(self._gated, predictions, raw, times_ns.tolist()))

    def _gated(self, prediction: Prediction, raw: Float32, time_ns: int) -> GatedPrediction:
        try:
            return self._gate(prediction, raw, time_ns)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - the answer must come all the same
            self.faults += 1
            if self.faults == 1:
                console.print(f"the guard failed:\n{traceback.format_exc()}", markup=False)
            detail = f"the guard failed: {type(error).__name__}: {error}"
            return GatedPrediction(prediction, Mode.CONSERVATIVE, self._none, Abstain.NO_SIGNAL, detail)

    def predict(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[Prediction]:
        """See `Client.predict`."""
        predictions = self._client.predict(rows, raw, times_ns)
        for prediction, row, time_ns in zip(predictions, raw, times_ns.tolist(), strict=True):
            self._guard.observe(row, time_ns, self._version_of(prediction))
        return predictions

    def reset(self) -> None:
        """See `Client.reset`; the guard's block is emptied too."""
        self._client.reset()
        self._guard.reset()

    def _gate(self, prediction: Prediction, raw: Float32, time_ns: int) -> GatedPrediction:
        finite = self._guard.observe(raw, time_ns, self._version_of(prediction))
        effective, act_table = self._guard.state
        if prediction.probabilities is None or prediction.reason is not None:
            detail = f"no answer: {prediction.reason}"
            return GatedPrediction(prediction, effective.mode, self._none, Abstain.NO_ANSWER, detail)
        if not finite:
            # This row is in no scored block.
            return GatedPrediction(
                prediction, effective.mode, self._none, Abstain.NO_SIGNAL, "a raw feature is not finite"
            )
        if effective.mode is Mode.NORMAL:
            return GatedPrediction(prediction, effective.mode, self._all, None, None)
        actionable = self._none
        if effective.mode is Mode.CONSERVATIVE and prediction.model in self._production_models:
            actionable = act_table.actionable(prediction.probabilities)
        return GatedPrediction(
            prediction,
            effective.mode,
            actionable,
            None if all(actionable) else effective.abstain,
            effective.detail,
        )

    def _version_of(self, prediction: Prediction) -> int | None:
        """Return the production model's version, None where another model or none answered."""
        return prediction.version if prediction.model in self._production_models else None


class UnguardedClient:
    """A client without a guard: every answer is actionable."""

    def __init__(self, client: Client[Prediction], *, horizons: int) -> None:
        """Wrap a client, for H horizons."""
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
