"""A seeded market: the same events as a venue's, with something to learn in them, and with a known best answer."""

from lobsmith.market.simulator.dynamics import Change, Dynamics
from lobsmith.market.simulator.market import INSTRUMENT, START_NS, Market, row_probabilities, simulate

__all__ = ["INSTRUMENT", "START_NS", "Change", "Dynamics", "Market", "row_probabilities", "simulate"]
