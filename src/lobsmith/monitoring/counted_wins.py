"""Win rates of the answers that the prediction log keeps."""

from functools import reduce

from lobsmith.monitoring.judged import LIVE, Sources, sessions_by_instrument
from lobsmith.monitoring.log_reader import PredictionLog, answers, newest_ns, newest_sessions
from lobsmith.monitoring.prediction_log import Role, log_path
from lobsmith.monitoring.win_rates import WinRates, win_rates
from lobsmith.params import ModeParams
from lobsmith.workspace import Workspace


def count_wins(
    workspace: Workspace, params: ModeParams, model: str, version: int, sources: Sources = LIVE
) -> WinRates | None:
    """Count what a version answered as the one that serves; None where it was asked about no row.

    The newest sessions of each instrument count that have `win_rows` rows together, and of a longer one its newest so
    many: a client that is started anew each hour has as many as one that goes on. They are read one instrument after
    the other, so that memory holds those of one.

    Args:
        workspace: where the log lies.
        params: `buckets` and `win_rows` are used.
        model: the production model.
        version: whose answers.
        sources: which sessions count.

    Raises:
        PredictionLogError: the log cannot be read.
    """
    if not log_path(workspace, model).exists():
        return None
    found = []
    with PredictionLog.of(workspace, model) as log:
        for every in sessions_by_instrument(log, sources).values():
            names = newest_sessions(log, model, version, Role.PRIMARY, every, params.win_rows)
            since_ns = newest_ns(log, model, version, Role.PRIMARY, names, params.win_rows)
            given = answers(log, model, version, since_ns=since_ns, sessions=names, role=Role.PRIMARY)
            if len(given.time_ns):
                found.append(win_rates(given, params.buckets))
    return reduce(WinRates.plus, found) if found else None
