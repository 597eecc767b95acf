"""The disk reserve: space that is freed for a rollback, which must work on a full disk."""

import os
from contextlib import suppress

from lobsmith.workspace import Workspace

_BYTES = 128 * 1024
"""Lease, intent, policy and journal line take a few pages, each written beside the old file first."""


def keep(workspace: Workspace) -> None:
    """Allocate the reserve; without free space a rollback uses what the disk has left."""
    with suppress(OSError):
        descriptor = os.open(workspace.reserve, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _BYTES)
        finally:
            os.close(descriptor)


def free(workspace: Workspace) -> None:
    """Free the reserve."""
    with suppress(OSError):
        workspace.reserve.unlink(missing_ok=True)
