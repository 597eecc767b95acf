"""A tick answered by one step with state, beside the same network over the whole window of the last rows.

Same run, one thread, calls in turn. The window is the trained network, unpruned and in float32, over 100 rows from a
cold state; the step is its graph for one row; both use ONNX Runtime with bound inputs and outputs. The compiled step is
the in-process engine's.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from msgspec import Struct

from lobsmith.compress.export import export_onnx
from lobsmith.compress.graph.specialise import specialise
from lobsmith.compress.runtime import BoundModel, Float
from lobsmith.compress.step.compiled import CompiledStep, open_step
from lobsmith.compress.timing import Timing, compare_times
from lobsmith.features.dataset import DATASET, load_dataset
from lobsmith.features.definitions import COUNT
from lobsmith.models.networks.network import Network
from lobsmith.models.networks.registry import build
from lobsmith.models.split import longest_run, split
from lobsmith.models.train import WEIGHTS, load_trained
from lobsmith.params import Params
from lobsmith.workspace import Workspace

WINDOW = 100
_ROWS = 4096


class TickReport(Struct, frozen=True, kw_only=True):
    """Microseconds of a call, and the step's speed-up over the window, by medians, with 95 % interval."""

    network: str
    rows: str
    calls: int
    window_p50_us: float
    window_p99_us: float
    step_p50_us: float
    step_p99_us: float
    ratio: float
    low: float
    high: float
    compiled_p50_us: float | None
    compiled_p99_us: float | None
    compiled_ratio: float | None


def bench_tick(workspace: Workspace, params: Params, directory: Path | None, calls: int) -> TickReport:
    """Measure the network of a run on its held-out rows.

    Args:
        workspace: of the runs.
        params: of the network and the split.
        directory: a run's folder; None takes the newest, or without a run an untrained network and random rows: the
            time does not depend on their values.
        calls: of the step; the window is called as often.

    Raises:
        TrainingError: the folder holds no trained network.
    """
    folder = directory or newest_run(workspace)
    network, rows = _untrained(params) if folder is None else _trained(params, folder)
    timing, compiled = beside_window(network, rows, calls)
    return TickReport(
        network=params.model.network if folder is None else str(folder),
        rows="random" if folder is None else "held out",
        calls=timing.calls,
        window_p50_us=timing.reference_p50_us,
        window_p99_us=timing.reference_p99_us,
        step_p50_us=timing.p50_us,
        step_p99_us=timing.p99_us,
        ratio=timing.speedup,
        low=timing.low,
        high=timing.high,
        compiled_p50_us=compiled.p50_us if compiled else None,
        compiled_p99_us=compiled.p99_us if compiled else None,
        compiled_ratio=compiled.speedup if compiled else None,
    )


def newest_run(workspace: Workspace) -> Path | None:
    """Return the folder of the newest trained network of retrains and `dvc repro`, None without one."""
    weights = [*workspace.runs.glob(f"*/{WEIGHTS}"), *workspace.home.glob(f"stages/{WEIGHTS}")]
    return max(weights, key=lambda path: path.stat().st_mtime_ns).parent if weights else None


def beside_window(network: Network, rows: Float, calls: int) -> tuple[Timing, Timing | None]:
    """Time the step, and the compiled step if there is one, each beside the window of 100 rows."""
    with tempfile.TemporaryDirectory(prefix="lobsmith-") as folder:
        general, single = Path(folder) / "general.onnx", Path(folder) / "single.onnx"
        export_onnx(network, general)
        specialise(general, single)
        window = partial(BoundModel, general, rows=WINDOW)
        timing = compare_times(partial(BoundModel, single), window, "step", rows, calls, forgets=True)
        if open_step(general, single).runtime != CompiledStep.runtime:
            return timing, None
        return timing, compare_times(partial(CompiledStep, general), window, "step", rows, calls, forgets=True)


def _trained(params: Params, directory: Path) -> tuple[Network, Float]:
    dataset = load_dataset(directory / DATASET)
    network = load_trained(directory, dataset, params).network
    start, stop = longest_run(dataset, split(dataset, params.split).test)
    return network, dataset.rows.features[start : min(stop, start + _ROWS)]


def _untrained(params: Params) -> tuple[Network, Float]:
    network = build(params.model, COUNT, params.labels.horizons_ms).eval()
    return network, np.random.default_rng(0).normal(size=(_ROWS, COUNT)).astype(np.float32)
