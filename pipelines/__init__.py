"""Prefect flows; each task calls one function of lobsmith."""
