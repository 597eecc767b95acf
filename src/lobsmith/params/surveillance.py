"""Market surveillance."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import Positive, PositiveFloat, Section, Share

_MAXIMUM_BUCKETS = 1_000_000
_MINIMUM_INTERVALS = 3


class CrashParams(Section, frozen=True):
    """Thresholds of a flash crash."""

    drop: Annotated[float, Meta(gt=0, lt=1)]
    """Least fall of the mid, share of the window's highest, 0..1."""
    window_s: PositiveFloat
    """Window of the highest mid and of the average bid depth, s."""
    volume: PositiveFloat
    """Least traded volume a second, multiple of its average."""
    volume_window_s: PositiveFloat
    """Window of a burst's volume, s."""
    average_s: PositiveFloat
    """Window of the average volume, s."""
    minimum_average_s: PositiveFloat
    """History before the first alert, s."""
    impact: Annotated[float, Meta(gt=0, le=1)]
    """Least lost share of the window's average bid depth, 0..1."""
    recovery: Share
    """Share of `drop` below which the fall must lie to end an episode, 0..1."""
    rearm_s: PositiveFloat
    """Time after which an episode ends in any case, s."""
    bucket_ms: Positive
    """Resolution of the windows, ms."""

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


class AccumulationParams(Section, frozen=True):
    """Measurement of accumulation patterns."""

    window_s: PositiveFloat
    """Length of a report's window, s."""
    step_ms: Positive
    """Time of a sample of price impact, ms."""
    lifetime_ms: Positive
    """Age above which a cancelled order is no layering, ms."""
    supply: Annotated[float, Meta(ge=0)]
    """Circulating supply; 0 takes visible depth in its place, base units."""
    layering_half: PositiveFloat
    """Evidence of layering that counts one half, difference of shares, 0..1."""
    cancel_half: PositiveFloat
    """Lots cancelled per lot traded that count one half."""
    layering_weight: Share
    """Weight of layering in the risk, the rest is that of cancellations, 0..1."""

    def __post_init__(self) -> None:
        """Refuse a window that is no multiple of the sample time."""
        intervals = self.window_s * 1000 / self.step_ms
        if abs(intervals - round(intervals)) > 1e-6 or not _MINIMUM_INTERVALS <= round(intervals) <= _MAXIMUM_BUCKETS:
            raise ValueError(
                f"surveillance.accumulation.window_s must be {_MINIMUM_INTERVALS} to {_MAXIMUM_BUCKETS} times step_ms"
            )


class SurveillanceParams(Section, frozen=True):
    """Market surveillance."""

    crash: CrashParams
    """Flash crashes: all three thresholds at one event."""
    accumulation: AccumulationParams
    """Accumulation patterns and hints of manipulation."""
