"""The attention network's step as one compiled call."""
