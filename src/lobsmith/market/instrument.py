"""What is traded, and in which units."""

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0)]


class Instrument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A traded instrument.

    Prices are multiples of `tick_size`, sizes of `lot_size` in base units (COIN-M: contracts).
    """

    venue: str
    symbol: str
    tick_size: Positive
    lot_size: Positive

    def __str__(self) -> str:
        return f"{self.venue}:{self.symbol}"


SIMULATED = Instrument(venue="simulator", symbol="SIM", tick_size=0.1, lot_size=0.001)
"""The simulator's instrument; the symbol marks its raw captures."""
