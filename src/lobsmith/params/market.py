"""Where market data comes from, and what it must look like."""

from typing import Annotated

from msgspec import Meta

from lobsmith.params.section import Positive, PositiveFloat, Section, Share


class SimulatorParams(Section, frozen=True):
    """The seeded simulator."""

    seed: int
    """Seed of everything random."""
    seconds: Positive
    """Length of the simulated session, s."""


class ScreenParams(Section, frozen=True):
    """When the screen takes a feed for faulty."""

    clock_tolerance_ms: PositiveFloat = 100.0
    """Latency below zero, or backward step of the local clock, that is tolerated, ms."""
    clock_settle_ms: PositiveFloat = 2_000.0
    """Time after which a lag that is wrong but constant counts as a clock step, ms."""
    stale_ms: PositiveFloat = 1_000.0
    """Latency beyond which a single message is stale, ms."""
    silence_ms: PositiveFloat = 10_000.0
    """Time without any message that ends a segment, ms."""
    crossed_ms: PositiveFloat = 2_000.0
    """Time that the book of an order log may stay crossed or locked, ms; with a ticker feed it may not at all."""


class DataParams(Section, frozen=True):
    """Where market data comes from."""

    source: str
    """`simulator`; `captures` for recorded files; `live` for the newest `window.length_s` in `.lobsmith/captures`."""
    captures: tuple[str, ...]
    """Recorded files or glob patterns, of one or several instruments; those of one are read in order."""
    instrument: str
    """`venue:symbol` to train on; empty takes the first that passes its contract."""
    simulator: SimulatorParams
    """The simulated session."""
    screen: ScreenParams
    """Limits of the screen."""


class LiveParams(Section, frozen=True):
    """What `lobsmith live` keeps of the feed. The newest `window.length_s` of each instrument is never deleted."""

    keep_days: PositiveFloat = 7.0
    """Age from which captured files are deleted, days."""
    keep_gib: PositiveFloat = 20.0
    """Size of all captured files together from which the oldest are deleted, GiB."""
    rotate_mib: Positive = 64
    """Size at which a captured file is closed before its day is over, MiB."""


class LiquidityParams(Section, frozen=True):
    """What makes a symbol tradable."""

    minimum_daily_volume_btc: Annotated[float, Meta(ge=0)]
    """Least volume of 24 hours, scaled up from the time seen, BTC."""
    maximum_spread: PositiveFloat
    """Time-weighted spread from which a symbol is not tradable, share of the mid."""
    btc_price: Annotated[float, Meta(ge=0)]
    """Price of bitcoin for symbols of another base, in their quote currency; 0 takes a BTC symbol's of the same run."""


class ContractParams(Section, frozen=True):
    """What events and features must look like."""

    minimum_seconds: Annotated[float, Meta(ge=0)]
    """Least time that the events of an instrument span, s."""
    maximum_set_aside: Share
    """Largest share of records that are set aside, 0..1."""
    maximum_gaps_per_hour: Annotated[float, Meta(ge=0)]
    """Most gaps between segments, count per hour."""
    maximum_crossed: Share
    """Largest share of depth messages and tickers that are crossed or locked, 0..1."""
    maximum_latency_s: PositiveFloat
    """Largest absolute latency of an event, s."""
    maximum_clock_offset_s: PositiveFloat
    """Largest absolute offset of the local clock from the venue's, s."""
    maximum_feature: PositiveFloat
    """Largest absolute value of a raw feature, in its own unit."""
    maximum_constant_columns: Annotated[int, Meta(ge=0)]
    """Most features that never change over all complete rows, count."""
    minimum_complete: Share
    """Least share of rows whose z-score window is full enough, 0..1."""
    minimum_label_share: Share
    """Least share of labels that each direction has at each horizon, 0..1."""
    liquidity: LiquidityParams
    """What makes a symbol tradable; others are reported and left out."""
