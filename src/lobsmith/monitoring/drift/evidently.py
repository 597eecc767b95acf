"""Evidently's report of a drift check: features, predictions and targets, each column then and now.

A description for people that decides nothing: it has no null distribution. Drawn in a child process, which bounds its
memory and time and isolates its faults.
"""

import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from lobsmith import jsonl
from lobsmith.drift.reference import RawRows
from lobsmith.drift.verdict import DriftCheck, Finding
from lobsmith.features.definitions import NAMES
from lobsmith.monitoring.drift.evidently_ui import evidently_workspace
from lobsmith.monitoring.drift.history import EVIDENTLY_JSON, EVIDENTLY_PAGE
from lobsmith.online.answers import Answers
from lobsmith.params import Params
from lobsmith.process import run_module
from lobsmith.workspace import Workspace

PREDICTED, PROBABILITY, TARGET = "prediction", "probability", "target"
"""Arrays of a side besides its rows: int8 [M], float32 [M, 3], int8 [M]; -1 where there is none."""

_MODULE = f"{__package__}.evidently_child"
_MOST_MOVED = 5
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Side:
    """One of the two windows of a check.

    Attributes:
        rows: raw rows, no NaN.
        answers: of the active version in that window, not to just these rows; None where unknown.
    """

    rows: RawRows
    answers: Answers | None = None


class Job(Struct, frozen=True, kw_only=True):
    """Input of the child process.

    Attributes:
        arrays: `.npz` file with the rows and answers of both sides, `reference_rows`, `recent_target` and so on.
        workspace: folder of Evidently's workspace.
        project: a UUID in it, and `model`, its name.
        looked_ns: time of the check.
        features: names of the columns of rows.
        horizon_ms: of predictions and targets.
        shown: features whose values are shown at length.
        minimum_rows: fewer recent rows fail a test of the report.
        page, json: files to write.
        keep: newest reports that stay in the project.
        lock_s: seconds to wait for another writer.
    """

    arrays: str
    workspace: str
    project: str
    model: str
    name: str
    looked_ns: int
    tags: tuple[str, ...]
    metadata: dict[str, str]
    features: tuple[str, ...]
    horizon_ms: int | None
    shown: tuple[str, ...]
    minimum_rows: int
    page: str
    json: str
    keep: int
    lock_s: float


class Drawn(Struct, frozen=True, kw_only=True):
    """A report of Evidently: its page and JSON, and its ids in Evidently's workspace."""

    page: str
    json: str
    project: str
    report: str


def project_of(model: str) -> str:
    """Return the id of a model's project in Evidently, the same on every machine."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"lobsmith:{model}"))


def draw(
    workspace: Workspace, params: Params, check: DriftCheck, reference: Side, recent: Side, folder: Path
) -> Drawn | str:
    """Draw the report of a check into `folder` and add it to Evidently's workspace; or return why that failed.

    Rows and answers of each side are sampled apart, evenly over its time: no figure combines them.
    """
    settings = params.drift_report
    try:
        with tempfile.TemporaryDirectory(prefix="lobsmith-evidently-") as scratch:
            arrays, job = Path(scratch) / "rows.npz", Path(scratch) / "job.json"
            sides = {"reference": reference, "recent": recent}
            np.savez(
                arrays,
                **{
                    f"{name}_{what}": array
                    for name, side in sides.items()
                    for what, array in _arrays(side, settings.rows)
                },
            )
            job.write_bytes(msgspec.json.encode(_job(workspace, params, check, reference, recent, folder, arrays)))
            completed = run_module(_MODULE, str(job), deadline_s=settings.deadline_s)
    except subprocess.TimeoutExpired:
        return f"Evidently took longer than {settings.deadline_s:g} s (drift_report.deadline_s)"
    except OSError as error:
        return f"Evidently could not be run: {error}"
    if completed.returncode != 0:
        return _why(completed.stderr, completed.returncode)
    try:
        return jsonl.decode(completed.stdout.strip().rpartition(b"\n")[2], Drawn)
    except msgspec.DecodeError as error:
        return f"Evidently's process did not report what it drew: {error}"


def _job(
    workspace: Workspace,
    params: Params,
    check: DriftCheck,
    reference: Side,
    recent: Side,
    folder: Path,
    arrays: Path,
) -> Job:
    moved = [shift.name for verdict in check.verdicts for shift in verdict.moved if shift.name in NAMES]
    answers = recent.answers or reference.answers
    findings = {f"{verdict.kind.value} drift": verdict.finding.value for verdict in check.verdicts}
    return Job(
        arrays=str(arrays),
        workspace=str(evidently_workspace(workspace)),
        project=project_of(check.model),
        model=check.model,
        name=f"{check.model} {check.version}, {check.instrument}",
        looked_ns=check.looked_ns,
        tags=tuple(kind for kind, finding in findings.items() if finding == Finding.DRIFT.value),
        metadata={"version": str(check.version), "instrument": check.instrument, **findings},
        features=NAMES,
        horizon_ms=None if answers is None else answers.horizons_ms[0],
        shown=tuple(dict.fromkeys(moved))[:_MOST_MOVED],
        minimum_rows=params.drift.minimum_rows,
        page=str(folder / EVIDENTLY_PAGE),
        json=str(folder / EVIDENTLY_JSON),
        keep=params.drift_report.keep_evidently,
        lock_s=params.drift_report.deadline_s,
    )


def _arrays(side: Side, most: int) -> list[tuple[str, npt.NDArray[np.generic]]]:
    rows = side.rows.raw[_evenly(len(side.rows), most)]
    if side.answers is None:
        probability, target = np.empty((0, 3), np.float32), np.empty(0, np.int8)
    else:
        chosen = _evenly(len(side.answers.time_ns), most)
        probability, target = side.answers.probabilities[chosen, 0], side.answers.labels[chosen, 0]
    answered = np.isfinite(probability).all(axis=1)
    predicted = np.where(answered, np.nan_to_num(probability).argmax(axis=1), -1).astype(np.int8)
    return [("rows", rows), (PREDICTED, predicted), (PROBABILITY, probability), (TARGET, target)]


def _evenly(count: int, most: int) -> npt.NDArray[np.intp]:
    return np.linspace(0, count - 1, min(count, most)).astype(np.intp)


def _why(stderr: bytes, status: int) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else f"its process ended with status {status}"
    return f"Evidently failed: {last}"[:_LONGEST_REASON]
