"""Drift checks, drift score and modes."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import LARGEST_CHUNK, Positive, PositiveFloat, Section, Share

_LONGEST_S = 1e8
"""Three years: times are int64 ns, and a few windows are added up."""


class DiscriminatorParams(Section, frozen=True):
    """The network that separates old rows from new ones."""

    seed: int
    """Seed of initial weights and batches."""
    hidden: Positive
    """Hidden units, count."""
    folds: Annotated[int, Meta(ge=2, le=20)]
    """Blocks of time held out in turn, count."""
    rows: Annotated[int, Meta(ge=100)]
    """Most rows of either window, count."""
    seconds: PositiveFloat
    """Longest training in one drift check, s."""


class DriftParams(Section, frozen=True):
    """Windows and limits of drift checks."""

    every_ms: Positive
    """Thinning interval, of which the first row is used, ms."""
    reference_s: PositiveFloat
    """Length of the reference window, the newest part of the training window, s."""
    recent_s: PositiveFloat
    """Length of the current window, the newest live rows, s."""
    minimum_rows: Annotated[int, Meta(ge=20)]
    """Fewest rows of either window, count."""
    past_pairs: Annotated[int, Meta(ge=40)]
    """Fewest past pairs of windows in a null distribution, count."""
    pairs_a_look: Positive
    """Missing past pairs measured per drift check, count."""
    false_alarms_a_day: PositiveFloat
    """Budget of false alarms, all kinds of drift together, count per day."""
    look_s: PositiveFloat
    """Time between drift checks, the schedule in `prefect.yaml`, s."""
    raw_keep_days: PositiveFloat
    """Age at which raw rows of the prediction log are deleted, days."""
    gate_level: Annotated[float, Meta(gt=0, lt=1)]
    """P-value at or below which a window is not trained on or a candidate not promoted, 0..1."""
    feed_limit: Share
    """Largest share of features out of bounds or standing still in a new window, 0..1."""
    discriminator: DiscriminatorParams
    """Network that separates the windows."""

    def __post_init__(self) -> None:
        """Refuse windows that could never hold enough rows."""
        if not self.recent_s <= self.reference_s <= _LONGEST_S:
            raise ValueError(f"drift.recent_s must not be above drift.reference_s, nor that above {_LONGEST_S:g} s")
        if self.recent_s * 1000 / self.every_ms < self.minimum_rows:
            raise ValueError(
                f"drift.recent_s = {self.recent_s:g} s hold fewer than drift.minimum_rows = {self.minimum_rows} rows, "
                f"one in each drift.every_ms = {self.every_ms} ms"
            )


class DriftReportParams(Section, frozen=True):
    """Reports of drift checks."""

    rows: Annotated[int, Meta(ge=20)]
    """Most rows of each side that Evidently draws, evenly over time, count."""
    deadline_s: PositiveFloat
    """Time after which Evidently is ended and its report skipped, s."""
    keep_evidently: Positive
    """Evidently reports kept, count."""
    keep_pages: Positive
    """Pages kept, count."""
    keep_looks: Positive
    """Drift checks kept in the history, count."""

    def __post_init__(self) -> None:
        """Refuse to keep reports of checks that are no longer in the history."""
        if not self.keep_evidently <= self.keep_pages <= self.keep_looks:
            raise ValueError("drift_report.keep_evidently, keep_pages and keep_looks must not fall")


class ReferenceParams(Section, frozen=True):
    """The one-class drift score of clients."""

    block_rows: Annotated[int, Meta(ge=16, le=LARGEST_CHUNK)]
    """Newest thinned rows of a stream in a scored block, count."""
    held_out: Annotated[float, Meta(gt=0, lt=1)]
    """Share of the training window, its newest rows, that calibrates thresholds, 0..1."""
    false_alarms_a_day: PositiveFloat
    """Budget of false alarms, count per day."""


class ModeParams(Section, frozen=True):
    """Modes that drift leads to."""

    drift_looks: Positive
    """Successive checks with drift before the mode turns conservative, count."""
    paused_looks: Positive
    """Successive checks with concept drift before the mode turns paused, count."""
    calm_looks: Positive
    """Successive checks without drift before the mode recovers by one level, count."""
    stale_s: PositiveFloat
    """Time without a check after which the mode is stale, s."""
    win_rate: Annotated[float, Meta(gt=0.5, lt=1)]
    """Hit rate above which conservative mode acts at a confidence, 0..1."""
    minimum_count: Positive
    """Fewest answers behind that hit rate, count."""
    buckets: Annotated[int, Meta(ge=2, le=1000)]
    """Buckets of confidence from 1/3 to 1, count."""
    win_rows: Positive
    """Newest answers of an instrument in the hit rates; in whole sessions, at most twice as many, count."""
    retrain_every_s: PositiveFloat
    """Least time between two retrains requested by drift, s."""


class GuardParams(Section, frozen=True):
    """A trading client's use of the mode and of its drift score."""

    shortest: Annotated[int, Meta(ge=16)]
    """Fewest thinned rows of a new stream to be scored, count."""
    every_rows: Positive
    """Thinned rows between scored blocks, count."""
    alarms: Positive
    """Scores above 1, among the last `of`, that turn the client conservative, count."""
    of: Positive
    """Last scores considered, count."""
    calm: Annotated[float, Meta(gt=0, le=1)]
    """Score below which a block is calm, alarm thresholds."""
    calm_blocks: Positive
    """Successive calm blocks that end the alarm, count."""
    silent_s: PositiveFloat
    """Delay after which an overdue health check counts as failed, s."""

    def __post_init__(self) -> None:
        """Refuse an alarm that could never be raised."""
        if self.alarms > self.of:
            raise ValueError("guard.alarms is larger than guard.of")
