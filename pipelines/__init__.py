"""Prefect flows and nothing else: each task calls one function of lobsmith."""
