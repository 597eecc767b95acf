"""The cold start: whatever is wrong with some versions, the newest good one answers.

A load of several versions into an empty server is all or nothing: one that Triton cannot load takes the others along.
"""

import time

from lobsmith.errors import ServingError
from lobsmith.serving.control import TritonControl, UnreachableError
from lobsmith.serving.loading import Loaded, load_sound, settle
from lobsmith.workspace import Workspace

_GIVE_UP_S = 20.0
"""Seconds for a load that failed to be cleared away."""


def load_best(workspace: Workspace, control: TritonControl, model: str, deadline_s: float) -> Loaded:
    """Load what can be loaded of a model's listed versions.

    Args:
        workspace: where the repository lies.
        control: of the server.
        model: the model's name.
        deadline_s: seconds for each attempt; there are more of them only where Triton says which version is at fault.

    Returns:
        What is READY, and for every other listed version why it is not.

    Raises:
        UnreachableError: the server went away.
        ServingError: no version can be loaded.
    """
    without: dict[int, str] = {}
    while True:
        try:
            return load_sound(workspace, control, model, deadline_s, without=without)
        except UnreachableError:
            raise
        except ServingError:
            settle(control, model, time.monotonic() + _GIVE_UP_S)
            culprits = _culprits(control, model)
            if culprits.keys() <= without.keys():
                raise
            without |= culprits


def _culprits(control: TritonControl, model: str) -> dict[int, str]:
    """Return the versions that Triton failed to load, and its reasons."""
    return {
        row.version: f"Triton cannot load it: {' '.join(row.reason.split())[:300]}"
        for row in control.index()
        if row.model == model and row.version is not None and row.state == "UNAVAILABLE" and row.reason != "unloaded"
    }
