"""lobsmith keeps a neural network on limit-order-book data in service."""

__version__ = "0.1.0"
