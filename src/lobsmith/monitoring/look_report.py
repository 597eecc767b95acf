"""The reports of a look: what was looked at, and what alerts and the mode's journal say was done."""

from lobsmith.errors import LobsmithError
from lobsmith.monitoring import alerts
from lobsmith.monitoring.drift_evidently import Side
from lobsmith.monitoring.drift_page import Happening, ModeChange
from lobsmith.monitoring.drift_report import Reported, write_report
from lobsmith.monitoring.look import Looked
from lobsmith.monitoring.mode_store import changes, read_mode
from lobsmith.params import Params
from lobsmith.progress import console
from lobsmith.workspace import Workspace


def report_look(workspace: Workspace, params: Params, looked: Looked) -> Reported:
    """Write the reports of a look.

    What was done about earlier ones is left out where it cannot be read: the look has to get into the history all the
    same, since later ones are compared with it.

    Raises:
        DataError: a file cannot be written.
    """
    look, lived = looked.look, looked.lived
    try:
        changed, happened = changes(workspace, look.model), happenings(workspace, look.model)
    except LobsmithError as error:
        console.print(f"the page of the look does not say what was done: {error}", markup=False)
        changed, happened = [], []
    return write_report(
        workspace,
        params,
        look,
        Side(rows=looked.reference, answers=lived.answers_before),
        Side(rows=lived.recent, answers=lived.answers_now),
        answers=[one for one in (lived.answers_before,) if one is not None],
        changes=[
            ModeChange(time_ns=one.time_ns, before=one.mode_from, after=one.mode_to, reason=one.reason)
            for one in changed
        ],
        happenings=happened,
    )


def happenings(workspace: Workspace, model: str) -> list[Happening]:
    """Return what was done and said about a model, in the order of time.

    Raises:
        LobsmithError: alerts or the mode cannot be read.
    """
    said = [
        Happening(time_ns=one.time_ns, what=f"alert {one.state}: {one.name}", about=one.message)
        for one in alerts.read(workspace)
        if one.about == model
    ]
    record = read_mode(workspace, model)
    if record is not None and record.retrain_asked_ns is not None:
        said.append(
            Happening(time_ns=record.retrain_asked_ns, what="retrain", about="asked for, ahead of its schedule")
        )
    return sorted(said, key=lambda one: one.time_ns)
