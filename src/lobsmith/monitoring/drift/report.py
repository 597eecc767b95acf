"""Reports of a drift check: page, JSON, Evidently's report, and links to them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from lobsmith.drift.verdict import DriftCheck
from lobsmith.errors import DataError, LobsmithError, ReleaseError
from lobsmith.files import write_atomic
from lobsmith.monitoring import alerts
from lobsmith.monitoring.accuracy import VersionAccuracy, accuracy_over_time
from lobsmith.monitoring.drift import history
from lobsmith.monitoring.drift.check import StreamCheck
from lobsmith.monitoring.drift.content import Content, Evidently, Happening, PageChange
from lobsmith.monitoring.drift.evidently import Drawn, Side, draw, project_of
from lobsmith.monitoring.drift.page import drift_since, headline, render_drift
from lobsmith.monitoring.mode.machine import ModeChange
from lobsmith.monitoring.mode.store import changes, read_mode
from lobsmith.online.answers import Answers
from lobsmith.params import Params
from lobsmith.progress import console
from lobsmith.release.registry.mlflow_store import mlflow_store
from lobsmith.serving.report_files import linked
from lobsmith.units import NS_PER_MS
from lobsmith.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.entities import Metric

_HISTORY = 288
"""Newest checks on a page: a day at one each five minutes."""
_CHANGES = 50
_BINS = 48
_ARTIFACTS = "drift"


class Reported(Struct, frozen=True, kw_only=True):
    """Files of a check's reports.

    Attributes:
        page: HTML.
        json: its content, a `lobsmith.monitoring.drift.content.Content`.
        evidently_html, evidently_json: None where Evidently failed.
        evidently_failed: why it failed.
        headline: findings in one line.
    """

    page: Path
    json: Path
    evidently_html: Path | None
    evidently_json: Path | None
    evidently_failed: str | None
    headline: str

    def as_markdown(self, workspace: Workspace) -> str:
        """Return it as a Prefect artifact, with links to the server of the workspace where one runs."""
        lines = [self.headline, ""]
        lines += [f"- {linked(workspace, title, path)}" for title, path in (("Page", self.page), ("JSON", self.json))]
        if self.evidently_html is not None:
            lines.append(f"- {linked(workspace, 'Evidently’s report', self.evidently_html)}")
        else:
            lines.append(f"- no report of Evidently: {self.evidently_failed}")
        lines += ["", "`lobsmith report drift --open` shows them beside earlier ones."]
        return "\n".join(lines)


def write_report(
    workspace: Workspace,
    params: Params,
    check: DriftCheck,
    reference: Side,
    recent: Side,
    *,
    answers: Sequence[Answers] = (),
    changes: Sequence[ModeChange] = (),
    happenings: Sequence[Happening] = (),
) -> Reported:
    """Write the reports of a check and add it to the history; a failure of Evidently is printed and shown only.

    Args:
        reference, recent: the windows compared.
        answers: of the active version and others beside it, for their loss over time, best longer than `recent`.
        changes: of the model's mode, the oldest first.
        happenings: alerts, retrain requests.

    Raises:
        DataError: a file cannot be written.
    """
    folder = history.new_folder(workspace, check)
    drawn = draw(workspace, params, check, reference, recent, folder)
    failed = drawn if isinstance(drawn, str) else None
    if failed is not None:
        console.print(f"no report of Evidently: {failed}", markup=False)
    lines = [line for line in history.read(workspace, check.model) if line.instrument == check.instrument]
    content = Content(
        check=check,
        since_ns=drift_since(check, [line for line in lines if line.version == check.version]),
        earlier=tuple(lines[-_HISTORY:]),
        changes=tuple(PageChange.of(change) for change in changes[-_CHANGES:]),
        happenings=tuple(happenings[-_CHANGES:]),
        losses=losses_over_time(answers),
        evidently=_evidently(check, drawn, [*lines[-_HISTORY:], history.as_line(check, folder.name, failed)]),
    )
    reported = Reported(
        page=folder / history.PAGE,
        json=folder / history.CONTENT,
        evidently_html=folder / history.EVIDENTLY_PAGE if failed is None else None,
        evidently_json=folder / history.EVIDENTLY_JSON if failed is None else None,
        evidently_failed=failed,
        headline=headline(check),
    )
    try:
        write_atomic(reported.json, msgspec.json.encode(content))
        write_atomic(reported.page, render_drift(content).encode())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; the drift check has no report") from error
    history.add(workspace, check.model, history.as_line(check, folder.name, failed), params.drift_report)
    return reported


def read_content(workspace: Workspace, model: str, line: history.PastCheck) -> Content:
    """Return the content of a past check's page.

    Raises:
        DataError: it was deleted, or is not of this release.
    """
    path = history.reports(workspace, model) / line.folder / history.CONTENT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Content)
    except FileNotFoundError as error:
        raise DataError(f"{path}: only the line of this check is kept; see drift_report.keep_pages") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a check of this release: {error}; check again") from error


def link_to_run(workspace: Workspace, reported: Reported, check: DriftCheck, run_id: str | None) -> str | None:
    """Log the reports to the MLflow run of the active version (None: no run); return a failure as one line.

    The run holds the newest check under `drift/`, and one point of each metric for each check.
    """
    if run_id is None:
        return f"{check.model} {check.version} came from no MLflow run that its reports could be linked to"
    paths = (reported.page, reported.json, reported.evidently_html)
    try:
        with mlflow_store(workspace) as client:
            for path in filter(None, paths):
                client.log_artifact(run_id, str(path), _ARTIFACTS)
            client.log_batch(run_id, metrics=_metrics(check))
            client.set_tag(run_id, "drift", reported.headline)
    except ReleaseError as error:
        return f"the reports are not linked from MLflow: {error}"
    return None


def losses_over_time(answers: Sequence[Answers]) -> tuple[tuple[VersionAccuracy, ...], ...]:
    """Return the accuracy of each version over the same time bins, from the first row of any to the last."""
    times = [version.time_ns for version in answers if len(version.time_ns)]
    if not times:
        return ()
    first, last = min(int(times_ns.min()) for times_ns in times), max(int(times_ns.max()) for times_ns in times)
    edges = np.unique(np.linspace(first, last + 1, _BINS + 1).astype(np.int64)).tolist()
    return tuple(tuple(accuracy_over_time(version, edges)) for version in answers)


def _metrics(check: DriftCheck) -> list["Metric"]:
    from mlflow.entities import Metric

    at_ms = check.looked_ns // NS_PER_MS
    named = [
        (f"drift.{verdict.kind.value}.{name}", value)
        for verdict in check.verdicts
        for name, value in (("statistic", verdict.value), ("p_value", verdict.p_value))
    ]
    return [Metric(name, value, at_ms, at_ms // 1000) for name, value in named if value is not None]


def _evidently(check: DriftCheck, drawn: Drawn | str, lines: Sequence[history.PastCheck]) -> Evidently:
    has_report = isinstance(drawn, Drawn)
    return Evidently(
        page=history.EVIDENTLY_PAGE if has_report else None,
        failure=None if has_report else str(drawn),
        failures=sum(line.evidently_failed is not None for line in lines),
        checks=len(lines),
        project=project_of(check.model),
        report=drawn.report if isinstance(drawn, Drawn) else None,
    )


def report_check(workspace: Workspace, params: Params, stream: StreamCheck) -> Reported:
    """Write the reports of a check.

    Actions are left out where they cannot be read: later checks need this one in the history.

    Raises:
        DataError: a file cannot be written.
    """
    check, current = stream.check, stream.current
    try:
        changed, happened = changes(workspace, check.model), happenings(workspace, check.model)
    except LobsmithError as error:
        console.print(f"the page of the check lacks the actions taken: {error}", markup=False)
        changed, happened = [], []
    return write_report(
        workspace,
        params,
        check,
        Side(rows=stream.reference, answers=current.answers_before),
        Side(rows=current.recent, answers=current.answers_now),
        answers=[before for before in (current.answers_before,) if before is not None],
        changes=changed,
        happenings=happened,
    )


def happenings(workspace: Workspace, model: str) -> list[Happening]:
    """Return a model's alerts and retrain requests, in the order of time.

    Raises:
        LobsmithError: alerts or the mode cannot be read.
    """
    events = [
        Happening(time_ns=alert.time_ns, what=f"alert {alert.state}: {alert.name}", about=alert.message)
        for alert in alerts.read(workspace)
        if alert.about == model
    ]
    published = read_mode(workspace, model)
    if published is not None and published.retrain_asked_ns is not None:
        events.append(
            Happening(time_ns=published.retrain_asked_ns, what="retrain", about="asked for, ahead of its schedule")
        )
    return sorted(events, key=lambda event: event.time_ns)
