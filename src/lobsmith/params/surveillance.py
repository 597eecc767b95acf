"""What the market itself is watched for."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import Positive, PositiveFloat, Section, Share

_MAXIMUM_BUCKETS = 1_000_000
_MINIMUM_STEPS = 3


class CrashParams(Section, frozen=True):
    """When a fall of the price is a flash crash."""

    drop: Annotated[float, Meta(gt=0, lt=1)]
    """Least fall of the mid from its highest of the window, as a share of that, 0..1."""
    window_s: PositiveFloat
    """Window of the highest mid and of the average bid depth, s."""
    volume: PositiveFloat
    """Least traded volume a second, as a multiple of its average."""
    volume_window_s: PositiveFloat
    """Time over which the volume of a burst is counted, s."""
    average_s: PositiveFloat
    """Time over which the average volume is taken, s."""
    minimum_average_s: PositiveFloat
    """Time that must have been seen before the first alert, s."""
    impact: Annotated[float, Meta(gt=0, le=1)]
    """Least share of the bid depth's average over the window that is gone, 0..1."""
    recovery: Share
    """Share of `drop` below which the fall must lie for an episode to be over, 0..1."""
    rearm_s: PositiveFloat
    """Time after which an episode is over in any case, s."""
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
    """How accumulation patterns are measured."""

    window_s: PositiveFloat
    """Length of the window of a report, s."""
    step_ms: Positive
    """Time that a sample of price impact is taken over, ms."""
    lifetime_ms: Positive
    """Age from which a cancelled order is no layering, ms."""
    supply: Annotated[float, Meta(ge=0)]
    """Circulating supply in base units; 0 takes visible depth in its place."""
    layering_half: PositiveFloat
    """Evidence of layering that counts one half, a difference of shares, 0..1."""
    cancel_half: PositiveFloat
    """Lots cancelled per lot traded that count one half."""
    layering_weight: Share
    """Weight of layering in the risk, 0..1; what is left is that of cancellations."""

    def __post_init__(self) -> None:
        """Refuse a window that is not made of steps."""
        steps = self.window_s * 1000 / self.step_ms
        if abs(steps - round(steps)) > 1e-6 or not _MINIMUM_STEPS <= round(steps) <= _MAXIMUM_BUCKETS:
            raise ValueError(
                f"surveillance.accumulation.window_s must be {_MINIMUM_STEPS} to {_MAXIMUM_BUCKETS} times step_ms"
            )


class SurveillanceParams(Section, frozen=True):
    """What the market is watched for."""

    crash: CrashParams
    """Flash crashes: all three thresholds must be met at one event."""
    accumulation: AccumulationParams
    """Accumulation patterns, and what hints at manipulation."""
