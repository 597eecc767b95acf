"""Binance: reader of raw captures, compiled scan, live endpoints."""
