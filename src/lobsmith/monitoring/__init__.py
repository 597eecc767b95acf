"""Monitoring of a model in service: prediction log, drift checks, mode, alerts, live evaluation."""
