"""The trading process's side of the recorder: fills the ring and supervises the process that logs it."""

import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith import clock
from lobsmith.features.definitions import COUNT, definitions_sha256
from lobsmith.files import write_atomic
from lobsmith.monitoring.log.sessions import sessions_folder
from lobsmith.params import Params, as_table
from lobsmith.process import Process
from lobsmith.release.version.names import candidate_model, plans_model
from lobsmith.trading.client.stream import Prediction, Reason
from lobsmith.trading.recorder.protocol import RecorderConfig, Tally
from lobsmith.trading.recorder.ring import PRIME, RESET, RingWriter
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from lobsmith.monitoring.log.writer import Source

Float32 = npt.NDArray[np.float32]

_MODULE = f"{__package__}.process"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the file's name is random, and no other user may open it
_REASONS = {reason: number for number, reason in enumerate(Reason, start=1)}
_THROTTLE_S = 0.005
_FIRST_RESTART_S, _LONGEST_RESTART_S = 0.1, 10.0
_LATE_FAILURES = 3
"""Failures after closing, before the recorder is given up."""
_EXIT_S = 20.0
"""Beyond `mirror.drain_s`, for start and last flush; then the recorder is killed."""


class RecorderSummary(Struct, frozen=True, kw_only=True):
    """Outcome of a session's rows.

    Attributes:
        session: its name in the prediction log.
        log: where recorders print errors.
        rows: predicted while the recorder ran.
        dropped: rows that found the ring full.
        logged: rows in the log.
        candidate: of these, rows put to a candidate.
        candidate_dropped: rows it missed because too many waited.
        fallback: rows put to the fallback.
        fallback_dropped: rows it missed.
        probes: pairs of compared latencies.
        restarts: of the recorder.
        faults: unexpected errors of recorder and shadows.
    """

    session: str
    log: str
    rows: int
    dropped: int
    logged: int
    candidate: int
    candidate_dropped: int
    fallback: int
    fallback_dropped: int
    probes: int
    restarts: int
    faults: int


class Recorder:
    """Records one stream's rows and predictions, and keeps the recorder's process running.

    No method raises and `record` never waits: errors are counted. Not thread-safe.
    """

    def __init__(
        self,
        workspace: Workspace,
        params: Params,
        *,
        model: str,
        instrument: str,
        source: "Source",
        transport: str,
        url: str | None = None,
        backpressure: bool = False,
        clock: Callable[[], int] = clock.now_ns,
    ) -> None:
        """Start the recorder.

        Args:
            workspace: of the prediction logs.
            params: of features, labels, client and recorder.
            model: the production model.
            instrument: `venue:symbol`.
            source: of the rows.
            transport: to the shadow versions: grpc, http or inprocess.
            url: HOST:PORT of a server outside the workspace.
            backpressure: for replays: rows wait for the shadow versions, see `throttle`.
            clock: UTC, ns.
        """
        self._clock = clock
        self._drain_s = params.mirror.drain_s
        candidate = candidate_model(model)
        self._candidates = (candidate, plans_model(candidate))
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(clock() // NS_PER_S))
        self.session = f"{stamp}-{secrets.token_hex(4)}"
        self._folder = sessions_folder(workspace)
        self._rows = self._faults = self._restarts = self._unrecorded = 0
        self._flags = RESET
        self._closing, self._abandoned = Event(), Event()
        self._stuck_at: int | None = None
        self._ring = self._make_ring(params)
        self._child: subprocess.Popen[bytes] | None = None
        self._watch = Thread(target=self._keep_alive, daemon=True)
        if self._ring is None:
            return
        config = RecorderConfig(
            ring=str(self._ring.path),
            root=str(workspace.root.absolute()),
            session=self.session,
            source=source.value,
            instrument=instrument,
            started_ns=clock(),
            model=model,
            params=as_table(params),
            definitions_sha256=definitions_sha256(params.features, params.labels),
            transport=transport,
            url=url,
            parent=Process.this(),
            backpressure=backpressure,
        )
        self._adopted = self._adopt()
        try:
            write_atomic(self._config, msgspec.json.encode(config), mode=0o600)
        except OSError:
            # Rows fill the ring and then count as dropped.
            self._faults += 1
            return
        self._watch.start()

    @property
    def pid(self) -> int | None:
        """Of the recorder's process, None before its start."""
        return None if self._child is None else self._child.pid

    @property
    def _config(self) -> Path:
        return self._folder / f"{self.session}.json"

    @property
    def _log(self) -> Path:
        """Output of all recorders."""
        return self._folder / "recorder.log"

    @property
    def rows(self) -> int:
        """Rows so far, dropped ones included."""
        return self._rows

    @property
    def dropped(self) -> int:
        """Rows so far that found the ring full, or no ring."""
        return self._unrecorded + (0 if self._ring is None else self._ring.dropped)

    @property
    def waiting(self) -> int:
        """Rows not in the log yet."""
        return 0 if self._ring is None else self._ring.waiting

    def reset(self) -> None:
        """Mark the next row as the stream's first: call it with each reset of the client."""
        self._flags = RESET

    def prime(self, time_ns: int, segment: int, mid: int, row: Float32) -> None:
        """Take a row, float32 [F], that only primes."""
        self._put(-1, time_ns, segment, mid, row, None)

    def record(
        self,
        time_ns: int,
        segment: int,
        mid: int,
        row: Float32,
        prediction: Prediction,
        raw: Float32 | None = None,
    ) -> None:
        """Take a row and its prediction.

        Args:
            time_ns: local receive time, UTC.
            segment: number of the gap-free segment.
            mid: twice the mid, ticks.
            row: float32 [F].
            prediction: the answer, or the reason why there is none.
            raw: float32 [F], natural units; the first of each `drift.every_ms` is kept, as by
                `lobsmith.drift.reference.thinned`.
        """
        self._put(self._rows, time_ns, segment, mid, row, prediction, raw)
        self._rows += 1

    def throttle(self, longest_s: float = 1.0) -> None:
        """Wait until the ring is less than half full: backpressure for replays, given up after `longest_s` without
        progress.
        """
        ring = self._ring
        if ring is None or 2 * ring.waiting <= ring.capacity:
            return
        released, since = ring.released, time.monotonic()
        while released != self._stuck_at and 2 * ring.waiting > ring.capacity:
            if ring.released != released:
                released, since = ring.released, time.monotonic()
            elif time.monotonic() - since > longest_s:
                self._stuck_at = released
            time.sleep(_THROTTLE_S)

    def close(self, *, failed: bool = False) -> RecorderSummary:
        """End the session; wait until all is logged, for little more than `mirror.drain_s`.

        Args:
            failed: the session counts as crashed.
        """
        self._closing.set()
        if self._ring is not None:
            self._ring.close(failed=failed)
            if self._watch.is_alive():
                self._watch.join(self._drain_s + _EXIT_S)
            if self._watch.is_alive():
                self._faults += 1
                self._abandoned.set()
                self._kill_child()
                self._watch.join()
            self._remove_files()
        return self._recorded()

    def _put(
        self,
        number: int,
        time_ns: int,
        segment: int,
        mid: int,
        row: Float32,
        prediction: Prediction | None,
        raw: Float32 | None = None,
    ) -> None:
        if self._ring is None:
            self._unrecorded += 1
            return
        try:
            if prediction is None:
                put = self._ring.put(
                    number, time_ns, self._clock(), segment, mid, 0, 0, 0, 0, self._flags | PRIME, row, np.nan, np.nan
                )
            else:
                put = self._ring.put(
                    number,
                    time_ns,
                    self._clock() - prediction.latency_ns,
                    segment,
                    mid,
                    prediction.version or 0,
                    prediction.latency_ns,
                    prediction.model in self._candidates,
                    0 if prediction.reason is None else _REASONS[prediction.reason],
                    self._flags,
                    row,
                    np.nan if prediction.probabilities is None else prediction.probabilities,
                    np.nan if prediction.outlook is None else prediction.outlook,
                    raw,
                )
            if put:
                self._flags = 0
        except Exception:  # noqa: BLE001 - trading continues
            self._faults += 1

    def _make_ring(self, params: Params) -> RingWriter | None:
        """Make the ring in memory, beside the log where there is no room, or not at all."""
        name = f"lobsmith-{self.session}.ring"
        for folder in (SHARED_MEMORY, self._folder):
            with suppress(OSError):
                if folder is self._folder:
                    folder.mkdir(parents=True, exist_ok=True)
                return RingWriter(
                    folder / name,
                    params.mirror.ring_rows,
                    COUNT,
                    len(params.labels.horizons_ms),
                    raw_every_ms=params.drift.every_ms,
                )
        self._faults += 1
        return None

    def _recorded(self) -> RecorderSummary:
        tally = self._ring.tally if self._ring is not None else lambda _place: 0
        return RecorderSummary(
            session=self.session,
            log=str(self._log),
            rows=self._rows,
            dropped=self.dropped,
            logged=tally(Tally.LOGGED),
            candidate=tally(Tally.CANDIDATE),
            candidate_dropped=tally(Tally.CANDIDATE_DROPPED),
            fallback=tally(Tally.FALLBACK),
            fallback_dropped=tally(Tally.FALLBACK_DROPPED),
            probes=tally(Tally.PROBES),
            restarts=self._restarts,
            faults=self._faults + tally(Tally.FAULTS),
        )

    def _adopt(self) -> list[subprocess.Popen[bytes]]:
        """Start recorders for rings whose trading process and recorder were both killed."""
        adopted = []
        for path in self._folder.glob("*.json"):
            try:
                left = msgspec.json.decode(path.read_bytes(), type=RecorderConfig)
                if not left.parent.is_dead():
                    continue
                if Path(left.ring).exists():
                    # If a recorder still runs, this one finds the ring locked and exits.
                    adopted.append(self._start(path))
                else:
                    path.unlink()
            except (OSError, msgspec.MsgspecError):
                self._faults += 1
        return adopted

    def _remove_files(self) -> None:
        paths = [self._config] if self._ring is None else [self._config, self._ring.path]
        for path in paths:
            with suppress(OSError):
                path.unlink()

    def _keep_alive(self) -> None:
        """Run the recorder until its work is done; restart it after failures."""
        pause_s, late_failures = _FIRST_RESTART_S, 0
        while not self._abandoned.is_set():
            started_s = time.monotonic()
            code = self._run_child()
            finished = self._closing.is_set() and code == 0 and (self._ring is None or self._ring.waiting == 0)
            if finished or self._abandoned.is_set():
                return
            self._restarts += 1
            late_failures += self._closing.is_set()
            if late_failures == _LATE_FAILURES:
                return
            pause_s = _FIRST_RESTART_S if time.monotonic() - started_s > _LONGEST_RESTART_S else pause_s
            (self._abandoned if self._closing.is_set() else self._closing).wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_RESTART_S)

    def _run_child(self) -> int:
        try:
            self._child = self._start(self._config)
        except OSError:
            self._faults += 1
            return 1
        if self._abandoned.is_set():
            self._kill_child()
        return self._child.wait()

    def _start(self, config: Path) -> subprocess.Popen[bytes]:
        # -P: a local file must not shadow a package.
        command = [sys.executable, "-P", "-m", _MODULE, str(config)]
        with self._log.open("ab") as log:
            # A process group of its own: an interrupt at the terminal must not reach it.
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _kill_child(self) -> None:
        if self._child is not None:
            self._child.kill()
