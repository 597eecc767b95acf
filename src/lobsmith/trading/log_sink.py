"""From records and mirrored answers to the prediction log, and from the mid to outcomes."""

import time

import numpy as np
import numpy.typing as npt

from lobsmith.monitoring.log_reader import PredictionLog
from lobsmith.monitoring.outcomes import OutcomeJoin, Outcomes
from lobsmith.monitoring.prediction_log import LogWriter, Role
from lobsmith.release.config import candidate_model
from lobsmith.trading.client import Reason
from lobsmith.trading.ring import HAS_RAW
from lobsmith.trading.shadow import Mirrored, Probe, Records

_OPEN_ROWS = """SELECT row, time_ns, mid, segment FROM logged
    WHERE session = ? AND role = 'primary' AND known_ns IS NULL ORDER BY row"""
_LAST_ROW = "SELECT row, segment FROM logged WHERE session = ? AND role = 'primary' ORDER BY row DESC LIMIT 1"
_REASONS = (None, *(reason.value for reason in Reason))


class LogSink:
    """Writes one session to the prediction log of its model.

    Args:
        log: the log, in which the session was announced.
        session: its name.
        model: the production model.
        horizons_ms: the H horizons.
    """

    def __init__(self, log: LogWriter, session: str, model: str, horizons_ms: tuple[int, ...]) -> None:
        self._log = log
        self._session = session
        self._model = model
        self._join = OutcomeJoin(horizons_ms)
        self._last: tuple[int, int] | None = None
        self._run = 0

    def resume(self) -> None:
        """Take up the rows whose outcome an earlier recorder of this session has left open.

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
            self._settle(self._join.push(row, time_ns, mid, self._runs(row, segment)))
        if last is not None:
            self._last = (int(last[0]), int(last[1]))

    def live(self, records: Records) -> None:
        """Take records of the ring, oldest first: predictions, raw rows and, as far as they settle any, outcomes."""
        asked = records[records["row"] >= 0]
        if not len(asked):
            return
        for candidate, model in enumerate((self._model, candidate_model(self._model))):
            arm = asked[asked["candidate"] == candidate]
            for version in np.unique(arm["version"]):
                self._add(model, int(version), Role.PRIMARY, arm[arm["version"] == version])
        raw = asked[(asked["flags"] & HAS_RAW) != 0]
        if len(raw):
            self._log.add_raw(
                self._session, **{name: raw[name] for name in ("row", "time_ns", "asked_ns", "segment", "raw")}
            )
        # An earlier recorder has written down rows that it had not released.
        new = asked if self._last is None else asked[asked["row"] > self._last[0]]
        if len(new):
            runs = self._runs(new["row"], new["segment"])
            self._settle(self._join.push(new["row"], new["time_ns"], new["mid"], runs))

    def mirrored(self, role: Role, model: str, mirrored: Mirrored) -> None:
        """Take the answers of a mirrored version."""
        horizons = mirrored.records["probabilities"].shape[1:]
        answers = np.full((len(mirrored.predictions), *horizons), np.nan, np.float32)
        for answer, prediction in zip(answers, mirrored.predictions, strict=True):
            if prediction.reason is None and prediction.probabilities is not None:
                answer[:] = prediction.probabilities
        versions = np.array([prediction.version or 0 for prediction in mirrored.predictions])
        reasons = np.array([prediction.reason for prediction in mirrored.predictions], object)
        latency = np.array([prediction.latency_ns for prediction in mirrored.predictions])
        for version in np.unique(versions):
            here = versions == version
            self._log.add_predictions(
                self._session,
                model,
                int(version),
                role,
                **_columns(mirrored.records[here]),
                latency_ns=latency[here],
                rows=mirrored.rows,
                probabilities=answers[here],
                reasons=[None if reason is None else str(reason) for reason in reasons[here]],
            )

    def probed(self, probe: Probe) -> None:
        """Take a pair of latencies."""
        first, second = (self._model, probe.active), (probe.model, probe.version)
        self._log.add_probe(self._session, probe.time_ns, first, probe.active_ns, second, probe.latency_ns)

    def dropped(self, place: str, count: int) -> None:
        """Note that rows were lost, in the ring or on their way to a mirrored version."""
        self._log.add_drops(self._session, time.time_ns(), place, count)

    def finish(self) -> None:
        """Take it that no row will follow: what is still open will never be known."""
        self._settle(self._join.finish())

    def flush(self) -> None:
        """Make all of it durable.

        Raises:
            PredictionLogError: the log is locked or the disk refuses.
        """
        self._log.flush()

    def _add(self, model: str, version: int, role: Role, records: Records) -> None:
        self._log.add_predictions(
            self._session,
            model,
            version,
            role,
            **_columns(records),
            latency_ns=records["latency_ns"],
            rows=1,
            probabilities=records["probabilities"],
            reasons=[_REASONS[reason] for reason in records["reason"]],
        )

    def _settle(self, outcomes: Outcomes) -> None:
        if len(outcomes.row):
            self._log.add_outcomes(self._session, outcomes.row, outcomes.labels, time.time_ns())

    def _runs(self, row: npt.NDArray[np.int64], segment: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return int64 [N], another number after each gap in the feed and each hole in the records.

        The mid at a horizon is that of the last row by then: where that row may be one that was dropped, no label is
        better than a wrong one.
        """
        last = self._last or (int(row[0]) - 1, int(segment[0]))
        breaks = (np.diff(row, prepend=last[0]) != 1) | (np.diff(segment, prepend=last[1]) != 0)
        runs: npt.NDArray[np.int64] = self._run + np.cumsum(breaks)
        self._last, self._run = (int(row[-1]), int(segment[-1])), int(runs[-1])
        return runs


def _columns(records: Records) -> dict[str, npt.NDArray[np.int64]]:
    """Return what a prediction has from its row; a mirrored one counts as asked when the live one was."""
    return {name: records[name] for name in ("row", "time_ns", "asked_ns", "segment", "mid")}
