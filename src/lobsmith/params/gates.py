"""What a version is judged by, before it is published and in live traffic."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import Positive, PositiveFloat, Section, Share, Weight
from lobsmith.params.training import NetworkName


class EvaluationParams(Section, frozen=True):
    """What a model is held against, and at which confidences."""

    rivals: tuple[NetworkName, ...]
    """Networks that are trained beside the model, on the same rows."""
    seeds: tuple[int, ...]
    """Further seeds that the model's network is trained with, to see their spread."""
    confidences: Annotated[tuple[Share, ...], Meta(min_length=1)]
    """Confidences that results are reported at, 0..1."""
    fees_bps: Weight
    """Fee of one side of a trade, bps."""


class WalkForwardParams(Section, frozen=True):
    """Validation over time and market regimes."""

    folds: Annotated[int, Meta(ge=1, le=50)]
    """Consecutive test spans over the newest half of the window, count."""
    epochs: Positive
    """Epochs of training of each fold at most, count."""
    epoch_s: PositiveFloat
    """Length of the spans that are sorted into the regimes calm, trending and volatile, s."""
    minimum_rows: Positive
    """Scored rows below which a regime is reported, not judged."""


class ParityParams(Section, frozen=True):
    """How far any output may be from the network's own, by arithmetic."""

    fp32: PositiveFloat
    """Largest difference of an FP32 output from PyTorch's, as a share of the output where that is above 1."""
    fp16: PositiveFloat
    """Largest difference of an FP16 output, likewise."""
    bf16: PositiveFloat
    """Largest difference of a BF16 output, likewise."""
    int8: PositiveFloat
    """Largest difference of an output of `int8_static` or `int8_dynamic`, likewise."""

    def of(self, precision: str) -> float:
        """Return the threshold of a precision; `int8_static` and `int8_dynamic` share one."""
        return float(getattr(self, precision.partition("_")[0]))


class GateParams(Section, frozen=True):
    """Thresholds of the gates."""

    parity: ParityParams
    """Limits of the exported network beside PyTorch's."""
    skill: PositiveFloat
    """Log-loss at the first horizon, share of the base rate's, that the 95 % interval must stay below."""
    calibration: float
    """Largest calibration error beyond the 95th percentile of what perfect probabilities would show."""
    walk_forward: PositiveFloat
    """Log-loss in the worst regime, share of the base rate's, that must be undercut."""


class PairedParams(Section, frozen=True):
    """How two versions are compared on the same rows of live traffic."""

    longest_ms: Positive
    """Longest horizon that is judged, ms; the mean log-loss of those up to it is compared."""
    block_s: PositiveFloat
    """Least length of a block of time, whose mean difference is one observation, s."""
    horizons_per_block: PositiveFloat
    """Least length of a block in multiples of the longest horizon judged."""
    correlation_times: PositiveFloat
    """Least length of a block in measured correlation times of the difference."""
    block_rows: Positive
    """Compared rows below which a block is left out."""
    measure_s: PositiveFloat
    """Traffic that length and size of blocks' differences are first measured on, not judged, s."""
    clip: PositiveFloat
    """Size at which a block's difference is cut, in deviations of those before."""


class ShadowParams(Section, frozen=True):
    """When a candidate beside production, or on a share of its traffic, is promoted or rejected."""

    alpha: Annotated[float, Meta(gt=0, lt=1)]
    """Largest probability that a candidate that is no better is promoted, over all checks, 0..1."""
    minimum_s: Weight
    """Judged traffic before losses decide, s."""
    minimum_blocks: Positive
    """Judged blocks before losses decide, count."""
    maximum_s: PositiveFloat
    """Traffic, judged or not, after which a candidate without evidence for it is rejected, s."""
    rows: Positive
    """Rows before the share of unanswered ones counts."""
    unanswered: Share
    """Share of rows that the candidate may leave unanswered beyond production's, 0..1."""
    probes: Annotated[int, Meta(ge=0)]
    """Single-row requests of each version before latencies count, count; 0 does not compare them."""
    latency_p50: PositiveFloat
    """Largest median latency of the candidate, as a multiple of production's."""
    latency_p99: PositiveFloat
    """Largest 99th percentile of the candidate's latency, as a multiple of production's."""
    share: Annotated[float, Meta(ge=0, lt=1)]
    """Share of the blocks of time that the candidate answers in an A/B test, 0..1; 0 for no test."""
    salt: str
    """Text that blocks are drawn with; another one draws other blocks."""
    arm_s: PositiveFloat
    """Length of the blocks of the A/B test, s."""

    def __post_init__(self) -> None:
        """Refuse an end that comes before the earliest decision."""
        if self.maximum_s < self.minimum_s:
            raise ValueError("shadow.maximum_s is shorter than shadow.minimum_s")


class RollbackParams(Section, frozen=True):
    """When the active version is taken back."""

    alpha: Annotated[float, Meta(gt=0, lt=1)]
    """Largest probability that a version that is no worse is ever rolled back for its losses, 0..1."""
    margin: Weight
    """Log-loss by which the active version may be worse, nats a row."""
    minimum_blocks: Positive
    """Judged blocks before losses decide, count."""
    watch_s: PositiveFloat
    """Time after which evidence is counted anew, at a stricter threshold each time, s."""
    window_s: PositiveFloat
    """Length of the newest stretch of rows, which the limits below are for, s."""
    rows: Positive
    """Rows of that stretch below which no limit is checked."""
    floor: Annotated[float, Meta(gt=1)]
    """Largest log-loss at the first horizon, as a multiple of the base rate's and of the fallback's."""
    least_base: PositiveFloat
    """Log-loss that a lower base rate's counts as, nats."""
    unanswered: Share
    """Largest share of rows without an answer, 0..1."""
    malformed: Share
    """Largest share of rows whose answers are no probabilities, 0..1."""
    saturated_at: Annotated[float, Meta(gt=0.5, le=1)]
    """Probability from which an answer is saturated, 0..1."""
    saturated: Share
    """Largest share of answers that are saturated, 0..1."""
    latency_p99_ms: PositiveFloat
    """Largest 99th percentile of the latency of answered rows, ms."""
