"""Turns the telemetry of every dependency off."""

import os

_OFF = {
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
}


def turn_off() -> None:
    """Set the opt-out of each dependency, unless it is set already."""
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
