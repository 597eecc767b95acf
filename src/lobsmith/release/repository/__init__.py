"""The model repository and the one writer that may change it: journal, intent, rollback, removal, recovery."""
