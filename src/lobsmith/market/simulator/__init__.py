"""A seeded market with predictable structure and a known best prediction."""

from lobsmith.market.simulator.dynamics import Change, Dynamics
from lobsmith.market.simulator.market import INSTRUMENT, START_NS, Market, row_probabilities, simulate

__all__ = ["INSTRUMENT", "START_NS", "Change", "Dynamics", "Market", "row_probabilities", "simulate"]
