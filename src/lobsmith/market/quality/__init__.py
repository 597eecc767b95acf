"""What can be trusted of a feed: the screen and the ledger."""
