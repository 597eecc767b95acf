"""A process that reconciles: `python -m tests.release.reconciler ROOT [POINT]`; it kills itself at a crash point."""

import os
import signal
import sys
from pathlib import Path

import msgspec

from lobsmith.release.context import Release
from lobsmith.release.reconcile.reconcile import reconcile
from lobsmith.workspace import Workspace
from tests.release.registrations import PARAMS
from tests.release.stand_in import StandIn


def main(root: Path, fatal: str = "") -> None:
    workspace = Workspace(root)

    def crash(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    outcome = reconcile(Release(workspace, PARAMS, StandIn(workspace), actor="another", note=crash), "toy")
    print(msgspec.json.encode(outcome).decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
