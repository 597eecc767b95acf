"""Clients that hold the state of a stream."""
