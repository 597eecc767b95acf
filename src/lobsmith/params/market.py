"""Sources of market data, and expectations of it."""

from typing import Annotated, Literal

from msgspec import Meta

from lobsmith.params.section import Positive, PositiveFloat, Section, Share


class SimulatorParams(Section, frozen=True):
    """The seeded simulator."""

    seed: int
    """Random seed."""
    seconds: Positive
    """Length of the session, s."""


class ScreenParams(Section, frozen=True):
    """Limits of the feed filter."""

    clock_tolerance_ms: PositiveFloat = 100.0
    """Tolerated negative latency, or backward jump of the local clock, ms."""
    clock_settle_ms: PositiveFloat = 2_000.0
    """Time after which a constant wrong lag counts as a clock jump, ms."""
    stale_ms: PositiveFloat = 1_000.0
    """Latency of a stale message, ms."""
    silence_ms: PositiveFloat = 10_000.0
    """Silence that ends a segment, ms."""
    crossed_ms: PositiveFloat = 2_000.0
    """Longest crossed or locked book of an order log; 0 with a ticker feed, ms."""


class DataParams(Section, frozen=True):
    """Sources of market data."""

    source: Literal["simulator", "captures", "live"]
    """`simulator`; `captures` for files; `live` for the newest `window.length_s` in `.lobsmith/captures`."""
    captures: tuple[str, ...]
    """Captured files or glob patterns; files of one instrument are read in order."""
    instrument: str
    """`venue:symbol` to train on; empty takes the first that passes its contract."""
    simulator: SimulatorParams
    """Simulated session."""
    screen: ScreenParams
    """Limits of the feed filter."""


class LiveParams(Section, frozen=True):
    """Retention of `lobsmith live`. The newest `window.length_s` of each instrument is never deleted."""

    keep_days: PositiveFloat = 7.0
    """Age at which captured files are deleted, days."""
    keep_gib: PositiveFloat = 20.0
    """Total size above which the oldest captured files are deleted, GiB."""
    rotate_mib: Positive = 64
    """Size at which a captured file is closed within its day, MiB."""


class LiquidityParams(Section, frozen=True):
    """Limits of a tradable symbol."""

    minimum_daily_volume_btc: Annotated[float, Meta(ge=0)]
    """Least volume of 24 hours, scaled up from the measured time, BTC."""
    maximum_spread: PositiveFloat
    """Upper bound of the time-weighted spread, share of the mid."""
    btc_price: Annotated[float, Meta(ge=0)]
    """Price of bitcoin for other bases; 0 takes a BTC symbol's of the same run, quote currency."""


class ContractParams(Section, frozen=True):
    """Expectations of events and features."""

    minimum_seconds: Annotated[float, Meta(ge=0)]
    """Least time that an instrument's events span, s."""
    maximum_set_aside: Share
    """Largest share of quarantined records, 0..1."""
    maximum_gaps_per_hour: Annotated[float, Meta(ge=0)]
    """Most gaps between segments, count per hour."""
    maximum_crossed: Share
    """Largest share of crossed or locked depth messages and tickers, 0..1."""
    maximum_latency_s: PositiveFloat
    """Largest absolute latency of an event, s."""
    maximum_clock_offset_s: PositiveFloat
    """Largest absolute offset of the local clock, s."""
    maximum_feature: PositiveFloat
    """Largest absolute raw feature, its own unit."""
    maximum_constant_columns: Annotated[int, Meta(ge=0)]
    """Most constant features, count."""
    minimum_complete: Share
    """Least share of rows with a full enough z-score window, 0..1."""
    minimum_label_share: Share
    """Least share of each direction at each horizon, 0..1."""
    liquidity: LiquidityParams
    """Limits of a tradable symbol; others are left out."""
