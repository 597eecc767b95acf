"""Streams of rows to the served model: the front door, `session.open_stream`, and replays."""
