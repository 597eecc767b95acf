"""A publisher that kills itself after a step: `python -m tests.release.publisher ROOT STEP [plans]`."""

import os
import signal
import sys
from pathlib import Path

from lobsmith.release.manifest import check_files
from lobsmith.release.publish import publish
from lobsmith.release.publish_engine import publish_engine
from lobsmith.release.repository import Repository
from lobsmith.workspace import Workspace
from tests.release import toy


def main(root: Path, fatal: str, what: str = "") -> None:
    """Publish the model `toy` of the workspace `root`, or its plans in `engine/`; die once the step `fatal` is done."""

    def die(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def load(model: str, version: int) -> None:
        die("loading")

    if what == "plans":
        repository = Repository.of(Workspace(root))
        of = repository.verify("toy", repository.active("toy"))
        publish_engine(Workspace(root), toy.params(), root / "engine", of, load=load, note=die, prove=check_files)
        return
    artifact = toy.artifact(root / "run")
    publish(Workspace(root), toy.params(), artifact, model="toy", contract=toy.CONTRACT, load=load, note=die)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
