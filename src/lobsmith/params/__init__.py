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
    "load_params",
]


class Params(Section, frozen=True):
    """All of `params.yaml`."""

    data: DataParams
    """Where market data comes from."""
    contract: ContractParams
    """What events and features must look like."""
    window: WindowParams
    """Which data a retrain learns from."""
    features: FeatureParams
    """Constants of the feature kernel."""
    labels: LabelParams
    """What is predicted."""
    split: SplitParams
    """How the window is cut."""
    model: ModelParams
    """The network and its name."""
    train: TrainParams
    """The training loop."""
    evaluation: EvaluationParams
    """What a model is held against."""
    walk_forward: WalkForwardParams
    """Validation over time and market regimes."""
    compress: CompressParams
    """Which candidates are made of a trained network."""
    engine: EngineParams
    """How TensorRT plans are built."""
    gates: GateParams
    """Thresholds of the gates before publication."""
    release: ReleaseParams
    """How versions come and go."""
    serving: ServingParams
    """The embedded Triton."""
    services: ServicesParams
    """Where the services of `lobsmith up` listen."""
    client: ClientParams
    """The trading client."""
    prediction_log: PredictionLogParams
    """The log of predictions and their outcomes."""
    paired: PairedParams
    """How two versions are compared on the same rows."""
    shadow: ShadowParams
    """When a candidate is promoted or rejected."""
    rollback: RollbackParams
    """When the active version is taken back."""
    drift: DriftParams
    """How drift is looked for."""
    drift_report: DriftReportParams
    """Reports about looks for drift."""
    reference: ReferenceParams
    """The score that clients compute themselves."""
    modes: ModeParams
    """What drift leads to."""
    guard: GuardParams
    """What a client makes of the mode and of its own rows."""
    mirror: MirrorParams
    """The way of live rows to the log and the mirrored versions."""
    reconcile: ReconcileParams
    """How the repository follows the registry."""
    surveillance: SurveillanceParams
    """What the market is watched for."""
    live: LiveParams = LiveParams()
    """What is kept of a live feed."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        if len(self.train.horizon_weights) != len(self.labels.horizons_ms) or not sum(self.train.horizon_weights):
            raise ValueError("train.horizon_weights must have one weight for each of labels.horizons_ms, not all 0")
        if self.features.normaliser_minimum > self.features.normaliser_rows:
            raise ValueError("features.normaliser_minimum is larger than features.normaliser_rows")
        if list(self.labels.horizons_ms) != sorted(set(self.labels.horizons_ms)):
            raise ValueError("labels.horizons_ms must rise")


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with libyaml; a flow reads the parameters every minute."""


def load_params(path: Path, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read `params.yaml`.

    Args:
        path: the file.
        overrides: values that replace those of the file, keyed by dotted name: `{"train.epochs": 2}`.

    Raises:
        ParamsError: the file is missing, is not YAML, lacks a key, has an unknown one, or a value is out of range.
    """
    try:
        table = yaml.load(path.read_text(), _LOADER)  # noqa: S506 - it is a safe one
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run in the project's folder or pass --root") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    for name, value in (overrides or {}).items():
        *sections, key = name.split(".")
        section = table
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or key not in section:
            raise ParamsError(f"{path}: there is no parameter {name}")
        section[key] = value
    try:
        return msgspec.convert(table, Params, strict=False)
    except msgspec.ValidationError as error:
        raise ParamsError(f"{path}: {error}") from error


def as_table(params: Params) -> dict[str, Any]:
    """Return the parameters as plain nested dictionaries, as a manifest stores them."""
    table: dict[str, Any] = msgspec.to_builtins(params)
    return table
