"""A writer that kills itself after a step: `python -m tests.release.publisher ROOT STEP PROCEDURE`."""

import os
import signal
import sys
from pathlib import Path

from lobsmith.release.audit.repair import repair
from lobsmith.release.audit.verify import verify
from lobsmith.release.publish.onnx import publish
from lobsmith.release.publish.plans import publish_engine
from lobsmith.release.publish.promote import promote
from lobsmith.release.publish.score import catch_up
from lobsmith.release.repository.candidate import retire_candidate
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.release.version.manifest import check_files
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.stand_in import StandIn


def main(root: Path, fatal: str, what: str = "publish") -> None:
    """Do something to the model `toy` of the workspace `root`; die once the step `fatal` is done."""
    workspace = Workspace(root)
    params = toy.params(release__keep=2)

    def die(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = {"server": StandIn(workspace), "who": "the first", "note": die}
    repository = Repository.of(workspace)
    match what:
        case "publish":
            artifact = toy.artifact(root / f"run-{os.getpid()}", scored=True)
            publish(workspace, params, artifact, model="toy", contract=toy.CONTRACT, **settings)
        case "plans":
            of = repository.verify("toy", repository.active("toy"))
            publish_engine(workspace, params, root / "engine", of, validate=check_files, **settings)
        case "score":
            catch_up(workspace, params, "toy", retry=True, **settings)
        case "promote":
            source = repository.directory("toy_candidate", repository.active("toy_candidate"))
            promote(workspace, params, source, model="toy", reason="it is better", **settings)
        case "retire":
            retire_candidate(workspace, params, "toy", reason="it is old", **settings)
        case "rollback":
            rollback(workspace, params, "toy", reason="it is bad", **settings)
        case "repair":
            repair(workspace, params, verify(workspace), **settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
