"""Evidently's report about a look for drift: features, predictions and targets, each column then and now.

It is a description for people and decides nothing: it knows no past to say what is usual. It is drawn in a process of
its own, so that what it costs in memory and time is bounded and no fault of it is one of the monitor.
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

DIRECTIONS = ("down", "unchanged", "up")
PREDICTED, PROBABILITY, TARGET = "prediction", "probability", "target"
"""Arrays of a side besides its rows: int8 [M], float32 [M, 3], int8 [M]; -1 where there is none."""

_MODULE = f"{__package__}.evidently_child"
_MOST_MOVED = 5
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Side:
    """What is known of one of the two spans of time that a look compares.

    Attributes:
        rows: raw rows, NaN nowhere.
        answers: what the active version made of rows of that span, not of just these; None where nothing is known.
    """

    rows: RawRows
    answers: Answers | None = None


class Job(Struct, frozen=True, kw_only=True):
    """What the process that draws is told.

    Attributes:
        arrays: `.npz` file with the rows and answers of both sides, `reference_rows`, `recent_target` and so on.
        workspace: folder of Evidently's workspace.
        project: in it, a UUID, and `model`, its name.
        name: of the report.
        looked_ns: time that it is about.
        tags: of the report.
        metadata: of the report.
        features: names of the columns of rows.
        horizon_ms: of predictions and targets.
        shown: features whose values are shown at length, not only in the table.
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
    """A report of Evidently: its page and JSON, and what it is called in its workspace."""

    page: str
    json: str
    project: str
    report: str


def project_of(model: str) -> str:
    """Return the id of a model's project in Evidently: the same on every machine, so that a link to it lasts."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"lobsmith:{model}"))


def draw(
    workspace: Workspace, params: Params, check: DriftCheck, reference: Side, recent: Side, folder: Path
) -> Drawn | str:
    """Draw the report of a look into `folder` and add it to Evidently's workspace; or return why there is none.

    Rows and answers of each side are drawn apart, evenly over its time: no figure of the report is about two columns.
    """
    settings = params.drift_report
    try:
        with tempfile.TemporaryDirectory(prefix="lobsmith-evidently-") as scratch:
            arrays, job = Path(scratch) / "rows.npz", Path(scratch) / "job.json"
            sides = {"reference": reference, "recent": recent}
            np.savez(
                arrays,
                **{f"{name}_{what}": one for name, side in sides.items() for what, one in _arrays(side, settings.rows)},
            )
            job.write_bytes(msgspec.json.encode(_job(workspace, params, check, reference, recent, folder, arrays)))
            done = run_module(_MODULE, str(job), deadline_s=settings.deadline_s)
    except subprocess.TimeoutExpired:
        return f"Evidently took longer than {settings.deadline_s:g} s (drift_report.deadline_s)"
    except OSError as error:
        return f"Evidently could not be run: {error}"
    if done.returncode != 0:
        return _why(done.stderr, done.returncode)
    try:
        return jsonl.decode(done.stdout.strip().rpartition(b"\n")[2], Drawn)
    except msgspec.DecodeError as error:
        return f"Evidently's process did not say what it drew: {error}"


def _job(
    workspace: Workspace,
    params: Params,
    check: DriftCheck,
    reference: Side,
    recent: Side,
    folder: Path,
    arrays: Path,
) -> Job:
    moved = [one.name for verdict in check.verdicts for one in verdict.moved if one.name in NAMES]
    answers = recent.answers or reference.answers
    findings = {f"{one.kind.value} drift": one.finding.value for one in check.verdicts}
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
