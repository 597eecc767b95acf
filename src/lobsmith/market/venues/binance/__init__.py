"""Binance: reader of raw captures, compiled message scan, live endpoints."""
