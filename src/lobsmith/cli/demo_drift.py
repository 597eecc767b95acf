"""`lobsmith demo --drift`: drift checks before and after a change of the market."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from rich.table import Table

from lobsmith.cli.options import prefect, print_json, results
from lobsmith.cli.replay import actions_line
from lobsmith.lease import hold_lease
from lobsmith.params import Params, load_params
from lobsmith.progress import stage
from lobsmith.workspace import MLFLOW_URI, Workspace

if TYPE_CHECKING:
    from lobsmith.drift.verdict import DriftCheck
    from lobsmith.features.dataset import Dataset
    from lobsmith.pipelines.monitor import DriftOutcome
    from lobsmith.trading.replay import ReplayResult

_TRAINING_S = 1200
_STRETCH_S = 100
"""Length of the stream between two drift checks, s."""
_CALM, _CHANGED = 1, 3
"""Stretches before the change, and at most after it, until drift is found."""
_FACTORS = {"order": 8.0, "queue": 8.0}
"""Factors of order and queue sizes in the changed market."""
_SETTINGS: dict[str, Any] = {
    "data.source": "simulator",
    "data.simulator.seconds": _TRAINING_S,
    "window.minimum_coverage": 0.0,
    "window.minimum_rows": 5000,
    # The network needs no skill here.
    "train.epochs": 8,
    "walk_forward.folds": 1,
    "walk_forward.epochs": 2,
    "evaluation.rivals": ["queue_imbalance"],
    "compress.pruning": [],
    "compress.precisions": ["fp32"],
    "compress.calls": 200,
    # Evidently draws all columns twice.
    "drift_report.rows": 1000,
    "drift_report.deadline_s": 60,
    "gates.skill": 10.0,
    "gates.calibration": 1.0,
    "gates.walk_forward": 10.0,
}
_SERVERS = (MLFLOW_URI, "PREFECT_API_URL", "PREFECT_HOME")
"""Environment variables of the servers of the model in service."""
_LEASE_S = 60.0


class Stretch(Struct, frozen=True, kw_only=True):
    """A stretch of the stream with its drift check; `changed` once the market has."""

    changed: bool
    rows: int
    findings: dict[str, str] = field(name="found")
    mode: str | None
    reason: str
    retrain: str | None
    page: str | None


def demonstrate_drift(workspace: Workspace, settings: Mapping[str, Any], *, as_json: bool) -> None:
    """Train on a simulated market, serve, and run drift checks before and after a change of the market.

    All in a new folder, `.lobsmith/drift_demo`, apart from the model in service.

    Args:
        workspace: source of `params.yaml`.
        settings: parameters to replace.
        as_json: print one JSON object.

    Raises:
        LeaseError: another demonstration runs.
    """
    workspace.home.mkdir(parents=True, exist_ok=True)
    lease = workspace.home / "drift_demo.lease"
    with hold_lease(lease, "demonstrate drift", ttl_s=_LEASE_S, wait_s=0.0), _without_servers():
        own = _new_workspace(workspace)
        changes = {**_SETTINGS, **settings}
        params = load_params(own.params, changes)
        with prefect(own, "lobsmith.pipelines.retrain"):
            from lobsmith.pipelines.retrain import retrain

            retrain(str(own.root), None, changes)
            with stage("simulate a market that changes"):
                dataset = _market(params)
            stretches, checks = _serve(own, params, changes, dataset)
    if as_json:
        print_json({"workspace": str(own.root), "stretches": stretches, "look": checks[-1]})
        return
    _show(own, params, stretches, checks[-1])


@contextmanager
def _without_servers() -> Iterator[None]:
    """Unset `_SERVERS` in the environment for the block."""
    before = {name: os.environ.pop(name) for name in _SERVERS if name in os.environ}
    try:
        yield
    finally:
        for name in _SERVERS:
            os.environ.pop(name, None)
        os.environ.update(before)


def _new_workspace(workspace: Workspace) -> Workspace:
    root = workspace.home / "drift_demo"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(workspace.params, root / workspace.params.name)
    return Workspace(root)


def _market(params: Params) -> "Dataset":
    """Return the training market, continued and changed after the calm stretches."""
    from lobsmith.features.dataset import build_dataset
    from lobsmith.market.simulator import Change, Dynamics, simulate

    simulator = params.data.simulator
    at_s = simulator.seconds + _CALM * _STRETCH_S
    change = Change(at_s=at_s, dynamics=Dynamics().scaled(_FACTORS))
    return build_dataset(simulate(simulator.seed, at_s + _CHANGED * _STRETCH_S, changes=[change]), params)


def _serve(
    workspace: Workspace, params: Params, changes: Mapping[str, Any], dataset: "Dataset"
) -> "tuple[list[Stretch], list[DriftCheck]]":
    from lobsmith.monitoring.mode.machine import Mode
    from lobsmith.pipelines.monitor import drift
    from lobsmith.serving.supervisor import running_triton, with_free_ports

    stretches: list[Stretch] = []
    checks: list[DriftCheck] = []
    with running_triton(workspace, with_free_ports(params)):
        for number in range(_CALM + _CHANGED):
            changed = number >= _CALM
            with stage("the market has changed" if changed else "the market is as it was") as note:
                from_s = params.data.simulator.seconds + number * _STRETCH_S
                measured = _replay_stretch(workspace, params, dataset, from_s)
                actions = "" if measured.actions is None else actions_line(measured.actions)
                note(f"{measured.answered:,} of {measured.rows:,} rows answered; {actions}")
            outcome = drift(str(workspace.root), changes, ["demo"])
            stretches.append(_stretch(outcome, measured, changed=changed))
            checks.extend(outcome.checks[:1])
            if changed and outcome.mode != Mode.NORMAL:
                break
    return stretches, checks


def _replay_stretch(workspace: Workspace, params: Params, dataset: "Dataset", from_s: float) -> "ReplayResult":
    """Replay `_STRETCH_S` seconds, as fast as the server answers."""
    import numpy as np

    from lobsmith.monitoring.log.writer import Source
    from lobsmith.trading.replay import replay, replayed_rows
    from lobsmith.trading.session import open_stream
    from lobsmith.units import NS_PER_S

    start = int(dataset.rows.time[0])
    bounds = [start + round(at_s * NS_PER_S) for at_s in (from_s, from_s + _STRETCH_S)]
    first, end = (int(place) for place in np.searchsorted(dataset.rows.time, bounds))
    rows = int((replayed_rows(dataset, first) < end).sum())
    with open_stream(
        dataset.instrument, root=workspace, params=params, record=Source.DEMO, backpressure=True
    ) as stream:
        return replay(stream, dataset, first, limit=rows)


def _stretch(outcome: "DriftOutcome", measured: "ReplayResult", *, changed: bool) -> Stretch:
    verdicts = outcome.checks[0].verdicts if outcome.checks else ()
    return Stretch(
        changed=changed,
        rows=measured.answered,
        findings={verdict.kind.value: verdict.finding.value for verdict in verdicts},
        mode=outcome.mode,
        reason=outcome.reason,
        retrain=outcome.retrain,
        page=outcome.page,
    )


def _show(workspace: Workspace, params: Params, stretches: list[Stretch], last: "DriftCheck") -> None:
    from lobsmith.monitoring.drift.page import headline

    table = Table(title=f"{last.instrument}: drift checks of {last.model} {last.version}")
    for name in ("market", "rows", *(verdict.kind.value for verdict in last.verdicts), "mode"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for stretch in stretches:
        market = "changed" if stretch.changed else "as it was"
        table.add_row(market, f"{stretch.rows:,}", *stretch.findings.values(), stretch.mode or "-")
    results.print(table)
    retrains = [stretch.retrain for stretch in stretches if stretch.retrain]
    for name, value in (
        ("found", headline(last)),
        ("mode", f"{stretches[-1].mode}: {stretches[-1].reason}"),
        ("retrain", retrains[0] if retrains else "not requested"),
        ("page", stretches[-1].page or "none"),
        ("next", f"lobsmith --root {_short(workspace.root)} mode show --model {params.model.name}"),
    ):
        results.print(f"{name:<13} {value}", soft_wrap=True, markup=False)


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
