"""Studies behind the tables of `docs/`."""
