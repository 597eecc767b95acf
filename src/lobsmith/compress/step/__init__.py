"""One row of one stream as one compiled call."""
