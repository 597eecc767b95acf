"""What a live session has captured, and what the prediction log knows of it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lobsmith.features.dataset import build_dataset
from lobsmith.market.readers import read_captures
from lobsmith.monitoring.log.reader import PredictionLog
from lobsmith.params import Params
from lobsmith.workspace import Workspace


class Row(NamedTuple):
    """A logged row: its time, the reason why it has no answer, and when its outcome was known; ns."""

    time_ns: int
    reason: str | None
    known_ns: int | None


def rows_of(paths: list[Path], params: Params) -> np.ndarray:
    """Return the times of the complete rows that captured files give."""
    rows = build_dataset(read_captures(paths), params).rows
    return rows.time[rows.complete]


def logged(workspace: Workspace, model: str) -> list[list[Row]]:
    """Return the rows of each session, the oldest first; all of them are of live sessions of the simulated market."""
    found = []
    with PredictionLog.of(workspace, model) as log, log.connection.cursor() as cursor:
        for one in sorted(log.sessions(), key=lambda one: one["started_ns"]):
            assert (one["source"], one["instrument"]) == ("live", "simulator:SIM")
            # A column that begins with thousands of NULLs would count as one of numbers.
            cursor.execute(
                "SELECT time_ns, coalesce(reason, ''), known_ns FROM logged "
                "WHERE session = ? AND role = 'primary' ORDER BY row",
                (one["session"],),
            )
            found.append([Row(at, reason or None, known) for at, reason, known in cursor.fetchall()])
    return found
