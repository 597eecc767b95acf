"""The recorder's process: it empties the ring into the prediction log and asks the mirrored versions.

Run as `python -m lobsmith.trading.recording CONFIG`. It ends on SIGTERM, and when the ring's writer has closed it or
died, but not before the ring is empty or `mirror.drain_s` has passed.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import structs

from lobsmith.errors import LobsmithError, PredictionLogError
from lobsmith.monitoring.prediction_log import LogWriter, Role, Source
from lobsmith.params import Params
from lobsmith.progress import console
from lobsmith.release.config import candidate_model
from lobsmith.release.contract import MAX_ROWS
from lobsmith.trading.channels import open_transport
from lobsmith.trading.client import newest, second_newest
from lobsmith.trading.log_sink import LogSink
from lobsmith.trading.mirror_thread import MirrorThread
from lobsmith.trading.recorder_config import RecorderConfig, Tally
from lobsmith.trading.ring import RingReader
from lobsmith.trading.shadow import Mirror
from lobsmith.workspace import Workspace

_READ_ROWS = 2048
_IDLE_S = 0.005
_NICENESS = 10
"""The recorder and the mirrors may have what the trading process leaves of a core."""


class Recording:
    """One session's way from the ring to the log."""

    def __init__(
        self,
        reader: RingReader,
        sink: LogSink,
        mirrors: Sequence[tuple[Role, str, MirrorThread]],
        *,
        flush_s: float,
        read_rows: int,
        patient: bool,
    ) -> None:
        self._reader = reader
        self._sink = sink
        self._mirrors = mirrors
        self._flush_s = flush_s
        self._read_rows = read_rows
        self._patient = patient
        self._flushed_s = time.monotonic()
        self._unreleased = 0
        if reader.resumed:
            sink.resume()

    def run(self, ended: Callable[[], bool], drain_s: float) -> None:
        """Go on until `ended` and everything has been written down.

        For `drain_s` after `ended` it waits for the mirrors; rows that are then left go into the log alone.
        """
        deadline_s: float | None = None
        while True:
            # Asked before the turn: the turn then sees all that was put in before the end.
            if deadline_s is None and ended():
                deadline_s = time.monotonic() + drain_s
            busy = self.turn()
            if deadline_s is not None and (self._done() or time.monotonic() > deadline_s):
                break
            if not busy:
                time.sleep(_IDLE_S)
        while self._read(self._read_rows, mirrored=False):
            pass
        if self._reader.finished:
            self._sink.finish()
        self._flush(at_end=True)

    def turn(self) -> bool:
        """Take what is there, once; return whether there was anything."""
        waits = self._patient and any(mirror.pressed for _, _, mirror in self._mirrors)
        count = self._read(0 if waits else self._read_rows, mirrored=True)
        collected = self._collect()
        if (self._pressed() and count) or time.monotonic() - self._flushed_s > self._flush_s:
            try:
                self._flush()
            except PredictionLogError as error:
                # Nothing is lost yet: what was read stays in the ring until the log has it.
                console.print(f"{error}", markup=False)
                self._reader.count(Tally.FAULTS, 1)
                self._flushed_s = time.monotonic()
        return count > 0 or collected

    def _read(self, limit: int, *, mirrored: bool) -> int:
        """Take at most `limit` records from the ring to the log and, where wanted, the mirrors; return how many."""
        records = self._reader.read(limit)
        if len(records):
            self._sink.live(records)
            self._unreleased += int((records["row"] >= 0).sum())
        for role, _, mirror in self._mirrors:
            if not mirrored:
                self._note_drops(role.value, Tally[f"{role.name}_DROPPED"], len(records))
                continue
            for start in range(0, len(records), MAX_ROWS):
                mirror.offer(records[start : start + MAX_ROWS])
        return len(records)

    def _collect(self) -> bool:
        any_collected = False
        for role, model, mirror in self._mirrors:
            answered, probes = mirror.collect()
            for one in answered:
                self._sink.mirrored(role, model, one)
                self._reader.count(Tally[role.name], len(one.predictions))
            for probe in probes:
                self._sink.probed(probe)
            self._reader.count(Tally.PROBES, len(probes))
            any_collected |= bool(answered)
        return any_collected

    def _flush(self, *, at_end: bool = False) -> None:
        """Make durable what there is, and then let the writer have the places of what was read.

        A recorder that is killed leaves to the next one what it has not released, and what has been written is not
        written twice. So rows are kept until the mirrors have answered them, as long as there is room.
        """
        # Asked before they are collected: then no answer is left behind.
        answered = all(mirror.idle for _, _, mirror in self._mirrors)
        self._collect()
        self._note_drops("ring", Tally.DROPPED, self._reader.dropped - self._reader.tally(Tally.DROPPED))
        for role, _, mirror in self._mirrors:
            self._note_drops(role.value, Tally[f"{role.name}_DROPPED"], mirror.take_dropped())
            self._reader.count(Tally.FAULTS, mirror.take_faults())
        self._sink.flush()
        self._flushed_s = time.monotonic()
        if answered or at_end or self._pressed():
            self._reader.release()
            self._reader.count(Tally.LOGGED, self._unreleased)
            self._unreleased = 0

    def _pressed(self) -> bool:
        return 2 * self._reader.unreleased > self._reader.capacity

    def _note_drops(self, place: str, tally: Tally, count: int) -> None:
        self._sink.dropped(place, count)
        self._reader.count(tally, count)

    def _done(self) -> bool:
        return self._reader.waiting == 0 and all(mirror.idle for _, _, mirror in self._mirrors)


def mirrors(config: RecorderConfig, params: Params, features: int) -> list[tuple[Role, str, MirrorThread]]:
    """Start the mirrors of the candidate and of the version to go back to."""
    workspace = Workspace(Path(config.root))

    def make(role: Role, model: str, choose: Callable[[list[int]], int | None]) -> Mirror:
        return Mirror(
            role,
            open_transport(workspace, params, config.transport, config.url),
            model,
            choose=choose,
            definitions_sha256=config.definitions_sha256,
            feature_count=features,
            # A chunk of what has piled up takes longer than a row, and nobody waits for it.
            params=structs.replace(params.client, deadline_s=params.mirror.deadline_s),
        )

    return [
        (
            role,
            model,
            MirrorThread(
                partial(make, role, model, choose),
                config.model,
                queue_rows=params.mirror.queue_rows,
                probe_s=params.mirror.probe_s,
            ),
        )
        for role, model, choose in (
            (Role.CANDIDATE, candidate_model(config.model), newest),
            (Role.FALLBACK, config.model, second_newest),
        )
    ]


def main(path: Path) -> None:
    """Record the session that a configuration describes."""
    os.nice(_NICENESS)
    # A batch process does not interrupt another one when it wakes up.
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
        recording = Recording(
            reader,
            LogSink(log, config.session, config.model, params.labels.horizons_ms),
            mirrors(config, params, reader.features),
            flush_s=params.prediction_log.flush_s,
            read_rows=min(_READ_ROWS, params.mirror.queue_rows // 2),
            patient=config.patient,
        )
        recording.run(lambda: stopped or reader.finished or orphaned(), params.mirror.drain_s)
    if orphaned():
        # Nobody else is left to do so.
        Path(config.ring).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except LobsmithError as error:
        sys.exit(f"error: {error}")
