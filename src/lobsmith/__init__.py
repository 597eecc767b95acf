"""Keeps a neural network on limit-order-book data in service."""

from lobsmith.compiled import use_own_cache

__version__ = "0.1.0"

use_own_cache()
