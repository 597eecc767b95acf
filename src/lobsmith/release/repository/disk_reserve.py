"""The disk reserve: room that is kept free for a rollback, which must work when the disk is full."""

import os
from contextlib import suppress

from lobsmith.workspace import Workspace

_BYTES = 128 * 1024
"""Lease, intent, policy and journal line take a few pages, each written beside the old one first."""


def keep(workspace: Workspace) -> None:
    """Set the room apart, where there is any; without it a rollback takes what the disk has left."""
    with suppress(OSError):
        descriptor = os.open(workspace.reserve, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _BYTES)
        finally:
            os.close(descriptor)


def free(workspace: Workspace) -> None:
    """Give the room back, for what cannot wait."""
    with suppress(OSError):
        workspace.reserve.unlink(missing_ok=True)
