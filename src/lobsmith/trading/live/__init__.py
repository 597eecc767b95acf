"""Trading on a live feed: from the messages of a venue to answers, with the feed captured on the way."""
