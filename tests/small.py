"""Parameters small enough for a test to train with in a second."""

from pathlib import Path
from typing import Any

from lobsmith.params import Params, load_params

SMALL: dict[str, Any] = {
    "data.simulator.seconds": 60,
    "window.minimum_coverage": 0.0,
    "window.minimum_rows": 500,
    "model.channels": 8,
    "model.hidden": 12,
    "model.layers": 2,
    "model.ring": 16,
    "model.attention": 6,
    "labels.horizons_ms": [100, 1000],
    "train.horizon_weights": [1, 1],
    "train.epochs": 2,
    "train.window_batch": 32,
    "train.windows_per_epoch": 64,
    "walk_forward.folds": 1,
    "walk_forward.epochs": 1,
    "walk_forward.minimum_rows": 100,
    "evaluation.rivals": ["queue_imbalance"],
    "split.embargo_ms": 200,
    "train.sequence": 32,
    "train.burn_in": 16,
    "train.batch": 8,
    "train.sequences_per_epoch": 64,
    # One that a busy machine keeps.
    "client.deadline_s": 10.0,
    "serving.warmup": 10,
    "serving.warmup_rows": 50,
    "compress.pruning": [],
    "compress.precisions": ["fp32"],
    "compress.calls": 100,
    # No skill is needed: the flow is under test.
    "gates.skill": 10.0,
    "gates.calibration": 1.0,
    "gates.walk_forward": 10.0,
}


def params_file() -> Path:
    return Path(__file__).parent.parent / "params.yaml"


def small_params(**changes: Any) -> Params:
    return load_params(params_file(), {**SMALL, **changes})
