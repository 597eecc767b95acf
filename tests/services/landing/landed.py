"""Workspaces for the landing page: versions of the toy model, an alert, a mode, logged rows."""

import shutil
from pathlib import Path

import numpy as np

from lobsmith import clock
from lobsmith.monitoring import alerts
from lobsmith.monitoring.log.writer import LogWriter, Role, Source, log_path
from lobsmith.monitoring.mode.machine import Mode
from lobsmith.monitoring.mode.store import set_mode
from lobsmith.params import PredictionLogParams
from lobsmith.release.context import Release
from lobsmith.release.version.manifest import Manifest
from lobsmith.workspace import Workspace
from tests.monitoring.logged import random_probabilities
from tests.release import toy
from tests.release.in_process import publish
from tests.small import params_file

LOG = PredictionLogParams(flush_s=0.1, keep_days=1.0, busy_s=5.0)
SCRIPT = "<script>document.title = 'injected'</script>"


def workspace_at(root: Path) -> Workspace:
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(params_file(), root / "params.yaml")
    return Workspace(root)


def serve_version(workspace: Workspace, scale: float) -> Manifest:
    """Publish a version of the toy model, which is active from then on."""
    artifact = toy.artifact(workspace.root / f"run-{scale}", scale=scale)
    return publish(Release(workspace, toy.params()), artifact, model="toy", contract=toy.CONTRACT)


def filled(root: Path) -> tuple[Workspace, Manifest, Manifest]:
    """A workspace whose parts all have content; what people write holds a script."""
    workspace = workspace_at(root)
    older, newer = serve_version(workspace, 0.2), serve_version(workspace, 0.3)
    set_mode(workspace, "toy", Mode.PAUSED, f"by hand {SCRIPT}", "operator")
    alerts.fire(workspace, alerts.LIMITS, "toy", f"too slow {SCRIPT}")
    log_rows(workspace, older, newer)
    for name in ("runs/20260301T115900-abcdef/report.html", f"reports/shadow-toy_candidate-{newer.version}.html"):
        path = workspace.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<title>{name}</title>")
    return workspace, older, newer


def log_rows(workspace: Workspace, older: Manifest, newer: Manifest, count: int = 400) -> None:
    """Log rows that both versions answered, the newer one in its primary role."""
    row, start_ns = np.arange(count), clock.now_ns() - 10**10
    rows = {
        "row": row,
        "time_ns": start_ns + row * 10**6,
        "asked_ns": start_ns + row * 10**6 + 500,
        "segment": np.zeros(count, int),
        "mid": 1000 + row % 7,
        "latency_ns": 20_000 + row,
        "rows": 1,
    }
    with LogWriter(log_path(workspace, "toy"), toy.HORIZONS, LOG) as log:
        log.begin("s", Source.LIVE, str(toy.SIM), start_ns)
        for seed, manifest, role in ((1, newer, Role.PRIMARY), (2, older, Role.FALLBACK)):
            # The toy's horizons are as many as those of the drawn probabilities.
            drawn = random_probabilities(count, seed)
            log.add_predictions("s", "toy", manifest.version, role, **rows, probabilities=drawn)
        labels = np.tile(row % 3, (len(toy.HORIZONS), 1)).T.astype(np.int8)
        log.add_outcomes("s", row, labels, start_ns + row * 10**6 + 10**9)
