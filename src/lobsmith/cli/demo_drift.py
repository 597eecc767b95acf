"""`lobsmith demo --drift`: a market that changes under a model in service, and what follows from it."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from rich.table import Table

from lobsmith.cli.options import prefect, print_json, results
from lobsmith.cli.replay import acting_line
from lobsmith.lease import hold_lease
from lobsmith.params import Params, load_params
from lobsmith.progress import stage
from lobsmith.workspace import MLFLOW_URI, Workspace

if TYPE_CHECKING:
    from lobsmith.drift.verdict import DriftCheck
    from lobsmith.features.dataset import Dataset
    from lobsmith.trading.replay import ReplayResult
    from pipelines.monitor import Drifted

_LEARNT_S = 1200
_STRETCH_S = 100
"""Of the stream, from one look to the next."""
_CALM, _CHANGED = 1, 3
"""Stretches before the change, and after it at most: with the look that finds drift the demonstration ends."""
_FACTORS = {"order": 8.0, "queue": 8.0}
"""What the change does to the simulated market: orders and queues are so many times as large."""
_SETTINGS: dict[str, Any] = {
    "data.source": "simulator",
    "data.simulator.seconds": _LEARNT_S,
    "window.minimum_coverage": 0.0,
    "window.minimum_rows": 5000,
    # A network that need only be in service: drift is what is shown, not skill.
    "train.epochs": 8,
    "walk_forward.folds": 1,
    "walk_forward.epochs": 2,
    "evaluation.rivals": ["queue_imbalance"],
    "compress.pruning": [],
    "compress.precisions": ["fp32"],
    "compress.calls": 200,
    # All columns are drawn twice, and a few hundred rows show as much.
    "drift_report.rows": 1000,
    "drift_report.deadline_s": 60,
    "gates.skill": 10.0,
    "gates.calibration": 1.0,
    "gates.walk_forward": 10.0,
}
_ELSEWHERE = (MLFLOW_URI, "PREFECT_API_URL", "PREFECT_HOME")
"""What would have the demonstration leave traces beside the service's own, or open a retrain of it."""
_LEASE_S = 60.0


class Stretch(Struct, frozen=True, kw_only=True):
    """A stretch of the stream and the look at its end: `changed` where the market has been another one by then."""

    changed: bool
    rows: int
    found: dict[str, str]
    mode: str | None
    reason: str
    retrain: str | None
    page: str | None


def demonstrate_drift(workspace: Workspace, settings: Mapping[str, Any], *, as_json: bool) -> None:
    """Train on a simulated market, serve, let the market change, and look for drift before and after.

    It has a folder of its own, `.lobsmith/drift_demo`, which is made anew each time: a mode that turns careful and a
    retrain that is asked for are no business of the model in service.

    Args:
        workspace: whose `params.yaml` is used.
        settings: parameters to replace.
        as_json: print one JSON object.

    Raises:
        LeaseError: another demonstration runs.
    """
    workspace.home.mkdir(parents=True, exist_ok=True)
    lease = workspace.home / "drift_demo.lease"
    with hold_lease(lease, "demonstrate drift", ttl_s=_LEASE_S, wait_s=0.0), _alone():
        own = _new(workspace)
        changes = {**_SETTINGS, **settings}
        params = load_params(own.params, changes)
        with prefect(own):
            from pipelines.retrain import retrain

            retrain(str(own.root), None, changes)
            with stage("simulate a market that changes"):
                dataset = _market(params)
            stretches, checks = _live(own, params, changes, dataset)
    if as_json:
        print_json({"workspace": str(own.root), "stretches": stretches, "look": checks[-1]})
        return
    _show(own, params, stretches, checks[-1])


@contextmanager
def _alone() -> Iterator[None]:
    """Forget for a while which servers the environment names."""
    before = {name: os.environ.pop(name) for name in _ELSEWHERE if name in os.environ}
    try:
        yield
    finally:
        for name in _ELSEWHERE:
            os.environ.pop(name, None)
        os.environ.update(before)


def _new(workspace: Workspace) -> Workspace:
    root = workspace.home / "drift_demo"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(workspace.params, root / workspace.params.name)
    return Workspace(root)


def _market(params: Params) -> "Dataset":
    """Return the market that was learnt from as it goes on, and changes after the calm stretches."""
    from lobsmith.features.dataset import build_dataset
    from lobsmith.market.simulator import Change, Dynamics, simulate

    simulator = params.data.simulator
    at_s = simulator.seconds + _CALM * _STRETCH_S
    change = Change(at_s=at_s, dynamics=Dynamics().scaled(_FACTORS))
    return build_dataset(simulate(simulator.seed, at_s + _CHANGED * _STRETCH_S, changes=[change]), params)


def _live(
    workspace: Workspace, params: Params, changes: Mapping[str, Any], dataset: "Dataset"
) -> "tuple[list[Stretch], list[DriftCheck]]":
    from lobsmith.monitoring.mode.machine import Mode
    from lobsmith.serving.supervisor import running_triton, with_free_ports
    from pipelines.monitor import drift

    stretches: list[Stretch] = []
    checks: list[DriftCheck] = []
    with running_triton(workspace, with_free_ports(params)):
        for number in range(_CALM + _CHANGED):
            changed = number >= _CALM
            with stage("the market has changed" if changed else "the market is as it was") as note:
                measured = _ask(workspace, params, dataset, params.data.simulator.seconds + number * _STRETCH_S)
                acting = "" if measured.acting is None else acting_line(measured.acting)
                note(f"{measured.answered:,} of {measured.rows:,} rows answered; {acting}")
            seen = drift(str(workspace.root), changes, ["demo"])
            stretches.append(_stretch(seen, measured, changed=changed))
            checks.extend(seen.checks[:1])
            if changed and seen.mode != Mode.NORMAL:
                break
    return stretches, checks


def _ask(workspace: Workspace, params: Params, dataset: "Dataset", from_s: float) -> "ReplayResult":
    """Ask the server about a stretch of the session, row by row, as fast as it answers."""
    import numpy as np

    from lobsmith.monitoring.log.writer import Source
    from lobsmith.trading.replay import replay, replayed_rows
    from lobsmith.trading.session import open_stream
    from lobsmith.units import NS_PER_S

    start = int(dataset.rows.time[0])
    bounds = [start + round(at_s * NS_PER_S) for at_s in (from_s, from_s + _STRETCH_S)]
    first, end = (int(place) for place in np.searchsorted(dataset.rows.time, bounds))
    rows = int((replayed_rows(dataset, first) < end).sum())
    instrument = str(dataset.instrument)
    with open_stream(workspace, params, instrument, record=Source.DEMO, backpressure=True) as stream:
        return replay(stream, dataset, first, limit=rows)


def _stretch(seen: "Drifted", measured: "ReplayResult", *, changed: bool) -> Stretch:
    verdicts = seen.checks[0].verdicts if seen.checks else ()
    return Stretch(
        changed=changed,
        rows=measured.answered,
        found={one.kind.value: one.finding.value for one in verdicts},
        mode=seen.mode,
        reason=seen.reason,
        retrain=seen.retrain,
        page=seen.page,
    )


def _show(workspace: Workspace, params: Params, stretches: list[Stretch], last: "DriftCheck") -> None:
    from lobsmith.monitoring.drift.page import headline

    table = Table(title=f"{last.instrument}: looks at {last.model} {last.version}")
    for name in ("market", "rows", *(one.kind.value for one in last.verdicts), "mode"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    for one in stretches:
        market = "changed" if one.changed else "as it was"
        table.add_row(market, f"{one.rows:,}", *one.found.values(), one.mode or "-")
    results.print(table)
    retrains = [one.retrain for one in stretches if one.retrain]
    for name, value in (
        ("found", headline(last)),
        ("mode", f"{stretches[-1].mode}: {stretches[-1].reason}"),
        ("retrain", retrains[0] if retrains else "not asked for"),
        ("page", stretches[-1].page or "none"),
        ("next", f"lobsmith --root {_short(workspace.root)} mode show --model {params.model.name}"),
    ):
        results.print(f"{name:<13} {value}", soft_wrap=True, markup=False)


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
