"""Trading on a live feed: from a venue's messages to predictions, with the feed captured."""
