"""A/B test: active version or candidate answers a block of time, by a hash of symbol and block."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lobsmith.errors import ServingError
from lobsmith.online.ab_test import arm
from lobsmith.params import ClientParams
from lobsmith.release.version.names import candidate_model
from lobsmith.trading.client.history import RowHistory
from lobsmith.trading.client.stream import Prediction, Reason, StreamClient
from lobsmith.trading.transport.base import Transport
from lobsmith.units import NS_PER_S

Float32 = NDArray[np.float32]

_CANDIDATE_SHARE = 0.5
"""Of the deadline; the active version keeps all of its own."""
_HISTORY_ROWS = 2048
"""Prime a candidate that appears later."""


class AbClient:
    """One stream to two versions, of which one answers each row: `Prediction.model` names it.

    The other version keeps the row and is primed at its next block. When the candidate fails, the active version
    answers the row in the same call, and all rows of the next `poll_s` seconds. Not thread-safe.
    """

    def __init__(
        self,
        transport: Transport,
        model: str,
        params: ClientParams,
        *,
        symbol: str,
        block_s: float,
        share: float,
        salt: str,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Open a client of the active version; the candidate may appear later.

        Args:
            transport: to the server.
            model: the production model.
            params: deadline and lookup interval.
            symbol: whose rows these are.
            block_s: length of a block.
            share: of blocks that the candidate answers.
            salt: of the hash.
            clock: monotonic, ns.

        Raises:
            ServingError: the server does not answer, or has no such model.
        """
        self._transport = transport
        self._candidate_model = candidate_model(model)
        self._params = params
        self._split = {"block_s": block_s, "share": share}
        self._symbol, self._salt = symbol, salt
        self._clock = clock
        self._active = StreamClient.open(transport, model, params)
        self._shape = transport.describe(model)
        self._history = RowHistory(self._shape.feature_count, _HISTORY_ROWS)
        self._candidate: StreamClient | None = None
        self._not_before_ns: int | None = None

    def step(self, row: Float32, _raw: Float32 | None, time_ns: int) -> Prediction:
        """See `Client.step`; the row's time selects the version."""
        rows = row[np.newaxis]
        if not arm(self._symbol, time_ns, salt=self._salt, **self._split):
            prediction = self._active.step(row)
            self._remember(rows)
            return prediction
        started = self._clock()
        answered = self._ask_candidate(row)
        if answered is not None and answered.probabilities is not None:
            self._active.observe(rows)
            return replace(answered, latency_ns=self._clock() - started)
        prediction = self._active.step(row)
        why = "there is none" if answered is None else f"{answered.reason}: {answered.detail}"
        return replace(prediction, latency_ns=self._clock() - started, detail=f"not the candidate, {why}")

    def predict(
        self, rows: Float32, _raw: Float32 | None = None, _times_ns: NDArray[np.int64] | None = None
    ) -> list[Prediction]:
        """See `Client.predict`; the active version answers."""
        predictions = self._active.predict(rows)
        self._remember(rows)
        return predictions

    def reset(self) -> None:
        """See `Client.reset`."""
        self._active.reset()
        self._history = RowHistory(self._history.width, _HISTORY_ROWS)
        if self._candidate is not None:
            self._candidate.reset()

    def _remember(self, rows: Float32) -> None:
        self._history.append(rows)
        if self._candidate is not None:
            self._candidate.observe(rows)

    def _ask_candidate(self, row: Float32) -> Prediction | None:
        """Return the candidate's prediction; None without a candidate or within `poll_s` of a failure."""
        now = self._clock()
        if self._not_before_ns is not None and now < self._not_before_ns:
            self._remember(row[np.newaxis])
            return None
        if self._candidate is None:
            self._candidate = self._open_candidate()
        prediction = None if self._candidate is None else self._candidate.step(row)
        self._history.append(row[np.newaxis])
        # A row that is not finite is no failure of the candidate.
        failed = prediction is None or prediction.reason not in (None, Reason.NON_FINITE_INPUT)
        if prediction is not None and prediction.reason is Reason.REFUSED:
            # A version published anew may have another state size: look it up again.
            self._candidate = None
        self._not_before_ns = self._clock() + int(self._params.poll_s * NS_PER_S) if failed else None
        return prediction

    def _open_candidate(self) -> StreamClient | None:
        params = ClientParams(deadline_s=self._params.deadline_s * _CANDIDATE_SHARE, poll_s=self._params.poll_s)
        try:
            shape = self._transport.describe(self._candidate_model)
            # Another state size is fine; other features or horizons are not.
            if shape.definitions_sha256 != self._shape.definitions_sha256:
                return None
            client = StreamClient.open(self._transport, self._candidate_model, params)
        except ServingError:
            return None
        client.observe(self._history.last(len(self._history)))
        return client
