"""Keeps a neural network on limit-order-book data in service."""

from lobsmith.compiled import use_own_cache
from lobsmith.telemetry import turn_off

__version__ = "0.1.0"

# Before the libraries that they configure are imported.
turn_off()
use_own_cache()
