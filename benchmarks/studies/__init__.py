"""The studies behind the tables of `docs/`."""
