"""Drift checks of live traffic: windows, history, gates, reports."""
