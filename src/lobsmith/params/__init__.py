"""The parameters of `params.yaml`, checked on load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from lobsmith.errors import ParamsError
from lobsmith.params.drift import (
    DiscriminatorParams,
    DriftParams,
    DriftReportParams,
    GuardParams,
    ModeParams,
    ReferenceParams,
)
from lobsmith.params.fault import describe_fault, unknown_parameter
from lobsmith.params.gates import (
    EvaluationParams,
    GateParams,
    PairedParams,
    ParityParams,
    RollbackParams,
    ShadowParams,
    WalkForwardParams,
)
from lobsmith.params.market import (
    ContractParams,
    DataParams,
    LiquidityParams,
    LiveParams,
    ScreenParams,
    SimulatorParams,
)
from lobsmith.params.section import Section
from lobsmith.params.serving import (
    ClientParams,
    MirrorParams,
    PredictionLogParams,
    ReconcileParams,
    ReleaseParams,
    ServicesParams,
    ServingParams,
)
from lobsmith.params.surveillance import AccumulationParams, CrashParams, SurveillanceParams
from lobsmith.params.training import (
    CompressParams,
    EngineParams,
    FeatureParams,
    LabelParams,
    LossParams,
    ModelParams,
    NetworkName,
    PrecisionName,
    SplitParams,
    TrainParams,
    WindowParams,
)

__all__ = [
    "AccumulationParams",
    "ClientParams",
    "CompressParams",
    "ContractParams",
    "CrashParams",
    "DataParams",
    "DiscriminatorParams",
    "DriftParams",
    "DriftReportParams",
    "EngineParams",
    "EvaluationParams",
    "FeatureParams",
    "GateParams",
    "GuardParams",
    "LabelParams",
    "LiquidityParams",
    "LiveParams",
    "LossParams",
    "MirrorParams",
    "ModeParams",
    "ModelParams",
    "NetworkName",
    "PairedParams",
    "Params",
    "ParityParams",
    "PrecisionName",
    "PredictionLogParams",
    "ReconcileParams",
    "ReferenceParams",
    "ReleaseParams",
    "RollbackParams",
    "ScreenParams",
    "ServicesParams",
    "ServingParams",
    "ShadowParams",
    "SimulatorParams",
    "SplitParams",
    "SurveillanceParams",
    "TrainParams",
    "WalkForwardParams",
    "WindowParams",
    "as_table",
    "describe_fault",
    "load_params",
    "unknown_parameter",
]


class Params(Section, frozen=True):
    """All of `params.yaml`."""

    data: DataParams
    """Where market data comes from."""
    contract: ContractParams
    """Expectations of events and features."""
    window: WindowParams
    """Data that a retrain trains on."""
    features: FeatureParams
    """Constants of the feature kernel."""
    labels: LabelParams
    """Prediction targets."""
    split: SplitParams
    """Cuts of the window."""
    model: ModelParams
    """Network and name."""
    train: TrainParams
    """The training loop."""
    evaluation: EvaluationParams
    """Baselines of a model."""
    walk_forward: WalkForwardParams
    """Validation over time and market regimes."""
    compress: CompressParams
    """Compression candidates of a trained network."""
    engine: EngineParams
    """TensorRT plans."""
    gates: GateParams
    """Thresholds of the gates before publication."""
    release: ReleaseParams
    """Publication and retention of versions."""
    serving: ServingParams
    """Embedded Triton."""
    services: ServicesParams
    """Ports of the services of `lobsmith up`."""
    client: ClientParams
    """Trading client."""
    prediction_log: PredictionLogParams
    """Log of predictions and outcomes."""
    paired: PairedParams
    """Comparison of two versions on the same rows."""
    shadow: ShadowParams
    """Promotion or rejection of a candidate."""
    rollback: RollbackParams
    """Rollback of the active version."""
    drift: DriftParams
    """Drift checks."""
    drift_report: DriftReportParams
    """Reports of drift checks."""
    reference: ReferenceParams
    """Drift score of the client."""
    modes: ModeParams
    """Modes that drift leads to."""
    guard: GuardParams
    """Guard of a trading client."""
    mirror: MirrorParams
    """Live rows to the log and the shadow replicas."""
    reconcile: ReconcileParams
    """Reconciliation of repository and registry."""
    surveillance: SurveillanceParams
    """Market surveillance."""
    live: LiveParams = LiveParams()
    """Retention of a live feed."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        if len(self.train.horizon_weights) != len(self.labels.horizons_ms) or not sum(self.train.horizon_weights):
            raise ValueError("train.horizon_weights must have one weight for each of labels.horizons_ms, not all 0")
        if self.features.normaliser_minimum > self.features.normaliser_rows:
            raise ValueError("features.normaliser_minimum is larger than features.normaliser_rows")
        if list(self.labels.horizons_ms) != sorted(set(self.labels.horizons_ms)):
            raise ValueError("labels.horizons_ms must rise")


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML has libyaml; flows read the parameters every minute."""


def load_params(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read `params.yaml`.

    Args:
        path: the file.
        overrides: values that replace those of the file, by dotted name: `{"train.epochs": 2}`.

    Raises:
        ParamsError: the file is missing, is not YAML, lacks a key, has an unknown one, or a value is out of range.
    """
    path = Path(path)
    try:
        table = yaml.load(path.read_text(), _LOADER)  # noqa: S506 - it is a safe one
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `lobsmith init` writes one, --root names a project") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    overrides = overrides or {}
    for name, value in overrides.items():
        if (unknown := unknown_parameter(name.split("."), Params)) is not None:
            raise ParamsError(f"--set {name}={value}: {unknown}; see {path}")
        *sections, key = name.split(".")
        section = table
        for part in sections:
            section = section.setdefault(part, {}) if isinstance(section, dict) else None
        if isinstance(section, dict):  # else the file is wrong there
            section[key] = value
    try:
        return msgspec.convert(table, Params, strict=False)
    except msgspec.ValidationError as error:
        raise ParamsError(describe_fault(str(error), Params, table, path, overrides)) from error


def as_table(params: Params) -> dict[str, Any]:
    """Return the parameters as plain nested dictionaries, as in a manifest."""
    table: dict[str, Any] = msgspec.to_builtins(params)
    return table
