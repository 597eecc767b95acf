"""How drift is looked for, and what it leads to."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import LARGEST_CHUNK, Positive, PositiveFloat, Section, Share

_LONGEST_S = 1e8
"""Three years: times are counted in ns of 64 bits, and a few windows are added up."""


class DiscriminatorParams(Section, frozen=True):
    """The network that learns to tell old rows from new ones."""

    seed: int
    """Seed of the initial weights and of the batches."""
    hidden: Positive
    """Hidden units, count."""
    folds: Annotated[int, Meta(ge=2, le=20)]
    """Blocks of time that are held out in turn, count."""
    rows: Annotated[int, Meta(ge=100)]
    """Rows of each of the two windows, at most."""
    seconds: PositiveFloat
    """Time of training in one look, at most, s."""


class DriftParams(Section, frozen=True):
    """What recent rows are compared with, and when they count as others."""

    every_ms: Positive
    """Length of the slots of time of which the first row is looked at, ms."""
    reference_s: PositiveFloat
    """Length of the reference, the newest part of the training window, s."""
    recent_s: PositiveFloat
    """Length of the recent window, the newest live rows, s."""
    minimum_rows: Annotated[int, Meta(ge=20)]
    """Least rows of either window; fewer recent ones are missing data."""
    past_pairs: Annotated[int, Meta(ge=40)]
    """Pairs of past windows before anything can be said of a new one, count."""
    pairs_a_look: Positive
    """Missing pairs that one look measures, count."""
    false_alarms_a_day: PositiveFloat
    """Budget of false alarms, of all kinds of drift together, count per day."""
    look_s: PositiveFloat
    """Time from one look to the next, which is the schedule in `prefect.yaml`, s."""
    raw_keep_days: PositiveFloat
    """Age from which raw rows in the prediction log are deleted, days."""
    gate_level: Annotated[float, Meta(gt=0, lt=1)]
    """P-value from which down a window is not learnt, or a candidate not promoted, 0..1."""
    feed_limit: Share
    """Share of features that may lie outside all known rows, or stand still, in a new window, 0..1."""
    discriminator: DiscriminatorParams
    """The network that tells the windows apart."""

    def __post_init__(self) -> None:
        """Refuse windows that could never hold enough rows: every look would find missing data."""
        if not self.recent_s <= self.reference_s <= _LONGEST_S:
            raise ValueError(f"drift.recent_s must not be above drift.reference_s, nor that above {_LONGEST_S:g} s")
        if self.recent_s * 1000 / self.every_ms < self.minimum_rows:
            raise ValueError(
                f"drift.recent_s = {self.recent_s:g} s hold fewer than drift.minimum_rows = {self.minimum_rows} rows, "
                f"one in each drift.every_ms = {self.every_ms} ms"
            )


class DriftReportParams(Section, frozen=True):
    """Reports about looks for drift."""

    rows: Annotated[int, Meta(ge=20)]
    """Rows of each side that Evidently draws, at most, evenly over time."""
    deadline_s: PositiveFloat
    """Time after which Evidently is ended and the look counts without its report, s."""
    keep_evidently: Positive
    """Newest reports of Evidently that are kept, count."""
    keep_pages: Positive
    """Newest pages of lobsmith's own that are kept, count."""
    keep_looks: Positive
    """Newest looks that stay in the history, count."""

    def __post_init__(self) -> None:
        """Refuse to keep reports of looks that are forgotten."""
        if not self.keep_evidently <= self.keep_pages <= self.keep_looks:
            raise ValueError("drift_report.keep_evidently, keep_pages and keep_looks must not fall")


class ReferenceParams(Section, frozen=True):
    """The score of one class that clients compute themselves."""

    block_rows: Annotated[int, Meta(ge=16, le=LARGEST_CHUNK)]
    """Newest thinned rows of a stream that are scored together."""
    held_out: Annotated[float, Meta(gt=0, lt=1)]
    """Share of the training window, its newest rows, that thresholds are calibrated on, 0..1."""
    false_alarms_a_day: PositiveFloat
    """Budget of false alarms, count per day."""


class ModeParams(Section, frozen=True):
    """What drift leads to."""

    drift_looks: Positive
    """Looks in a row that find drift before the mode turns conservative, count."""
    paused_looks: Positive
    """Looks in a row that find concept drift before the mode turns paused, count."""
    calm_looks: Positive
    """Looks in a row that find no drift before the mode goes one step back, count."""
    stale_s: PositiveFloat
    """Time without a look after which the monitor counts as away, s."""
    win_rate: Annotated[float, Meta(gt=0.5, lt=1)]
    """Share of answers that came true beyond which conservative mode acts at a confidence, 0..1."""
    minimum_count: Positive
    """Answers that must have been counted at such a confidence, count."""
    buckets: Annotated[int, Meta(ge=2, le=1000)]
    """Buckets of confidence, from 1/3 to 1, count."""
    win_rows: Positive
    """Newest answers about an instrument that are counted; in whole sessions, at most twice as many."""
    retrain_every_s: PositiveFloat
    """Least time between two retrains that drift asks for, s."""


class GuardParams(Section, frozen=True):
    """What a trading client makes of the mode and of its own last rows."""

    shortest: Annotated[int, Meta(ge=16)]
    """Thinned rows that a stream which has only begun needs to be scored."""
    every_rows: Positive
    """Thinned rows from one scored block to the next."""
    alarms: Positive
    """Scores above 1, among the last `of`, that turn the client conservative, count."""
    of: Positive
    """Last scores that alarms are counted among, count."""
    calm: Annotated[float, Meta(gt=0, le=1)]
    """Score below which a block is calm, in units of the alarm threshold."""
    calm_blocks: Positive
    """Calm blocks in a row that end the alarm, count."""
    silent_s: PositiveFloat
    """Time by which a health check is overdue before it has found nothing, s."""

    def __post_init__(self) -> None:
        """Refuse an alarm that could never be raised."""
        if self.alarms > self.of:
            raise ValueError("guard.alarms is larger than guard.of")
