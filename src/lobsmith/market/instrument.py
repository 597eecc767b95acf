"""What is traded, and in which units."""

from typing import Annotated

from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0)]


class Instrument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One traded instrument.

    Prices are whole numbers of `tick_size`; sizes are in base units (contracts for COIN-M futures) and come in
    multiples of `lot_size`.
    """

    venue: str
    symbol: str
    tick_size: Positive
    lot_size: Positive

    def __str__(self) -> str:
        return f"{self.venue}:{self.symbol}"


SIMULATED = Instrument(venue="simulator", symbol="SIM", tick_size=0.1, lot_size=0.001)
"""What the simulator trades; its raw captures are told from a venue's by the symbol."""
