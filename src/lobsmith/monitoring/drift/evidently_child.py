"""Draws one report of Evidently: `python -m lobsmith.monitoring.drift.evidently_child JOB`, which prints a `Drawn`."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lobsmith import telemetry
from lobsmith.units import NS_PER_S

telemetry.turn_off()

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import plotly.io  # noqa: E402
from evidently import DataDefinition, Dataset, Report  # noqa: E402
from evidently.core.report import Snapshot  # noqa: E402
from evidently.legacy.core import new_id  # noqa: E402
from evidently.legacy.utils import NumpyEncoder  # noqa: E402
from evidently.metrics import ColumnCount, RowCount  # noqa: E402
from evidently.presets import DataDriftPreset, DatasetStats, ValueStats  # noqa: E402
from evidently.sdk.models import ProjectModel  # noqa: E402
from evidently.tests import gte  # noqa: E402
from evidently.ui.storage.local.base import PROJECT_FILE_NAME, SNAPSHOTS_DIR_NAME  # noqa: E402

from lobsmith.features.definitions import DIRECTIONS  # noqa: E402
from lobsmith.files import exclusive_lock, write_atomic  # noqa: E402
from lobsmith.monitoring.drift.evidently import PREDICTED, PROBABILITY, TARGET, Drawn, Job  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

    Arrays = Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]

_NICE = 10
_ANSWER_COLUMNS = 5
"""Prediction, target and three probabilities."""


def main(path: str) -> None:
    """Draw the report of a job, write it and add it to the workspace."""
    # Serving clients has priority.
    os.nice(_NICE)
    # Plotly's own style would be a third of a report.
    plotly.io.templates.default = "none"
    job = msgspec.json.decode(Path(path).read_bytes(), type=Job)
    with np.load(job.arrays) as arrays:
        snapshot = _run(job, arrays)
    write_atomic(Path(job.page), snapshot.get_html_str(as_iframe=False).encode())
    write_atomic(Path(job.json), snapshot.json().encode())
    drawn = Drawn(page=job.page, json=job.json, project=job.project, report=add(job, snapshot))
    sys.stdout.write(f"\n{msgspec.json.encode(drawn).decode()}\n")


def _run(job: Job, arrays: "Arrays") -> Snapshot:
    reference, recent = (_table(job, arrays, side) for side in ("reference", "recent"))
    # Evidently would refuse all columns because of one without a value on either side.
    both = [name for name in recent if recent[name].notna().any() and reference[name].notna().any()]
    categorical = [name for name in both if recent[name].dtype == object]
    numbers = [name for name in both if name not in categorical]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categorical)
    # Missing data fails a test of the report: an empty one would read as no drift.
    metrics = [
        RowCount(tests=[gte(job.minimum_rows)]),
        ColumnCount(tests=[gte(len(job.features) + _ANSWER_COLUMNS)]),
    ]
    if both:
        answers = [name for name in both if name not in job.features]
        metrics += [
            DatasetStats(),
            # Distances: a test would take neighbouring rows as independent and find drift in any two
            # hours.
            DataDriftPreset(columns=both, num_method="wasserstein", cat_method="jensenshannon"),
            *(ValueStats(column) for column in (*answers, *job.shown) if column in both),
        ]
    current, past = (Dataset.from_pandas(table[both], data_definition=definition) for table in (recent, reference))
    at = datetime.fromtimestamp(job.looked_ns / NS_PER_S, UTC)
    run: Snapshot = Report(metrics).run(
        current, past, timestamp=at, name=job.name, tags=list(job.tags), metadata=dict(job.metadata)
    )
    return run


def _table(job: Job, arrays: "Arrays", side: str) -> pd.DataFrame:
    """Return a side's columns beside each other, shorter ones padded with missing values."""
    rows, probability = arrays[f"{side}_rows"], arrays[f"{side}_{PROBABILITY}"]
    columns = {name: pd.Series(rows[:, place]) for place, name in enumerate(job.features)}
    if job.horizon_ms is not None:
        at = f" at {job.horizon_ms} ms"
        columns[f"{PREDICTED}{at}"] = _directions(arrays[f"{side}_{PREDICTED}"])
        for place, direction in enumerate(DIRECTIONS):
            columns[f"{PROBABILITY} of {direction}{at}"] = pd.Series(probability[:, place])
        columns[f"{TARGET}{at}"] = _directions(arrays[f"{side}_{TARGET}"])
    return pd.DataFrame(columns)


def _directions(codes: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> pd.Series:
    return pd.Series([None if code < 0 else DIRECTIONS[code] for code in codes], dtype=object)


def add(job: Job, snapshot: Snapshot) -> str:
    """Add a report to the project, created on first use, and delete the oldest; return its id.

    Atomic: Evidently writes in place, and its pages fail on half a file.
    """
    project = Path(job.workspace) / job.project
    report = str(new_id())
    with exclusive_lock(Path(job.workspace).with_suffix(".lock"), job.lock_s):
        if not (project / PROJECT_FILE_NAME).exists():
            model = ProjectModel(id=job.project, name=job.model, description="drift checks")
            write_atomic(project / PROJECT_FILE_NAME, json.dumps(model.dict(), cls=NumpyEncoder).encode())
        reports = project / SNAPSHOTS_DIR_NAME
        write_atomic(reports / f"{report}.json", snapshot.dumps().encode())
        # Left by a killed writer: this one holds the lock.
        for torn in reports.glob(".*.json.*"):
            torn.unlink()
        # Ids begin with their time.
        for old in sorted(reports.glob("*.json"))[: -job.keep]:
            old.unlink(missing_ok=True)
    return report


if __name__ == "__main__":
    main(sys.argv[1])
