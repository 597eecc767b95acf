"""The recorder's process: moves ring entries to the prediction log and asks the shadow versions.

Run as `python -m lobsmith.trading.recorder.process CONFIG`. Ends on SIGTERM, or when the ring's writer closed it or
exited, once the ring is empty or `mirror.drain_s` has passed.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import structs

from lobsmith import clock
from lobsmith.errors import LobsmithError, PredictionLogError, ReleaseError
from lobsmith.monitoring.log.outcomes import OutcomeJoin, Outcomes
from lobsmith.monitoring.log.reader import PredictionLog
from lobsmith.monitoring.log.writer import Ending, LogWriter, Role, Source
from lobsmith.params import Params
from lobsmith.progress import console
from lobsmith.release.version.contract import MAX_ROWS
from lobsmith.release.version.manifest import read_manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.trading.client.stream import Reason, newest, second_newest
from lobsmith.trading.recorder.protocol import RecorderConfig, Tally
from lobsmith.trading.recorder.ring import HAS_RAW, RingReader
from lobsmith.trading.recorder.shadow import Entries, Probe, ShadowAnswers, ShadowReplica, ShadowThread
from lobsmith.trading.transport import transport_opener
from lobsmith.workspace import Workspace

_OPEN_ROWS = """SELECT row, time_ns, mid, segment FROM logged
    WHERE session = ? AND role = 'primary' AND known_ns IS NULL ORDER BY row"""
_LAST_ROW = "SELECT row, segment FROM logged WHERE session = ? AND role = 'primary' ORDER BY row DESC LIMIT 1"
_REASONS = (None, *(reason.value for reason in Reason))
_READ_ROWS = 2048
_IDLE_S = 0.005
_NICENESS = 10
"""Recorder and shadows leave the core to the trading process."""


class LogSink:
    """Writes one session to its model's prediction log, in which the session was announced."""

    def __init__(self, log: LogWriter, session: str, model: str, horizons_ms: tuple[int, ...]) -> None:
        self._log = log
        self._session = session
        self._model = model
        self._join = OutcomeJoin(horizons_ms)
        self._last: tuple[int, int] | None = None
        self._run = 0

    def resume(self) -> None:
        """Resume rows whose outcome an earlier recorder of this session left open.

        Raises:
            PredictionLogError: the log cannot be read.
        """
        with PredictionLog(self._log.path) as log, log.connection.cursor() as cursor:
            cursor.execute(_OPEN_ROWS, (self._session,))
            rows = np.array(cursor.fetchall(), np.int64).reshape(-1, 4)
            cursor.execute(_LAST_ROW, (self._session,))
            last = cursor.fetchone()
        if len(rows):
            row, time_ns, mid, segment = rows.T
            self._add_outcomes(self._join.push(row, time_ns, mid, self._runs(row, segment)))
        if last is not None:
            self._last = (int(last[0]), int(last[1]))

    def add_live(self, entries: Entries) -> None:
        """Log entries, oldest first: predictions, raw rows and the outcomes that they complete."""
        predicted = entries[entries["row"] >= 0]
        if not len(predicted):
            return
        for candidate, model in enumerate((self._model, candidate_model(self._model))):
            arm = predicted[predicted["candidate"] == candidate]
            for version in np.unique(arm["version"]):
                self._add(model, int(version), Role.PRIMARY, arm[arm["version"] == version])
        raw = predicted[(predicted["flags"] & HAS_RAW) != 0]
        if len(raw):
            self._log.add_raw(
                self._session, **{name: raw[name] for name in ("row", "time_ns", "asked_ns", "segment", "raw")}
            )
        # An earlier recorder may have logged rows that it did not release.
        new = predicted if self._last is None else predicted[predicted["row"] > self._last[0]]
        if len(new):
            runs = self._runs(new["row"], new["segment"])
            self._add_outcomes(self._join.push(new["row"], new["time_ns"], new["mid"], runs))

    def add_shadow(self, role: Role, model: str, shadow: ShadowAnswers) -> None:
        """Log a shadow version's answers."""
        horizons = shadow.entries["probabilities"].shape[1:]
        answers = np.full((len(shadow.predictions), *horizons), np.nan, np.float32)
        for answer, prediction in zip(answers, shadow.predictions, strict=True):
            if prediction.reason is None and prediction.probabilities is not None:
                answer[:] = prediction.probabilities
        versions = np.array([prediction.version or 0 for prediction in shadow.predictions])
        reasons = np.array([prediction.reason for prediction in shadow.predictions], object)
        latency = np.array([prediction.latency_ns for prediction in shadow.predictions])
        for version in np.unique(versions):
            of_version = versions == version
            self._log.add_predictions(
                self._session,
                model,
                int(version),
                role,
                **_columns(shadow.entries[of_version]),
                latency_ns=latency[of_version],
                rows=shadow.rows,
                probabilities=answers[of_version],
                reasons=[None if reason is None else str(reason) for reason in reasons[of_version]],
            )

    def add_probe(self, probe: Probe) -> None:
        """Log a pair of latencies."""
        first, second = (self._model, probe.active), (probe.model, probe.version)
        self._log.add_probe(self._session, probe.time_ns, first, probe.active_ns, second, probe.latency_ns)

    def add_drops(self, place: str, count: int) -> None:
        """Log rows lost in the ring or before a shadow version."""
        self._log.add_drops(self._session, clock.now_ns(), place, count)

    def finish(self) -> None:
        """Log what is still open as unknown: no row will follow."""
        self._add_outcomes(self._join.finish())

    def flush(self) -> None:
        """Make the log durable.

        Raises:
            PredictionLogError: the log is locked or the disk refuses.
        """
        self._log.flush()

    def _add(self, model: str, version: int, role: Role, entries: Entries) -> None:
        self._log.add_predictions(
            self._session,
            model,
            version,
            role,
            **_columns(entries),
            latency_ns=entries["latency_ns"],
            rows=1,
            probabilities=entries["probabilities"],
            reasons=[_REASONS[reason] for reason in entries["reason"]],
        )

    def _add_outcomes(self, outcomes: Outcomes) -> None:
        if len(outcomes.row):
            self._log.add_outcomes(self._session, outcomes.row, outcomes.labels, clock.now_ns())

    def _runs(self, row: npt.NDArray[np.int64], segment: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return int64 [N]: a new number after each gap in the feed and each hole in the entries.

        A mid at a horizon is that of the last row by then: across a hole no label is better than a wrong one.
        """
        last = self._last or (int(row[0]) - 1, int(segment[0]))
        breaks = (np.diff(row, prepend=last[0]) != 1) | (np.diff(segment, prepend=last[1]) != 0)
        runs: npt.NDArray[np.int64] = self._run + np.cumsum(breaks)
        self._last, self._run = (int(row[-1]), int(segment[-1])), int(runs[-1])
        return runs


def _columns(entries: Entries) -> dict[str, npt.NDArray[np.int64]]:
    return {name: entries[name] for name in ("row", "time_ns", "asked_ns", "segment", "mid")}


class RecorderLoop:
    """Moves one session from the ring to the log."""

    def __init__(
        self,
        reader: RingReader,
        sink: LogSink,
        shadows: Sequence[tuple[Role, str, ShadowThread]],
        *,
        flush_s: float,
        read_rows: int,
        backpressure: bool,
    ) -> None:
        self._reader = reader
        self._sink = sink
        self._shadows = shadows
        self._flush_s = flush_s
        self._read_rows = read_rows
        self._backpressure = backpressure
        self._flushed_s = time.monotonic()
        self._unreleased = 0
        if reader.resumed:
            sink.resume()

    def run(self, ended: Callable[[], bool], drain_s: float) -> None:
        """Run until `ended` and everything is logged.

        Shadows get `drain_s` after `ended`; remaining rows go into the log alone.
        """
        deadline_s: float | None = None
        while True:
            # Before the turn, which then sees all entries from before the end.
            if deadline_s is None and ended():
                deadline_s = time.monotonic() + drain_s
            busy = self.turn()
            if deadline_s is not None and (self._is_drained() or time.monotonic() > deadline_s):
                break
            if not busy:
                time.sleep(_IDLE_S)
        while self._read(self._read_rows, to_shadows=False):
            pass
        if self._reader.finished:
            self._sink.finish()
        self._flush(at_end=True)

    def turn(self) -> bool:
        """Process what is there, once; return whether there was anything."""
        waits = self._backpressure and any(shadow.above_high_water for _, _, shadow in self._shadows)
        count = self._read(0 if waits else self._read_rows, to_shadows=True)
        collected = self._collect()
        if (self._above_high_water() and count) or time.monotonic() - self._flushed_s > self._flush_s:
            try:
                self._flush()
            except PredictionLogError as error:
                # Entries stay in the ring until the log has them.
                console.print(f"{error}", markup=False)
                self._reader.count(Tally.FAULTS, 1)
                self._flushed_s = time.monotonic()
        return count > 0 or collected

    def _read(self, limit: int, *, to_shadows: bool) -> int:
        """Move at most `limit` entries to the log and, with `to_shadows`, to the shadows; return how many."""
        entries = self._reader.read(limit)
        if len(entries):
            self._sink.add_live(entries)
            self._unreleased += int((entries["row"] >= 0).sum())
        for role, _, shadow in self._shadows:
            if not to_shadows:
                self._note_drops(role.value, Tally[f"{role.name}_DROPPED"], len(entries))
                continue
            for start in range(0, len(entries), MAX_ROWS):
                shadow.offer(entries[start : start + MAX_ROWS])
        return len(entries)

    def _collect(self) -> bool:
        any_collected = False
        for role, model, shadow in self._shadows:
            answered, probes = shadow.collect()
            for answers in answered:
                self._sink.add_shadow(role, model, answers)
                self._reader.count(Tally[role.name], len(answers.predictions))
            for probe in probes:
                self._sink.add_probe(probe)
            self._reader.count(Tally.PROBES, len(probes))
            any_collected |= bool(answered)
        return any_collected

    def _flush(self, *, at_end: bool = False) -> None:
        """Make the log durable, then release entries that were read.

        Entries are kept until the shadows answered, if there is room: the next recorder resumes after the last released
        one, without logging rows twice.
        """
        # Before the collection: no answer is left behind.
        answered = all(shadow.idle for _, _, shadow in self._shadows)
        self._collect()
        self._note_drops("ring", Tally.DROPPED, self._reader.dropped - self._reader.tally(Tally.DROPPED))
        for role, _, shadow in self._shadows:
            self._note_drops(role.value, Tally[f"{role.name}_DROPPED"], shadow.take_dropped())
            self._reader.count(Tally.FAULTS, shadow.take_faults())
        self._sink.flush()
        self._flushed_s = time.monotonic()
        if answered or at_end or self._above_high_water():
            self._reader.release()
            self._reader.count(Tally.LOGGED, self._unreleased)
            self._unreleased = 0

    def _above_high_water(self) -> bool:
        return 2 * self._reader.unreleased > self._reader.capacity

    def _note_drops(self, place: str, tally: Tally, count: int) -> None:
        self._sink.add_drops(place, count)
        self._reader.count(tally, count)

    def _is_drained(self) -> bool:
        return self._reader.waiting == 0 and all(shadow.idle for _, _, shadow in self._shadows)


def start_shadows(config: RecorderConfig, params: Params, features: int) -> list[tuple[Role, str, ShadowThread]]:
    """Start the shadow threads of the candidate and of the fallback."""
    open_transport = transport_opener(Workspace(Path(config.root)), params, config.transport, config.url)

    def make(role: Role, model: str, choose: Callable[[list[int]], int | None]) -> ShadowReplica:
        return ShadowReplica(
            role,
            open_transport(),
            model,
            choose=choose,
            definitions_sha256=config.definitions_sha256,
            feature_count=features,
            # A chunk takes longer than a row, and no caller waits for it.
            params=structs.replace(params.client, deadline_s=params.mirror.deadline_s),
        )

    return [
        (
            role,
            model,
            ShadowThread(
                partial(make, role, model, choose),
                config.model,
                queue_rows=params.mirror.queue_rows,
                probe_s=params.mirror.probe_s,
            ),
        )
        for role, model, choose in (
            (Role.CANDIDATE, candidate_model(config.model), newest),
            (Role.FALLBACK, config.model, partial(second_newest, trained=partial(_was_trained_on, config))),
        )
    ]


def _was_trained_on(config: RecorderConfig, version: int) -> bool:
    """Whether a version was trained on the stream's instrument; True where unknown."""
    if config.url is not None:
        return True
    try:
        directory = Workspace(Path(config.root)).repository / config.model / str(version)
        return read_manifest(directory).was_trained_on(config.instrument)
    except ReleaseError:
        return True


def main(path: Path) -> None:
    """Record the session of a configuration file."""
    os.nice(_NICENESS)
    # A batch process does not preempt others on wake-up.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    config = msgspec.json.decode(path.read_bytes(), type=RecorderConfig)
    params = msgspec.convert(config.params, Params)
    reader = RingReader(Path(config.ring))
    stopped = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)

    def orphaned() -> bool:
        return os.getppid() != config.parent.pid

    with LogWriter.of(Workspace(Path(config.root)), config.model, params) as log:
        log.begin(config.session, Source(config.source), config.instrument, config.started_ns)
        loop = RecorderLoop(
            reader,
            LogSink(log, config.session, config.model, params.labels.horizons_ms),
            start_shadows(config, params, reader.features),
            flush_s=params.prediction_log.flush_s,
            read_rows=min(_READ_ROWS, params.mirror.queue_rows // 2),
            backpressure=config.backpressure,
        )
        loop.run(lambda: stopped or reader.finished or orphaned(), params.mirror.drain_s)
        if reader.finished or orphaned():
            ending = Ending.CLOSED if reader.finished and not reader.failed else Ending.CRASHED
            log.end(config.session, ending, str(config.parent), clock.now_ns())
    if orphaned():
        # The trading process cannot.
        Path(config.ring).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except LobsmithError as error:
        sys.exit(f"error: {error}")
