"""Rows that a live session has captured, and its rows in the prediction log."""

from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lobsmith.features.dataset import build_dataset
from lobsmith.market.readers import read_captures
from lobsmith.monitoring.log.reader import PredictionLog
from lobsmith.params import Params
from lobsmith.workspace import Workspace


class Row(NamedTuple):
    """A logged row: its time, the reason of a missing answer, and the time of its outcome; ns."""

    time_ns: int
    reason: str | None
    known_ns: int | None


def rows_of(paths: list[Path], params: Params) -> np.ndarray:
    """Return the times of the complete rows of captured files."""
    rows = build_dataset(read_captures(paths), params).rows
    return rows.time[rows.complete]


def logged(workspace: Workspace, model: str) -> list[list[Row]]:
    """Return the rows of each session, oldest first; all must be live sessions of the simulated market."""
    sessions = []
    with PredictionLog.of(workspace, model) as log, log.connection.cursor() as cursor:
        for session in sorted(log.sessions(), key=itemgetter("started_ns")):
            assert (session["source"], session["instrument"]) == ("live", "simulator:SIM")
            # A column that begins with thousands of NULLs would be taken for numbers.
            cursor.execute(
                "SELECT time_ns, coalesce(reason, ''), known_ns FROM logged "
                "WHERE session = ? AND role = 'primary' ORDER BY row",
                (session["session"],),
            )
            sessions.append([Row(at, reason or None, known) for at, reason, known in cursor.fetchall()])
    return sessions
