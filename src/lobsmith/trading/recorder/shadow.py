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

Records = npt.NDArray[np.void]
"""Entries of a ring: see `lobsmith.trading.recorder.ring.record_dtype`."""
_HISTORY_ROWS = 2048
"""Rows kept to prime a version that appears later."""
_WAIT_S = 0.05


@dataclass(frozen=True)
class Mirrored:
    """A shadow version's predictions, one an entry; `rows` went into one request."""

    records: Records
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


class Mirror:
    """One shadow version, the candidate or the fallback, with a state of its own.

    It is reset where the primary is, and its answers count from the first row on. After a hole it restarts while the
    primary went on: until primed, its answers have the reason `priming`. Versions may appear, change and vanish. Not
    thread-safe.
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
        self._whole = False
        self._seen = 0
        self._segment: int | None = None
        self._expected: int | None = None

    @property
    def version(self) -> int | None:
        """The version in use, None without one."""
        return None if self._client is None else self._client.version

    def answer(self, records: Records) -> list[Mirrored]:
        """Ask about the next entries, oldest first; those that only prime are not returned."""
        mirrored = []
        for piece in self._pieces(records):
            predictions = self._predict(piece)
            asked = (piece["flags"] & PRIME) == 0
            if predictions and asked.any():
                mirrored.append(
                    Mirrored(
                        piece[asked],
                        [one for one, kept in zip(predictions, asked, strict=True) if kept],
                        min(len(piece), MAX_ROWS),
                    )
                )
        return mirrored

    def probe(self, active_model: str, active: int, row: npt.NDArray[np.float32], *, swap: bool) -> Probe | None:
        """Time one row, float32 [F], at both versions; None where either does not answer.

        Args:
            active_model: model of the active version.
            active: the active version.
            row: any row of the stream.
            swap: ask the shadow first.
        """
        version = self.version
        if version is None or not np.isfinite(row).all():
            return None
        took: dict[str, int] = {}
        sides = [("active", active_model, active), ("mirrored", self.model, version)]
        try:
            for side, model, number in reversed(sides) if swap else sides:
                took[side] = self._time(model, number, row)
        except ServingError:
            return None
        return Probe(clock.now_ns(), self.role, active, took["active"], self.model, version, took["mirrored"])

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

    def _pieces(self, records: Records) -> Iterator[Records]:
        """Split entries where the stream restarts; restart there."""
        sequence, segment = records["sequence"], records["segment"]
        anew = (records["flags"] & RESET) != 0
        begins = anew[1:] | (np.diff(sequence) != 1) | (np.diff(segment) != 0)
        for piece in np.split(records, np.flatnonzero(begins) + 1):
            if not len(piece):
                continue
            first = piece[0]
            if first["flags"] & RESET:
                self._begin(whole=True)
            elif first["sequence"] != self._expected or first["segment"] != self._segment:
                self._begin(whole=False)
            self._expected, self._segment = int(piece["sequence"][-1]) + 1, int(first["segment"])
            yield piece

    def _begin(self, *, whole: bool) -> None:
        self._history = RowHistory(self._history.width, _HISTORY_ROWS)
        self._whole, self._seen = whole, 0
        if self._client is not None:
            self._client.reset()

    def _predict(self, piece: Records) -> list[Prediction]:
        """Return a prediction for each entry, none without a version."""
        rows = np.ascontiguousarray(piece["features"])
        self._open()
        before, self._seen = self._seen, self._seen + len(rows)
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
        if any(one.reason is Reason.REFUSED for one in predictions):
            # A version published anew may have another state size: look it up again.
            self._client = None
            return predictions
        trusted = before + np.arange(len(rows)) >= self._client.prime_rows
        return [
            prediction
            if self._whole or enough or prediction.reason is not None
            else replace(prediction, reason=Reason.PRIMING)
            for prediction, enough in zip(predictions, trusted, strict=True)
        ]

    def _open(self) -> None:
        """Open a client once there is a version, at most every `poll_s`, and feed it the rows so far."""
        now = self._clock()
        waits = self._looked_up_ns is not None and now - self._looked_up_ns < self._params.poll_s * NS_PER_S
        if self._client is not None or waits:
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
        if len(kept) < self._seen:
            self._whole, self._seen = False, len(kept)


class MirrorThread:
    """Asks a shadow about entries in order and keeps its answers until collected.

    Entries that find the queue full are dropped; the shadow finds a hole in their sequence.
    """

    def __init__(self, make: Callable[[], Mirror], active_model: str, *, queue_rows: int, probe_s: float) -> None:
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
        self._queue: deque[Records] = deque()
        self._waiting = 0
        self._busy = False
        self._dropped = 0
        self._faults = 0
        self._mirrored: list[Mirrored] = []
        self._probes: list[Probe] = []
        self._version: int | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def version(self) -> int | None:
        """The version in use, None without one."""
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
    def pressed(self) -> bool:
        """Whether the queue is over half full."""
        return 2 * self._waiting > self._queue_rows

    @property
    def idle(self) -> bool:
        """Whether all offered entries were answered or dropped."""
        with self._changed:
            return not self._queue and not self._busy

    def offer(self, records: Records) -> None:
        """Queue the next entries, best `MAX_ROWS` of them."""
        with self._changed:
            if self._waiting + len(records) > self._queue_rows:
                self._dropped += len(records)
                return
            self._queue.append(records)
            self._waiting += len(records)
            self._changed.notify()

    def collect(self) -> tuple[list[Mirrored], list[Probe]]:
        """Return answers and probes since the last call."""
        with self._changed:
            mirrored, self._mirrored = self._mirrored, []
            probes, self._probes = self._probes, []
        return mirrored, probes

    def _run(self) -> None:
        mirror: Mirror | None = None
        probed_s = time.monotonic()
        while True:
            records = self._take()
            try:
                mirror = mirror or self._make()
                mirrored = mirror.answer(records) if len(records) else []
                probe = None
                if len(records) and time.monotonic() - probed_s > self._probe_s:
                    probed_s, probe = time.monotonic(), self._probe(mirror, records)
            except Exception:  # noqa: BLE001 - the primary's log must go on
                console.print(f"a mirror failed and starts anew:\n{traceback.format_exc()}", markup=False)
                mirror, mirrored, probe = None, [], None
                with self._changed:
                    self._faults += 1
                time.sleep(_WAIT_S)
            with self._changed:
                self._version = None if mirror is None else mirror.version
                self._mirrored += mirrored
                if probe is not None:
                    self._probes.append(probe)
                self._busy = False

    def _take(self) -> Records:
        """Return the next entries; wait up to `_WAIT_S`."""
        with self._changed:
            if not self._queue:
                self._changed.wait(_WAIT_S)
            if not self._queue:
                return np.zeros(0, np.dtype([]))
            self._busy = True
            records = self._queue.popleft()
            self._waiting -= len(records)
            return records

    def _probe(self, mirror: Mirror, records: Records) -> Probe | None:
        """Probe with the newest row that the active version answered."""
        asked = records[(records["candidate"] == 0) & (records["version"] > 0) & ((records["flags"] & PRIME) == 0)]
        if not len(asked):
            return None
        newest = asked[-1]
        swap = random.random() < 0.5  # noqa: S311 - no secret
        return mirror.probe(self._active_model, int(newest["version"]), newest["features"], swap=swap)
