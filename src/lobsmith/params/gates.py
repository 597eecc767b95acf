"""Gates before publication and in live traffic."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import Positive, PositiveFloat, Section, Share, Weight
from lobsmith.params.training import NetworkName


class EvaluationParams(Section, frozen=True):
    """Baselines of a model, and the confidences of its evaluation."""

    rivals: tuple[NetworkName, ...]
    """Baseline networks, trained on the same rows."""
    seeds: tuple[int, ...]
    """Further training seeds of the model's network."""
    confidences: Annotated[tuple[Share, ...], Meta(min_length=1)]
    """Confidences that results are reported at, 0..1."""
    fees_bps: Weight
    """Fee of one side of a trade, bps."""


class WalkForwardParams(Section, frozen=True):
    """Walk-forward validation and regimes."""

    folds: Annotated[int, Meta(ge=1, le=50)]
    """Consecutive test spans over the newest half of the window, count."""
    epochs: Positive
    """Most training epochs of a fold, count."""
    epoch_s: PositiveFloat
    """Length of the spans sorted into regimes (calm, trending, volatile), s."""
    minimum_rows: Positive
    """Fewest rows of a regime that is judged, count."""


class ParityParams(Section, frozen=True):
    """Largest differences from the network's own outputs, by arithmetic."""

    fp32: PositiveFloat
    """Largest difference of an FP32 output from PyTorch's, share of the output where that is above 1."""
    fp16: PositiveFloat
    """Largest difference of an FP16 output, likewise."""
    bf16: PositiveFloat
    """Largest difference of a BF16 output, likewise."""
    int8: PositiveFloat
    """Largest difference of an `int8_static` or `int8_dynamic` output, likewise."""

    def of(self, precision: str) -> float:
        """Return the threshold of a precision; `int8_static` and `int8_dynamic` share one."""
        return float(getattr(self, precision.partition("_")[0]))


class GateParams(Section, frozen=True):
    """Thresholds of the gates before publication."""

    parity: ParityParams
    """Limits of the exported network beside PyTorch's."""
    skill: PositiveFloat
    """Log-loss at the first horizon that the 95 % interval must stay below, share of the base rate's."""
    calibration: float
    """Largest calibration error beyond the 95th percentile of perfect probabilities."""
    walk_forward: PositiveFloat
    """Log-loss that the worst regime must stay below, share of the base rate's."""


class PairedParams(Section, frozen=True):
    """Comparison of two versions on the same rows of live traffic."""

    longest_ms: Positive
    """Longest compared horizon; the mean log-loss up to it counts, ms."""
    block_s: PositiveFloat
    """Least length of a block, whose mean difference is an observation, s."""
    horizons_per_block: PositiveFloat
    """Least length of a block, longest compared horizons."""
    correlation_times: PositiveFloat
    """Least length of a block, correlation times of the difference."""
    block_rows: Positive
    """Fewest compared rows of a block, count."""
    measure_s: PositiveFloat
    """Traffic that the block length is measured on, not tested, s."""
    clip: PositiveFloat
    """Clip of a block's difference, deviations of the blocks before."""


class ShadowParams(Section, frozen=True):
    """Promotion or rejection of a candidate, in shadow evaluation or an A/B test."""

    alpha: Annotated[float, Meta(gt=0, lt=1)]
    """Largest probability that a candidate that is no better is promoted, over all checks, 0..1."""
    minimum_s: Weight
    """Tested traffic before losses decide, s."""
    minimum_blocks: Positive
    """Tested blocks before losses decide, count."""
    maximum_s: PositiveFloat
    """Traffic after which a candidate without evidence is rejected, s."""
    rows: Positive
    """Rows before the share of unanswered ones counts, count."""
    unanswered: Share
    """Largest share of unanswered rows beyond production's, 0..1."""
    probes: Annotated[int, Meta(ge=0)]
    """Single-row requests of each version before latencies count; 0 skips them, count."""
    latency_p50: PositiveFloat
    """Largest median latency, multiple of production's."""
    latency_p99: PositiveFloat
    """Largest p99 latency, multiple of production's."""
    share: Annotated[float, Meta(ge=0, lt=1)]
    """Share of blocks that the candidate answers in an A/B test; 0 for no test, 0..1."""
    salt: str
    """Text that seeds the draw of blocks."""
    arm_s: PositiveFloat
    """Length of the A/B test's blocks, s."""

    def __post_init__(self) -> None:
        """Refuse an end before the earliest decision."""
        if self.maximum_s < self.minimum_s:
            raise ValueError("shadow.maximum_s is shorter than shadow.minimum_s")


class RollbackParams(Section, frozen=True):
    """Rollback of the active version."""

    alpha: Annotated[float, Meta(gt=0, lt=1)]
    """Largest probability that a version that is no worse is ever rolled back for its losses, 0..1."""
    margin: Weight
    """Tolerated excess of the log-loss, nats a row."""
    minimum_blocks: Positive
    """Tested blocks before losses decide, count."""
    watch_s: PositiveFloat
    """Length of an epoch, after which evidence is counted anew at a stricter threshold, s."""
    window_s: PositiveFloat
    """Length of the newest stretch of rows, for the limits below, s."""
    rows: Positive
    """Fewest rows of that stretch for a limit to be checked, count."""
    floor: Annotated[float, Meta(gt=1)]
    """Largest log-loss at the first horizon, multiple of the base rate's and of the fallback's."""
    least_base: PositiveFloat
    """Lower bound of the base rate's log-loss, nats."""
    unanswered: Share
    """Largest share of unanswered rows, 0..1."""
    malformed: Share
    """Largest share of answers that are no probabilities, 0..1."""
    saturated_at: Annotated[float, Meta(gt=0.5, le=1)]
    """Probability of a saturated answer, 0..1."""
    saturated: Share
    """Largest share of saturated answers, 0..1."""
    latency_p99_ms: PositiveFloat
    """Largest p99 latency of answered rows, ms."""
