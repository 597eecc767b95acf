"""The screen and the ledger."""
