"""A trading client's health check, in its own thread: no row waits for it."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from lobsmith import clock
from lobsmith.monitoring.mode.hit_rates import ActTable
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.params import Params
from lobsmith.progress import console
from lobsmith.trading.guard.drift_score import RawBlock, ScoreWatch
from lobsmith.trading.guard.effective_mode import Abstain, EffectiveMode, effective_mode
from lobsmith.trading.guard.monitor_mode import ModeSource, ModeWatch
from lobsmith.trading.transport.base import Transport
from lobsmith.units import NS_PER_S

Float32 = NDArray[np.float32]

_JOIN_S = 5.0
_TRIES = 3
"""Health checks that `throttle` waits for: one may have begun earlier, one may fail."""


@dataclass(frozen=True)
class HealthCheck:
    """The result of a health check.

    Attributes:
        act_table: confidences that are actionable in conservative mode.
        tried_at: rows at the last request of a score, None before the first.
        ended_ns: by the guard's clock.
    """

    effective: EffectiveMode
    act_table: ActTable
    version: int | None
    block: RawBlock
    tried_at: int | None
    ended_ns: int


@dataclass
class GuardCounts:
    """Health checks, scored blocks, failed scores, unexpected errors, thread restarts."""

    checks: int = 0
    scored_blocks: int = 0
    score_failures: int = 0
    faults: int = 0
    restarts: int = 0


class Guard:
    """Reads the mode and scores the stream's last rows, every `client.poll_s`.

    The trading thread only appends rows and reads the last result. Without a result of this version and segment, or
    where it is overdue or failed, the mode is conservative with NO_SIGNAL, or stays paused.
    """

    def __init__(
        self,
        model: str,
        feature_count: int,
        params: Params,
        modes: ModeSource,
        open_transport: Callable[[], Transport],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = clock.now_ns,
    ) -> None:
        """Start the thread.

        Args:
            model: the production model.
            feature_count: F.
            params: that the model was trained with.
            modes: source of the monitor's mode.
            open_transport: called in the guard's thread.
            clock: monotonic, ns.
            wall: UTC, ns.
        """
        self._params = params
        self._shape = (feature_count, params.reference.block_rows, params.drift.every_ms, params.guard.shortest)
        self._open_transport = open_transport
        self._clock = clock
        self._modes = ModeWatch(modes, params.modes.stale_s, clock=clock, wall=wall)
        self._scores = ScoreWatch(model, params.guard, params.client.deadline_s)
        self._overdue_ns = int((params.client.poll_s + params.guard.silent_s) * NS_PER_S)
        self._no_act_table = ActTable.of(None, 0, params.labels.horizons_ms, params.modes)
        self._counts = GuardCounts()
        self._version: int | None = None
        self._block = RawBlock(*self._shape)
        self._last_check: HealthCheck | None = None
        self._fault: str | None = "no health check has ended yet"
        self._wake, self._ended, self._closing = Event(), Event(), Event()
        self._start()

    @property
    def counts(self) -> GuardCounts:
        """Counts so far."""
        self._counts.scored_blocks, self._counts.score_failures = self._scores.scored_blocks, self._scores.failures
        return self._counts

    def observe(self, raw: Float32, time_ns: int, version: int | None) -> bool:
        """Take the next row of the stream.

        Args:
            raw: float32 [F], natural units.
            time_ns: local receive time, UTC.
            version: in use, None where unknown.

        Returns:
            Whether the row is finite; others are not scored.

        Raises:
            RequestError: wrong shape or type.
        """
        if version is not None and version != self._version:
            self._version = version
            self._wake.set()
        return self._block.append(raw, time_ns)

    def reset(self) -> None:
        """Forget the stream's rows after a gap in the feed."""
        self._block = RawBlock(*self._shape)
        self._wake.set()

    @property
    def state(self) -> tuple[EffectiveMode, ActTable]:
        """The effective mode, and the confidences actionable while conservative."""
        check = self._last_check
        if check is None or self._fault is not None:
            return self._no_signal(self._fault or "no health check has ended yet")
        if self._clock() - check.ended_ns > self._overdue_ns:
            return self._no_signal("the health check is overdue")
        if check.version != self._version or check.block is not self._block:
            return self._no_signal("version or stream changed since the last health check")
        return check.effective, check.act_table

    def throttle(self, patience_s: float = 5.0) -> None:
        """Wait until all rows so far are scored: backpressure for replays."""
        for _ in range(_TRIES):
            if not self._is_due() or not self._thread.is_alive():
                return
            self._ended.clear()
            self._wake.set()
            self._ended.wait(patience_s)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_JOIN_S)

    def _is_due(self) -> bool:
        check, count = self._last_check, self._block.count
        if check is None or check.version != self._version or check.block is not self._block:
            return True
        if self._version is None or count < self._params.guard.shortest:
            return False
        return check.tried_at is None or count - check.tried_at >= self._params.guard.every_rows

    def _start(self) -> None:
        self._thread = Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    def _no_signal(self, detail: str) -> tuple[EffectiveMode, ActTable]:
        """Return NO_SIGNAL, or paused where it was; restart an ended thread."""
        if not self._thread.is_alive() and not self._closing.is_set():
            self._counts.restarts += 1
            self._start()
        if self._last_check is not None and self._last_check.effective.mode is Mode.PAUSED:
            return self._last_check.effective, self._no_act_table
        return EffectiveMode(Mode.CONSERVATIVE, Abstain.NO_SIGNAL, detail), self._no_act_table

    def _run(self) -> None:
        transport: Transport | None = None
        try:
            while not self._closing.is_set():
                try:
                    transport = transport or self._open_transport()
                    self._last_check = self._check(transport)
                    self._fault = None
                    self._counts.checks += 1
                except Exception as error:  # noqa: BLE001 - the check failed, whatever the error
                    self._report(error)
                    if transport is not None:
                        transport.close()
                    transport = None
                self._ended.set()
                self._wake.wait(self._params.client.poll_s)
                self._wake.clear()
        finally:
            # A result is void once its thread has ended.
            self._fault = self._fault or "the thread of the health check has ended"
            if transport is not None:
                transport.close()

    def _check(self, transport: Transport) -> HealthCheck:
        version, block = self._version, self._block
        monitor = self._modes.read(version)
        local = self._scores.measure(transport, version, block)
        params = self._params
        return HealthCheck(
            effective=effective_mode(monitor, local),
            act_table=ActTable.of(monitor.hit_rates, version or 0, params.labels.horizons_ms, params.modes),
            version=version,
            block=block,
            tried_at=self._scores.tried_at,
            ended_ns=self._clock(),
        )

    def _report(self, error: Exception) -> None:
        self._counts.faults += 1
        fault = f"the health check failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        # The same error repeats with every check.
        if fault != self._fault:
            console.print(f"{fault}\n{traceback.format_exc()}", markup=False)
        self._fault = fault
