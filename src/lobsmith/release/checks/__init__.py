"""Checks that a file passes before a server may load it."""
