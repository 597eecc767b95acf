"""Shadow versions, asked about live rows; no caller waits for their answers."""

import random
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Condition, Thread

import numpy as np
import numpy.typing as npt

from lobsmith import clock
from lobsmith.errors import ServingError
from lobsmith.monitoring.log.writer import Role
from lobsmith.params import ClientParams
from lobsmith.progress import console
from lobsmith.release.version.contract import MAX_ROWS
from lobsmith.trading.client.history import RowHistory
from lobsmith.trading.client.stream import Prediction, Reason, StreamClient
from lobsmith.trading.recorder.ring import PRIME, RESET
from lobsmith.trading.transport.base import Transport
from lobsmith.units import NS_PER_S

Entries = npt.NDArray[np.void]
"""Entries of a ring: see `lobsmith.trading.recorder.ring.entry_dtype`."""
_HISTORY_ROWS = 2048
"""Rows kept to prime a version that appears later."""
_WAIT_S = 0.05


@dataclass(frozen=True)
class ShadowAnswers:
    """A shadow version's predictions, one an entry; `rows` went into one request."""

    entries: Entries
    predictions: list[Prediction]
    rows: int


@dataclass(frozen=True)
class Probe:
    """Latencies of one row from a cold state, at the active version and at the shadow, over one transport.

    Only these compare: a shadow's other rows go in chunks.
    """

    time_ns: int
    role: Role
    active: int
    active_ns: int
    model: str
    version: int
    latency_ns: int


class ShadowReplica:
    """One shadow version, the candidate or the fallback, with a state of its own. Not thread-safe.

    It is reset where the primary is. After a hole it starts from a cold state while the primary continues: until
    primed, its answers have the reason `priming`. Versions may appear, change and vanish.
    """

    def __init__(
        self,
        role: Role,
        transport: Transport,
        model: str,
        *,
        choose: Callable[[list[int]], int | None],
        definitions_sha256: str,
        feature_count: int,
        params: ClientParams,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Prepare; nothing is requested yet.

        Args:
            role: of the version to the stream.
            transport: to the server.
            model: that has the version.
            choose: which served version to ask.
            definitions_sha256: a model of other features or labels is not asked.
            feature_count: F.
            params: deadline and lookup interval.
            clock: monotonic, ns.
        """
        self.role = role
        self.model = model
        self._transport = transport
        self._choose = choose
        self._definitions = definitions_sha256
        self._params = params
        self._clock = clock
        self._client: StreamClient | None = None
        self._foreign: int | None = None
        self._state_sizes: dict[tuple[str, int], int] = {}
        self._looked_up_ns: int | None = None
        self._history = RowHistory(feature_count, _HISTORY_ROWS)
        self._from_start = False
        self._row_count = 0
        self._segment: int | None = None
        self._expected: int | None = None

    @property
    def version(self) -> int | None:
        """The version in use, None without one."""
        return None if self._client is None else self._client.version

    def answer(self, entries: Entries) -> list[ShadowAnswers]:
        """Ask about the next entries, oldest first; those that only prime are not returned."""
        answered = []
        for piece in self._pieces(entries):
            predictions = self._predict(piece)
            predicted = (piece["flags"] & PRIME) == 0
            if predictions and predicted.any():
                answered.append(
                    ShadowAnswers(
                        piece[predicted],
                        [prediction for prediction, kept in zip(predictions, predicted, strict=True) if kept],
                        min(len(piece), MAX_ROWS),
                    )
                )
        return answered

    def probe(self, active_model: str, active: int, row: npt.NDArray[np.float32], *, swap: bool) -> Probe | None:
        """Time one row, float32 [F], at both versions; None where either does not answer.

        Args:
            active_model: model of the active version.
            active: the active version.
            row: of the stream.
            swap: ask the shadow first.
        """
        version = self.version
        if version is None or not np.isfinite(row).all():
            return None
        latencies: dict[str, int] = {}
        sides = [("active", active_model, active), ("shadow", self.model, version)]
        try:
            for side, model, number in reversed(sides) if swap else sides:
                latencies[side] = self._time(model, number, row)
        except ServingError:
            return None
        return Probe(clock.now_ns(), self.role, active, latencies["active"], self.model, version, latencies["shadow"])

    def _time(self, model: str, version: int, row: npt.NDArray[np.float32]) -> int:
        features, known = row[np.newaxis, np.newaxis], (model, version) in self._state_sizes
        if not known:
            self._state_sizes[model, version] = self._transport.describe(model).state_size
        state = np.zeros((1, self._state_sizes[model, version]), np.float32)
        if not known:
            # The first request loads and allocates.
            self._transport.infer(model, version, features, state, self._params.deadline_s)
        started = self._clock()
        self._transport.infer(model, version, features, state, self._params.deadline_s)
        return self._clock() - started

    def _pieces(self, entries: Entries) -> Iterator[Entries]:
        """Split entries where the stream restarts, and reset there."""
        sequence, segment = entries["sequence"], entries["segment"]
        resets = (entries["flags"] & RESET) != 0
        begins = resets[1:] | (np.diff(sequence) != 1) | (np.diff(segment) != 0)
        for piece in np.split(entries, np.flatnonzero(begins) + 1):
            if not len(piece):
                continue
            first = piece[0]
            if first["flags"] & RESET:
                self._begin(from_start=True)
            elif first["sequence"] != self._expected or first["segment"] != self._segment:
                self._begin(from_start=False)
            self._expected, self._segment = int(piece["sequence"][-1]) + 1, int(first["segment"])
            yield piece

    def _begin(self, *, from_start: bool) -> None:
        self._history = RowHistory(self._history.width, _HISTORY_ROWS)
        self._from_start, self._row_count = from_start, 0
        if self._client is not None:
            self._client.reset()

    def _predict(self, piece: Entries) -> list[Prediction]:
        rows = np.ascontiguousarray(piece["features"])
        self._open()
        before, self._row_count = self._row_count, self._row_count + len(rows)
        self._history.append(rows)
        if self._foreign is not None:
            detail = f"{self.model}/{self._foreign}: made for other features or labels"
            return [Prediction(None, None, self._foreign, Reason.REFUSED, 0, detail)] * len(rows)
        if self._client is None:
            return []
        predictions = self._client.predict(rows)
        if self._client.version is None:
            self._client = None
            return []
        if any(prediction.reason is Reason.REFUSED for prediction in predictions):
            # A version published anew may have another state size: look it up again.
            self._client = None
            return predictions
        trusted = before + np.arange(len(rows)) >= self._client.prime_rows
        return [
            prediction
            if self._from_start or enough or prediction.reason is not None
            else replace(prediction, reason=Reason.PRIMING)
            for prediction, enough in zip(predictions, trusted, strict=True)
        ]

    def _open(self) -> None:
        """Open a client once there is a version, at most every `poll_s`, and feed it the rows so far."""
        now = self._clock()
        too_soon = self._looked_up_ns is not None and now - self._looked_up_ns < self._params.poll_s * NS_PER_S
        if self._client is not None or too_soon:
            return
        self._looked_up_ns = now
        try:
            version, self._foreign = self._choose(self._transport.versions(self.model)), None
            if version is None:
                return
            if self._transport.describe(self.model).definitions_sha256 != self._definitions:
                self._foreign = version
                return
            self._client = StreamClient.open(self._transport, self.model, self._params, choose=self._choose)
        except ServingError:
            return
        kept = self._history.last(len(self._history))
        self._client.observe(kept)
        if len(kept) < self._row_count:
            self._from_start, self._row_count = False, len(kept)


class ShadowThread:
    """Asks a shadow about entries in order and keeps its answers until collected; a full queue drops entries."""

    def __init__(
        self, make: Callable[[], ShadowReplica], active_model: str, *, queue_rows: int, probe_s: float
    ) -> None:
        """Start the thread.

        Args:
            make: makes the shadow and its transport, in the thread.
            active_model: model of the active version, for probes.
            queue_rows: queued entries at most.
            probe_s: between two probes.
        """
        self._make = make
        self._active_model = active_model
        self._queue_rows = queue_rows
        self._probe_s = probe_s
        self._changed = Condition()
        self._queue: deque[Entries] = deque()
        self._waiting = 0
        self._busy = False
        self._dropped = 0
        self._faults = 0
        self._answered: list[ShadowAnswers] = []
        self._probes: list[Probe] = []
        self._version: int | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def version(self) -> int | None:
        """See `ShadowReplica.version`."""
        return self._version

    def take_dropped(self) -> int:
        """Return the entries dropped since the last call."""
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        return dropped

    def take_faults(self) -> int:
        """Return the unexpected errors since the last call; the shadow restarts after each."""
        with self._changed:
            faults, self._faults = self._faults, 0
        return faults

    @property
    def above_high_water(self) -> bool:
        """Whether the queue is over half full."""
        return 2 * self._waiting > self._queue_rows

    @property
    def idle(self) -> bool:
        """Whether all offered entries were answered or dropped."""
        with self._changed:
            return not self._queue and not self._busy

    def offer(self, entries: Entries) -> None:
        """Queue the next entries, best `MAX_ROWS` of them."""
        with self._changed:
            if self._waiting + len(entries) > self._queue_rows:
                self._dropped += len(entries)
                return
            self._queue.append(entries)
            self._waiting += len(entries)
            self._changed.notify()

    def collect(self) -> tuple[list[ShadowAnswers], list[Probe]]:
        """Return answers and probes since the last call."""
        with self._changed:
            answered, self._answered = self._answered, []
            probes, self._probes = self._probes, []
        return answered, probes

    def _run(self) -> None:
        shadow: ShadowReplica | None = None
        probed_s = time.monotonic()
        while True:
            entries = self._take()
            try:
                shadow = shadow or self._make()
                answered = shadow.answer(entries) if len(entries) else []
                probe = None
                if len(entries) and time.monotonic() - probed_s > self._probe_s:
                    probed_s, probe = time.monotonic(), self._probe(shadow, entries)
            except Exception:  # noqa: BLE001 - the primary's log must go on
                console.print(f"a shadow failed and restarts:\n{traceback.format_exc()}", markup=False)
                shadow, answered, probe = None, [], None
                with self._changed:
                    self._faults += 1
                time.sleep(_WAIT_S)
            with self._changed:
                self._version = None if shadow is None else shadow.version
                self._answered += answered
                if probe is not None:
                    self._probes.append(probe)
                self._busy = False

    def _take(self) -> Entries:
        with self._changed:
            if not self._queue:
                self._changed.wait(_WAIT_S)
            if not self._queue:
                return np.zeros(0, np.dtype([]))
            self._busy = True
            entries = self._queue.popleft()
            self._waiting -= len(entries)
            return entries

    def _probe(self, shadow: ShadowReplica, entries: Entries) -> Probe | None:
        """Probe with the newest row that the active version answered."""
        predicted = entries[(entries["candidate"] == 0) & (entries["version"] > 0) & ((entries["flags"] & PRIME) == 0)]
        if not len(predicted):
            return None
        newest = predicted[-1]
        swap = random.random() < 0.5  # noqa: S311 - no secret
        return shadow.probe(self._active_model, int(newest["version"]), newest["features"], swap=swap)
