"""A writer that kills itself at a crash point: `python -m tests.release.publisher ROOT POINT PROCEDURE`."""

import os
import signal
import sys
from pathlib import Path

from lobsmith.release.audit.repair import repair
from lobsmith.release.audit.verify import verify
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import publish
from lobsmith.release.publish.plans import publish_engine
from lobsmith.release.publish.promote import promote
from lobsmith.release.publish.score import catch_up
from lobsmith.release.repository.candidate import undeploy_candidate
from lobsmith.release.repository.rollback import rollback
from lobsmith.release.version.manifest import check_files
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.stand_in import StandIn


def main(root: Path, fatal: str, what: str = "publish") -> None:
    """Run a procedure on the model `toy` of the workspace `root`; kill the process at the crash point `fatal`."""
    workspace = Workspace(root)

    def crash(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    release = Release(workspace, toy.params(release__keep=2), StandIn(workspace), "the first", crash)
    repository = release.repository
    match what:
        case "publish":
            artifact = toy.artifact(root / f"run-{os.getpid()}", scored=True)
            publish(release, artifact, model="toy", contract=toy.CONTRACT)
        case "plans":
            of = repository.verify("toy", repository.active("toy"))
            publish_engine(release, root / "engine", of, validate=check_files)
        case "score":
            catch_up(release, "toy", retry=True)
        case "promote":
            source = repository.directory("toy_candidate", repository.active("toy_candidate"))
            promote(release, source, model="toy", reason="it is better")
        case "retire":
            undeploy_candidate(release, "toy", reason="it is old")
        case "rollback":
            rollback(release, "toy", reason="it is bad")
        case "repair":
            repair(release, verify(workspace))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
