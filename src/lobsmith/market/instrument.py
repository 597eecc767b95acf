"""What is traded, and in which units."""

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0)]


class Instrument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One traded instrument.

    Prices are whole numbers of `tick_size`; sizes are multiples of `lot_size` in base units (contracts for COIN-M
    futures).
    """

    venue: str
    symbol: str
    tick_size: Positive
    lot_size: Positive

    def __str__(self) -> str:
        return f"{self.venue}:{self.symbol}"


SIMULATED = Instrument(venue="simulator", symbol="SIM", tick_size=0.1, lot_size=0.001)
"""The simulator's instrument; the symbol marks its raw captures."""
