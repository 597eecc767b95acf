"""A stream of rows to the served model: one front door, `session.open_stream`, and replays through it."""
