"""The parameters of `params.yaml`, checked on load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from lobsmith.errors import ParamsError

Positive = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
# The endings belong to the candidate slot, to TensorRT plans and to the reference score.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}(?<!_candidate)(?<!_trt)(?<!_drift)\Z")]

_MAXIMUM_BUCKETS = 1_000_000
_MINIMUM_STEPS = 3
_LARGEST_CHUNK = 256
_LONGEST_S = 1e8
"""Three years: times are counted in ns of 64 bits, and a few windows are added up."""


NetworkName = Literal["cnn_lstm_attention", "lstm", "volatility", "logistic", "queue_imbalance", "deeplob", "bin_ctabl"]
PrecisionName = Literal["fp32", "int8_dynamic", "int8_static", "fp16", "bf16"]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of `params.yaml`: immutable, and no key is accepted that is not declared."""


class SimulatorParams(_Section, frozen=True):
    """The seeded simulator."""

    seed: int
    seconds: Positive


class ScreenParams(_Section, frozen=True):
    """When the screen takes a feed for faulty; milliseconds."""

    clock_tolerance_ms: PositiveFloat = 100.0
    clock_settle_ms: PositiveFloat = 2_000.0
    stale_ms: PositiveFloat = 1_000.0
    silence_ms: PositiveFloat = 10_000.0
    crossed_ms: PositiveFloat = 2_000.0


class DataParams(_Section, frozen=True):
    """Where market data comes from."""

    source: str
    captures: tuple[str, ...]
    instrument: str
    """`venue:symbol` to train on; empty takes the first that passes its contract."""
    simulator: SimulatorParams
    screen: ScreenParams


class LiquidityParams(_Section, frozen=True):
    """What makes a symbol tradable."""

    minimum_daily_volume_btc: Annotated[float, Meta(ge=0)]
    maximum_spread: PositiveFloat
    """Share of the mid, time-weighted."""
    btc_price: Annotated[float, Meta(ge=0)]
    """For symbols of another base, in their quote currency; 0 takes it from a BTC symbol of the same run."""


class ContractParams(_Section, frozen=True):
    """What events and features must look like."""

    minimum_seconds: Annotated[float, Meta(ge=0)]
    maximum_set_aside: Share
    maximum_gaps_per_hour: Annotated[float, Meta(ge=0)]
    maximum_crossed: Share
    maximum_latency_s: PositiveFloat
    maximum_clock_offset_s: PositiveFloat
    maximum_feature: PositiveFloat
    maximum_constant_columns: Annotated[int, Meta(ge=0)]
    minimum_complete: Share
    minimum_label_share: Share
    liquidity: LiquidityParams


class WindowParams(_Section, frozen=True):
    """Which data a retrain learns from."""

    length_s: PositiveFloat
    minimum_coverage: Share
    minimum_rows: Positive


class FeatureParams(_Section, frozen=True):
    """Constants of the feature kernel; part of the wire contract."""

    normaliser_rows: Annotated[int, Meta(ge=2, le=100_000)]
    normaliser_minimum: Annotated[int, Meta(ge=2)]
    flow_decays_s: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
    size_decay_s: PositiveFloat
    volatility_short_s: PositiveFloat
    volatility_long_s: PositiveFloat


class LabelParams(_Section, frozen=True):
    """What is predicted; part of the wire contract."""

    horizons_ms: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    significant_bps: PositiveFloat
    withdrawal: Annotated[float, Meta(gt=0, lt=1)]


class SplitParams(_Section, frozen=True):
    """How the window is cut, in time order: `test` is a share of all rows, `validation` one of the rest."""

    test: Annotated[float, Meta(gt=0, lt=1)]
    validation: Annotated[float, Meta(gt=0, lt=1)]
    embargo_ms: Annotated[int, Meta(ge=0)]


class ModelParams(_Section, frozen=True):
    """The network and the name it is served under."""

    name: Name
    network: NetworkName
    channels: Positive
    hidden: Positive
    layers: Positive
    ring: Positive
    attention: Positive


class LossParams(_Section, frozen=True):
    """Weights of the loss's terms."""

    direction: Weight
    significant: Weight
    withdrawal: Weight
    move: Weight
    volatility: Weight
    hinge: Weight
    false_alarm: Weight


class TrainParams(_Section, frozen=True):
    """The training loop."""

    seed: int
    threads: Positive
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["float32", "bfloat16"]
    epochs: Positive
    sequence: Positive
    burn_in: Annotated[int, Meta(ge=0)]
    pool: bool
    batch: Positive
    accumulation: Positive
    sequences_per_epoch: Positive
    windows_per_epoch: Positive
    window_batch: Positive
    window_patience: Positive
    learning_rate: PositiveFloat
    smallest_rate: PositiveFloat
    weight_decay: Weight
    gradient_clip: PositiveFloat
    patience: Positive
    rate_patience: Positive
    prior: Weight
    priority: Annotated[float, Meta(ge=1)]
    uniform_share: Annotated[float, Meta(ge=0, le=1)]
    mirror: Annotated[float, Meta(ge=0, le=1)]
    feature_dropout: Annotated[float, Meta(ge=0, lt=1)]
    horizon_weights: tuple[Weight, ...]
    calibration_prior: PositiveFloat
    loss: LossParams


class EvaluationParams(_Section, frozen=True):
    """What a model is held against, and at which confidences."""

    rivals: tuple[NetworkName, ...]
    seeds: tuple[int, ...]
    confidences: Annotated[tuple[Share, ...], Meta(min_length=1)]
    fees_bps: Weight


class WalkForwardParams(_Section, frozen=True):
    """Validation over time and market epochs."""

    folds: Annotated[int, Meta(ge=1, le=50)]
    epochs: Positive
    epoch_s: PositiveFloat
    minimum_rows: Positive


class CompressParams(_Section, frozen=True):
    """Which candidates are made of a trained network, and what the chosen one may lose."""

    use: Literal["step", "chunk", "batch"]
    pruning: tuple[Annotated[float, Meta(gt=0, lt=1)], ...]
    fine_tune_epochs: Positive
    precisions: Annotated[tuple[PrecisionName, ...], Meta(min_length=1)]
    calibration: Literal["percentile", "entropy"]
    percentile: Annotated[float, Meta(gt=50, le=100)]
    calibration_rows: Annotated[int, Meta(ge=64)]
    log_loss: Weight
    agreement: Share
    calls: Annotated[int, Meta(ge=100, le=1_000_000)]
    candidate: str
    """Name of the one to take whatever its speed; empty for the fastest inside the budget."""

    def __post_init__(self) -> None:
        """Refuse a choice that has nothing to fall back to."""
        if "fp32" not in self.precisions:
            raise ValueError("compress.precisions must have fp32: every other candidate is held against it")
        for name, values in (("pruning", [f"{share:.2%}" for share in self.pruning]), ("precisions", self.precisions)):
            if len(set(values)) != len(values):
                raise ValueError(f"compress.{name} names one of them twice")


class EngineParams(_Section, frozen=True):
    """How TensorRT plans are built."""

    builder: Literal["auto", "tensorrt", "tensorrt_rtx", "none"]
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    capabilities: tuple[Annotated[str, Meta(pattern=r"^\d{1,2}\.\d$")], ...]
    largest_batch: Annotated[int, Meta(ge=1, le=65_536)]
    largest_chunk: Annotated[int, Meta(ge=1, le=256)]
    deadline_s: PositiveFloat
    memory_mib: Annotated[int, Meta(ge=256)]

    def __post_init__(self) -> None:
        """Refuse plans that could not be served."""
        if self.builder in ("auto", "tensorrt") and self.largest_chunk != _LARGEST_CHUNK:
            raise ValueError(f"engine.largest_chunk must be {_LARGEST_CHUNK}: a request may carry as many rows")


class ParityParams(_Section, frozen=True):
    """How far any output may be from the network's own, by arithmetic."""

    fp32: PositiveFloat
    fp16: PositiveFloat
    bf16: PositiveFloat
    int8: PositiveFloat

    def of(self, precision: str) -> float:
        """Return the threshold of a precision; `int8_static` and `int8_dynamic` share one."""
        return float(getattr(self, precision.partition("_")[0]))


class GateParams(_Section, frozen=True):
    """Thresholds of the gates."""

    parity: ParityParams
    skill: PositiveFloat
    calibration: float
    walk_forward: PositiveFloat


class ReleaseParams(_Section, frozen=True):
    """How versions come and go."""

    keep: Annotated[int, Meta(ge=2)]
    """The active version and its fallback at least."""
    lease_s: Annotated[float, Meta(ge=1)]


class ServingParams(_Section, frozen=True):
    """The embedded Triton.

    `modes_port` is that of the pages of modes, which the supervisor itself serves; the other ports are Triton's.
    `warmup` rows of zeros are answered before a version is READY, by `model_warmup` in its configuration; `warmup_rows`
    real ones after it, before a publisher trusts it.
    """

    host: str
    http_port: Port
    grpc_port: Port
    metrics_port: Port
    modes_port: Port
    max_batch: Positive
    warmup: Annotated[int, Meta(ge=0)]
    warmup_rows: Annotated[int, Meta(ge=2)]
    start_deadline_s: PositiveFloat
    load_deadline_s: PositiveFloat
    stop_deadline_s: PositiveFloat


class ClientParams(_Section, frozen=True):
    """The trading client."""

    deadline_s: PositiveFloat
    poll_s: PositiveFloat


class PredictionLogParams(_Section, frozen=True):
    """The log of predictions and their outcomes."""

    flush_s: PositiveFloat
    keep_days: PositiveFloat
    busy_s: PositiveFloat


class PairedParams(_Section, frozen=True):
    """How two versions are compared on the same rows of live traffic."""

    longest_ms: Positive
    block_s: PositiveFloat
    horizons_per_block: PositiveFloat
    correlation_times: PositiveFloat
    block_rows: Positive
    measure_s: PositiveFloat
    clip: PositiveFloat


class ShadowParams(_Section, frozen=True):
    """When a candidate beside production, or on a share of its traffic, is promoted or rejected."""

    alpha: Annotated[float, Meta(gt=0, lt=1)]
    minimum_s: Weight
    minimum_blocks: Positive
    maximum_s: PositiveFloat
    rows: Positive
    unanswered: Share
    probes: Annotated[int, Meta(ge=0)]
    latency_p50: PositiveFloat
    latency_p99: PositiveFloat
    share: Annotated[float, Meta(ge=0, lt=1)]
    salt: str
    arm_s: PositiveFloat

    def __post_init__(self) -> None:
        """Refuse an end that comes before the earliest decision."""
        if self.maximum_s < self.minimum_s:
            raise ValueError("shadow.maximum_s is shorter than shadow.minimum_s")


class RollbackParams(_Section, frozen=True):
    """When the active version is taken back."""

    alpha: Annotated[float, Meta(gt=0, lt=1)]
    margin: Weight
    minimum_blocks: Positive
    watch_s: PositiveFloat
    window_s: PositiveFloat
    rows: Positive
    floor: Annotated[float, Meta(gt=1)]
    least_base: PositiveFloat
    unanswered: Share
    malformed: Share
    saturated_at: Annotated[float, Meta(gt=0.5, le=1)]
    saturated: Share
    latency_p99_ms: PositiveFloat


class MirrorParams(_Section, frozen=True):
    """The way of live rows to the prediction log and to the versions that are mirrored."""

    ring_rows: Positive
    queue_rows: Annotated[int, Meta(ge=_LARGEST_CHUNK)]
    deadline_s: PositiveFloat
    probe_s: PositiveFloat
    drain_s: PositiveFloat


class ReconcileParams(_Section, frozen=True):
    """How the repository is made to follow the registry."""

    retry_s: PositiveFloat
    lease_s: Annotated[float, Meta(ge=1)]
    wait_s: Weight


class DiscriminatorParams(_Section, frozen=True):
    """The network that learns to tell old rows from new ones."""

    seed: int
    hidden: Positive
    folds: Annotated[int, Meta(ge=2, le=20)]
    """Blocks of time that are held out in turn."""
    rows: Annotated[int, Meta(ge=100)]
    """Of each of the two windows, at most."""
    seconds: PositiveFloat
    """Of training, at most."""


class DriftParams(_Section, frozen=True):
    """What recent rows are compared with, and when they count as others."""

    every_ms: Positive
    reference_s: PositiveFloat
    recent_s: PositiveFloat
    minimum_rows: Annotated[int, Meta(ge=20)]
    past_pairs: Annotated[int, Meta(ge=40)]
    pairs_a_look: Positive
    false_alarms_a_day: PositiveFloat
    look_s: PositiveFloat
    raw_keep_days: PositiveFloat
    gate_level: Annotated[float, Meta(gt=0, lt=1)]
    feed_limit: Share
    discriminator: DiscriminatorParams

    def __post_init__(self) -> None:
        """Refuse windows that could never hold enough rows: every look would find missing data."""
        if not self.recent_s <= self.reference_s <= _LONGEST_S:
            raise ValueError(f"drift.recent_s must not be above drift.reference_s, nor that above {_LONGEST_S:g} s")
        if self.recent_s * 1000 / self.every_ms < self.minimum_rows:
            raise ValueError(
                f"drift.recent_s = {self.recent_s:g} s hold fewer than drift.minimum_rows = {self.minimum_rows} rows, "
                f"one in each drift.every_ms = {self.every_ms} ms"
            )


class DriftReportParams(_Section, frozen=True):
    """Reports about looks for drift."""

    rows: Annotated[int, Meta(ge=20)]
    deadline_s: PositiveFloat
    keep_evidently: Positive
    keep_pages: Positive
    keep_looks: Positive

    def __post_init__(self) -> None:
        """Refuse to keep reports of looks that are forgotten."""
        if not self.keep_evidently <= self.keep_pages <= self.keep_looks:
            raise ValueError("drift_report.keep_evidently, keep_pages and keep_looks must not fall")


class ReferenceParams(_Section, frozen=True):
    """The score of one class that clients compute themselves."""

    block_rows: Annotated[int, Meta(ge=16, le=_LARGEST_CHUNK)]
    held_out: Annotated[float, Meta(gt=0, lt=1)]
    false_alarms_a_day: PositiveFloat


class ModeParams(_Section, frozen=True):
    """What drift leads to."""

    drift_looks: Positive
    paused_looks: Positive
    calm_looks: Positive
    stale_s: PositiveFloat
    win_rate: Annotated[float, Meta(gt=0.5, lt=1)]
    minimum_count: Positive
    buckets: Annotated[int, Meta(ge=2, le=1000)]
    win_rows: Positive
    retrain_every_s: PositiveFloat


class GuardParams(_Section, frozen=True):
    """What a trading client makes of the mode and of its own last rows."""

    shortest: Annotated[int, Meta(ge=16)]
    every_rows: Positive
    alarms: Positive
    of: Positive
    calm: Annotated[float, Meta(gt=0, le=1)]
    calm_blocks: Positive
    silent_s: PositiveFloat

    def __post_init__(self) -> None:
        """Refuse an alarm that could never be raised."""
        if self.alarms > self.of:
            raise ValueError("guard.alarms is larger than guard.of")


class CrashParams(_Section, frozen=True):
    """When a fall of the price is a flash crash."""

    drop: Annotated[float, Meta(gt=0, lt=1)]
    window_s: PositiveFloat
    volume: PositiveFloat
    volume_window_s: PositiveFloat
    average_s: PositiveFloat
    minimum_average_s: PositiveFloat
    impact: Annotated[float, Meta(gt=0, le=1)]
    recovery: Share
    rearm_s: PositiveFloat
    bucket_ms: Positive

    def __post_init__(self) -> None:
        """Refuse windows that contradict each other or do not fit into their rings."""
        for name in ("window_s", "volume_window_s", "average_s"):
            buckets = getattr(self, name) * 1000 / self.bucket_ms
            if abs(buckets - round(buckets)) > 1e-6 or not 1 <= round(buckets) <= _MAXIMUM_BUCKETS:
                raise ValueError(f"surveillance.crash.{name} must be 1 to {_MAXIMUM_BUCKETS} times bucket_ms")
        if not self.volume_window_s <= self.minimum_average_s <= self.average_s:
            raise ValueError(
                "surveillance.crash.minimum_average_s must lie between volume_window_s and average_s, both included"
            )
        if self.window_s > self.average_s:
            raise ValueError("surveillance.crash.window_s is longer than surveillance.crash.average_s")
        if self.rearm_s < self.window_s:
            raise ValueError("surveillance.crash.rearm_s is shorter than window_s: one peak could raise two alerts")


class AccumulationParams(_Section, frozen=True):
    """How accumulation patterns are measured."""

    window_s: PositiveFloat
    step_ms: Positive
    lifetime_ms: Positive
    supply: Annotated[float, Meta(ge=0)]
    """Circulating supply in base units; 0 takes visible depth in its place."""
    layering_half: PositiveFloat
    cancel_half: PositiveFloat
    layering_weight: Share

    def __post_init__(self) -> None:
        """Refuse a window that is not made of steps."""
        steps = self.window_s * 1000 / self.step_ms
        if abs(steps - round(steps)) > 1e-6 or not _MINIMUM_STEPS <= round(steps) <= _MAXIMUM_BUCKETS:
            raise ValueError(
                f"surveillance.accumulation.window_s must be {_MINIMUM_STEPS} to {_MAXIMUM_BUCKETS} times step_ms"
            )


class SurveillanceParams(_Section, frozen=True):
    """What the market is watched for."""

    crash: CrashParams
    accumulation: AccumulationParams


class Params(_Section, frozen=True):
    """All of `params.yaml`."""

    data: DataParams
    contract: ContractParams
    window: WindowParams
    features: FeatureParams
    labels: LabelParams
    split: SplitParams
    model: ModelParams
    train: TrainParams
    evaluation: EvaluationParams
    walk_forward: WalkForwardParams
    compress: CompressParams
    engine: EngineParams
    gates: GateParams
    release: ReleaseParams
    serving: ServingParams
    client: ClientParams
    prediction_log: PredictionLogParams
    paired: PairedParams
    shadow: ShadowParams
    rollback: RollbackParams
    drift: DriftParams
    drift_report: DriftReportParams
    reference: ReferenceParams
    modes: ModeParams
    guard: GuardParams
    mirror: MirrorParams
    reconcile: ReconcileParams
    surveillance: SurveillanceParams

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        if len(self.train.horizon_weights) != len(self.labels.horizons_ms) or not sum(self.train.horizon_weights):
            raise ValueError("train.horizon_weights must have one weight for each of labels.horizons_ms, not all 0")
        if self.features.normaliser_minimum > self.features.normaliser_rows:
            raise ValueError("features.normaliser_minimum is larger than features.normaliser_rows")
        if list(self.labels.horizons_ms) != sorted(set(self.labels.horizons_ms)):
            raise ValueError("labels.horizons_ms must rise")


def load_params(path: Path, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read `params.yaml`.

    Args:
        path: the file.
        overrides: values that replace those of the file, keyed by dotted name: `{"train.epochs": 2}`.

    Raises:
        ParamsError: the file is missing, is not YAML, lacks a key, has an unknown one, or a value is out of range.
    """
    try:
        table = yaml.safe_load(path.read_text())
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
