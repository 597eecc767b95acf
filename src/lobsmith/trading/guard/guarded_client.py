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
class Advised:
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
    may_act: tuple[bool, ...]
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

    def step(self, row: Float32, raw: Float32, time_ns: int) -> Advised:
        """See `Client.step`."""
        return self._advised(self._client.step(row, raw, time_ns), raw, time_ns)

    def ask(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[Advised]:
        """Ask about rows that have come together, in one request: see `Client.predict`."""
        predictions = self._client.predict(rows, raw, times_ns)
        return list(map(self._advised, predictions, raw, times_ns.tolist()))

    def _advised(self, prediction: Prediction, raw: Float32, time_ns: int) -> Advised:
        try:
            return self._advise(prediction, raw, time_ns)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer must come, and nothing is known
            self.faults += 1
            if self.faults == 1:
                console.print(f"the guard failed:\n{traceback.format_exc()}", markup=False)
            detail = f"the guard failed: {type(error).__name__}: {error}"
            return Advised(prediction, Mode.CONSERVATIVE, self._none, Abstain.BLIND, detail)

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

    def _advise(self, prediction: Prediction, raw: Float32, time_ns: int) -> Advised:
        finite = self._guard.observe(raw, time_ns, self._version_of(prediction))
        stance, win_rates = self._guard.state
        if prediction.probabilities is None or prediction.reason is not None:
            detail = f"no answer: {prediction.reason}"
            return Advised(prediction, stance.mode, self._none, Abstain.NO_ANSWER, detail)
        if not finite:
            # The mode holds for the stream; this row is in no block that was scored.
            return Advised(prediction, stance.mode, self._none, Abstain.BLIND, "a raw feature is not finite")
        if stance.mode is Mode.NORMAL:
            return Advised(prediction, stance.mode, self._all, None, None)
        may_act = self._none
        if stance.mode is Mode.CONSERVATIVE and prediction.model in self._own_answers:
            may_act = win_rates.may_act(prediction.probabilities)
        return Advised(prediction, stance.mode, may_act, None if all(may_act) else stance.abstain, stance.detail)

    def _version_of(self, prediction: Prediction) -> int | None:
        """Return the version in use of the guarded model, None where another model answered or none did."""
        return prediction.version if prediction.model in self._own_answers else None


class UnguardedClient:
    """The same without a guard: every answer may be acted on."""

    def __init__(self, client: Client[Prediction], *, horizons: int) -> None:
        """Let a client's answers through, for H horizons."""
        self._client = client
        self._all, self._none = (True,) * horizons, (False,) * horizons

    def step(self, row: Float32, raw: Float32, time_ns: int) -> Advised:
        """See `Client.step`."""
        return self._advised(self._client.step(row, raw, time_ns))

    def ask(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[Advised]:
        """See `GuardedClient.ask`."""
        return list(map(self._advised, self._client.predict(rows, raw, times_ns)))

    def _advised(self, prediction: Prediction) -> Advised:
        if prediction.probabilities is None or prediction.reason is not None:
            detail = f"no answer: {prediction.reason}"
            return Advised(prediction, Mode.NORMAL, self._none, Abstain.NO_ANSWER, detail)
        return Advised(prediction, Mode.NORMAL, self._all, None, None)

    def predict(self, rows: Float32, raw: Float32, times_ns: NDArray[np.int64]) -> list[Prediction]:
        """See `Client.predict`."""
        return self._client.predict(rows, raw, times_ns)

    def reset(self) -> None:
        """See `Client.reset`."""
        self._client.reset()
