"""The newest report of each kind, and what writes those that are missing."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from lobsmith.drift.verdict import Finding
from lobsmith.evaluation.report.headline import headline
from lobsmith.evaluation.results import EVALUATION, REPORT, Evaluation
from lobsmith.monitoring.drift import history
from lobsmith.release.version.names import candidate_model
from lobsmith.services.landing.content import ReportLine, Tone
from lobsmith.serving.report_files import report_path
from lobsmith.workspace import Workspace

_DATA_DOCS = {"events": "market data", "features": "features and labels"}
_FINDING_TONES = {Finding.DRIFT: Tone.WRONG, Finding.MISSING: Tone.MISSING, Finding.INSUFFICIENT: Tone.MISSING}


def newest_reports(workspace: Workspace, models: Iterable[str]) -> list[ReportLine]:
    """Return a line for each kind of report, of each production model where a model has its own.

    Raises:
        LobsmithError: a history cannot be read.
        OSError: a folder cannot be.
    """
    lines = [line for model in models for line in (_drift(workspace, model), _shadow(workspace, model))]
    return [_evaluation(workspace), *lines, *_data_docs(workspace)]


def _evaluation(workspace: Workspace) -> ReportLine:
    page = _newest([*workspace.runs.glob(f"*/{REPORT}"), *workspace.home.glob(f"stages/{REPORT}")])
    if page is None:
        missing = "none yet: lobsmith retrain evaluates each network that it trains"
        return ReportLine(kind="evaluation", summary=missing, tone=Tone.MISSING)
    try:
        evaluation = msgspec.json.decode((page.parent / EVALUATION).read_bytes(), type=Evaluation)
        passed, summary = all(verdict.passed for verdict in evaluation.verdicts), headline(evaluation).text
    except (OSError, msgspec.MsgspecError):
        passed, summary = True, "without figures that this release can read."
    tone = None if passed else Tone.WRONG
    return _line(workspace, "evaluation", f"{_run_of(workspace, page)}: {summary}", page, tone)


def _drift(workspace: Workspace, model: str) -> ReportLine:
    kind = f"drift of {model}"
    folder = history.reports(workspace, model)
    lines = history.read(workspace, model)
    newest = next((line for line in reversed(lines) if (folder / line.folder / history.PAGE).is_file()), None)
    if newest is None:
        missing = "none yet: the drift flow of lobsmith up checks the rows of a live session"
        return ReportLine(kind=kind, summary=missing, tone=Tone.MISSING)
    findings = [(verdict.kind.value, verdict.finding) for verdict in newest.verdicts]
    found = "; ".join(f"{name}: {finding.value}" for name, finding in findings)
    tones = [_FINDING_TONES[finding] for _, finding in findings if finding in _FINDING_TONES]
    tone = Tone.WRONG if Tone.WRONG in tones else Tone.MISSING if tones else Tone.GOOD
    return _line(workspace, kind, f"{newest.instrument}: {found}", folder / newest.folder / history.PAGE, tone)


def _shadow(workspace: Workspace, model: str) -> ReportLine:
    folder, kind = workspace.reports, f"shadow of {model}"
    page = _newest([*folder.glob(f"*-{model}-*.html"), *folder.glob(f"*-{candidate_model(model)}-*.html")])
    if page is None:
        missing = "none yet: the shadow flow compares a candidate once live rows were put to both"
        return ReportLine(kind=kind, summary=missing, tone=Tone.MISSING)
    gate, evaluated, version = page.stem.split("-")
    return _line(workspace, kind, f"{evaluated} {version} ({gate})", page, None)


def _data_docs(workspace: Workspace) -> list[ReportLine]:
    lines = []
    for name, about in _DATA_DOCS.items():
        pages = (*workspace.runs.glob(f"*/data_docs/{name}"), *workspace.home.glob(f"stages/data_docs/{name}"))
        page = _newest([folder / "index.html" for folder in pages])
        kind = f"data docs, {name}"
        if page is None:
            missing = f"none yet: lobsmith retrain checks {about} against the data contract"
            lines.append(ReportLine(kind=kind, summary=missing, tone=Tone.MISSING))
        else:
            lines.append(_line(workspace, kind, f"{about} of {_run_of(workspace, page)}", page, None))
    return lines


def _line(workspace: Workspace, kind: str, summary: str, page: Path, tone: Tone | None) -> ReportLine:
    written_ns = page.stat().st_mtime_ns
    return ReportLine(kind=kind, summary=summary, tone=tone, path=report_path(workspace, page), time_ns=written_ns)


def _newest(pages: list[Path]) -> Path | None:
    return max((page for page in pages if page.is_file()), key=lambda page: page.stat().st_mtime_ns, default=None)


def _run_of(workspace: Workspace, page: Path) -> str:
    top, below, *_ = page.relative_to(workspace.home).parts
    return f"run {below}" if top == workspace.runs.name else "dvc repro"
