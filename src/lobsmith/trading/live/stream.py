"""One symbol's live rows: from lines to predictions, in a thread of its own."""

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from threading import Lock, Thread

import numpy as np
import numpy.typing as npt

from lobsmith import clock
from lobsmith.errors import ServingError, UntrainedInstrumentError
from lobsmith.features.stream import FeatureStream, Rows
from lobsmith.market.instrument import Instrument
from lobsmith.market.live.feed import LiveFeed
from lobsmith.params import Params
from lobsmith.release.version.contract import MAX_ROWS
from lobsmith.trading.client.stream import Reason
from lobsmith.trading.guard.guarded_client import GatedPrediction
from lobsmith.trading.live.lines import Lines
from lobsmith.trading.recorder.recorder import RecorderSummary
from lobsmith.trading.session import Stream

_TURN_S = 0.2
_RETRY_S = 1.0
_LATENCIES_S = 10.0


class StreamPhase(StrEnum):
    """Phase of a stream."""

    STARTING = "waiting for the first row"
    WAITING = "waiting for a model"
    REFUSED = "waiting for a model that has learnt the instrument"
    ANSWERING = "answering"


@dataclass
class StreamCounts:
    """Counts of a stream's rows so far.

    Attributes:
        rows: of the feed.
        answered: rows with an answer.
        reasons: rows without, by reason.
        incomplete: rows before the z-score's window was full.
        unasked: rows while no model was open.
        latencies: of the newest answers: when, s, and latencies, int64 ns, machine time.
        behind_ns: delay of the last answer, workspace time.
        mid: twice the last mid, ticks.
        last: the last prediction.
    """

    rows: int = 0
    answered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    incomplete: int = 0
    unasked: int = 0
    latencies: deque[tuple[float, npt.NDArray[np.int64]]] = field(default_factory=deque)
    behind_ns: int = 0
    mid: int = 0
    last: GatedPrediction | None = None


class LiveStream:
    """Reads one symbol's lines, predicts each complete row and records it, until closed.

    Rows that come together go into one request: after a pause the stream catches up.

    Attributes:
        lines: queue of the feed's lines.
        instrument: of the feed.
        counts: read it under `lock`.
        state: phase.
        detail: why it waits.
        error: what ended it.
        recorded: set once closed.
    """

    def __init__(
        self,
        instrument: Instrument,
        params: Params,
        open_model: Callable[[], Stream],
        *,
        report: Callable[[str], None],
        resync: Callable[[], None] = lambda: None,
        on_moved: Callable[[LiveFeed], None] = lambda _feed: None,
        longest: int = 200_000,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            instrument: of the feed.
            params: `features` and `data.screen`.
            open_model: called in the stream's thread.
            report: called with a line for people.
            resync: requests a snapshot after an unreadable line.
            on_moved: called with the feed after it took lines.
            longest: queued lines at most.
        """
        self.instrument = instrument
        self.lines = Lines(longest)
        self.counts, self.lock = StreamCounts(), Lock()
        self.state, self.detail = StreamPhase.STARTING, ""
        self.error: Exception | None = None
        self.recorded: RecorderSummary | None = None
        self._open_model = open_model
        self._report = report
        self._resync = resync
        self._on_moved = on_moved
        self._feed = LiveFeed(str(instrument), instrument, params.data.screen)
        self._features = FeatureStream(instrument, params.features)
        self._stream: Stream | None = None
        self._version: int | None = None
        self._retry_s = 0.0
        self._give_up_s: float | None = None
        self._failed = False
        self._left = 0
        self._thread = Thread(target=self._run, name=f"live {instrument}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, drain_s: float, *, failed: bool = False) -> None:
        """Answer queued lines and end the session; `join` waits for it.

        Args:
            drain_s: lines not answered by then count as dropped.
            failed: the session counts as crashed.
        """
        self._failed = failed
        self._give_up_s = time.monotonic() + drain_s
        self.lines.close()

    def join(self) -> None:
        """Wait for the end of the session."""
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def drops(self) -> int:
        """Rows answered but not logged, and lines without room or time."""
        stream = self._stream
        if self.recorded is not None:
            dropped = self.recorded.dropped
        else:
            dropped = 0 if stream is None or stream.recorder is None else stream.recorder.dropped
        return self.lines.refused + self._left + dropped

    @property
    def faults(self) -> int:
        """Unreadable lines."""
        return self._feed.faults

    def _run(self) -> None:
        try:
            while (text := self.lines.take(_TURN_S)) is not None:
                if self._give_up_s is not None and time.monotonic() > self._give_up_s:
                    self._left = text.count(b"\n") + len(self.lines)
                    break
                if text:
                    self._take(text)
                elif self._stream is None:
                    self._try_model()
            self._end()
        except Exception as error:  # noqa: BLE001 - raised in the session's thread
            self.error = error
            with suppress(Exception):
                self._end(failed=True)

    def _end(self, *, failed: bool = False) -> None:
        if self._stream is not None:
            self.recorded = self._stream.close(failed=failed or self._failed)

    def _take(self, text: bytes) -> None:
        faults = self._feed.faults
        rows = self._features.push(self._feed.push(text))
        self._on_moved(self._feed)
        if self._feed.faults > faults:
            self._report(f"{self._feed.fault}; its segment ends, and the next snapshot begins another one")
            self._resync()
        if not len(rows):
            return
        self._try_model()
        complete = rows.complete
        with self.lock:
            self.counts.rows += len(rows)
            self.counts.mid = int(rows.mid[-1])
            self.counts.incomplete += int(np.count_nonzero(~complete))
            if self._stream is None:
                self.counts.unasked += int(np.count_nonzero(complete))
        if self._stream is not None:
            breaks = np.flatnonzero(np.diff(complete.astype(np.int8))) + 1
            for start, stop in pairwise([0, *breaks.tolist(), len(rows)]):
                if complete[start]:
                    self._ask(self._stream, rows.slice(start, stop))

    def _ask(self, stream: Stream, run: Rows) -> None:
        """Predict complete rows."""
        for start in range(0, len(run), MAX_ROWS):
            rows = run.slice(start, start + MAX_ROWS)
            gated = stream.ask(rows)
            late_ns = clock.now_ns() - rows.time
            self._count(gated, late_ns)

    def _count(self, gated: list[GatedPrediction], late_ns: npt.NDArray[np.int64]) -> None:
        now_s = time.monotonic()
        with self.lock:
            counts = self.counts
            for answer in gated:
                reason = answer.prediction.reason
                if reason is None or reason is Reason.PRIMING:
                    counts.answered += 1
                else:
                    counts.reasons[reason.value] += 1
            counts.last = gated[-1]
            counts.behind_ns = int(late_ns[-1])
            counts.latencies.append((now_s, (late_ns / clock.speed()).astype(np.int64)))
            while counts.latencies[0][0] < now_s - _LATENCIES_S:
                counts.latencies.popleft()
        version = gated[-1].prediction.version
        if version != self._version and version is not None:
            before, self._version = self._version, version
            if before is not None:
                self._report(f"{self.instrument}: version {version} answers from now on, after version {before}")

    def _try_model(self) -> None:
        """Open the stream to the model, at most every `_RETRY_S`."""
        if self._stream is not None or time.monotonic() < self._retry_s:
            return
        try:
            self._stream = self._open_model()
        except UntrainedInstrumentError as error:
            self._wait(StreamPhase.REFUSED, str(error))
        except ServingError as error:
            self._wait(StreamPhase.WAITING, str(error))
        else:
            self.state, self.detail = StreamPhase.ANSWERING, ""
        self._retry_s = time.monotonic() + _RETRY_S

    def _wait(self, state: StreamPhase, reason: str) -> None:
        # The reason of a refusal, which names the candidate, seldom changes: report each one.
        if state is not self.state or (state is StreamPhase.REFUSED and reason != self.detail):
            self._report(f"{self.instrument}: {state}: {reason}")
        self.state, self.detail = state, reason
