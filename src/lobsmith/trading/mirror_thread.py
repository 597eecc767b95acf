"""Mirrors in threads of their own: one that hangs keeps nobody waiting."""

import random
import time
import traceback
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread

import numpy as np

from lobsmith.progress import console
from lobsmith.trading.ring import PRIME
from lobsmith.trading.shadow import Mirror, Mirrored, Probe, Records

_WAIT_S = 0.05


class MirrorThread:
    """Asks a mirror about the records it is offered, in order, and keeps the answers until they are collected.

    Records wait in a queue; those that find it full are dropped, and the mirror finds a hole in their sequence.
    """

    def __init__(self, make: Callable[[], Mirror], active_model: str, *, queue_rows: int, probe_s: float) -> None:
        """Start the thread.

        Args:
            make: makes the mirror and its transport, in the thread that will use them.
            active_model: the model that has the active version, for probes.
            queue_rows: records that may wait.
            probe_s: seconds between two probes.
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
        """The version that is asked, None while there is none."""
        return self._version

    def take_dropped(self) -> int:
        """Return how many records found the queue full since the last call."""
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        return dropped

    def take_faults(self) -> int:
        """Return how many errors the mirror did not expect since the last call; it started anew after each."""
        with self._changed:
            faults, self._faults = self._faults, 0
        return faults

    @property
    def pressed(self) -> bool:
        """Whether the queue is half full: who can wait with the next records should."""
        return 2 * self._waiting > self._queue_rows

    @property
    def idle(self) -> bool:
        """Whether all records that were offered have been answered or dropped."""
        with self._changed:
            return not self._queue and not self._busy

    def offer(self, records: Records) -> None:
        """Hand over the next records, best as many as one request carries."""
        with self._changed:
            if self._waiting + len(records) > self._queue_rows:
                self._dropped += len(records)
                return
            self._queue.append(records)
            self._waiting += len(records)
            self._changed.notify()

    def collect(self) -> tuple[list[Mirrored], list[Probe]]:
        """Return the answers and probes since the last call."""
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
            except Exception:  # noqa: BLE001 - whatever it is, the log of the primary must go on
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
        """Return the next records; wait a little where there are none."""
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
        """Probe with the newest row that the active version was asked about."""
        asked = records[(records["candidate"] == 0) & (records["version"] > 0) & ((records["flags"] & PRIME) == 0)]
        if not len(asked):
            return None
        newest = asked[-1]
        swap = random.random() < 0.5  # noqa: S311 - which of the two goes first is no secret
        return mirror.probe(self._active_model, int(newest["version"]), newest["features"], swap=swap)
