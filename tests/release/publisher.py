"""A publisher that kills itself after a step: `python -m tests.release.publisher ROOT STEP`."""

import os
import signal
import sys
from pathlib import Path

from lobsmith.release.publish import publish
from lobsmith.workspace import Workspace
from tests.release import toy


def main(root: Path, fatal: str) -> None:
    """Publish the model `toy` of the workspace `root` and die once the step `fatal` is done."""

    def die(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def load(model: str, version: int) -> None:
        die("loading")

    artifact = toy.artifact(root / "run")
    publish(Workspace(root), toy.params(), artifact, model="toy", contract=toy.CONTRACT, load=load, note=die)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
