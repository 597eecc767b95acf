"""A writer is killed at each crash point; the next writer finds the old state or the new one."""

import signal

import pytest

from lobsmith.release.audit.repair import repair
from lobsmith.release.audit.verify import verify
from lobsmith.release.context import Release
from lobsmith.release.publish.score import publish_scores
from lobsmith.release.repository import journal
from lobsmith.release.repository.candidate import undeploy_candidate
from lobsmith.release.repository.crash_points import CrashPoint
from lobsmith.release.repository.recovery import clear_up
from lobsmith.release.repository.removal import retire_fallen
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.release.repository.writer import sole_writer
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import publish
from tests.release.procedures import PROCEDURES
from tests.release.stand_in import StandIn

PARAMS = toy.params(release__keep=2)
OLD_STATE = (CrashPoint.INTENDED, CrashPoint.STAGED, CrashPoint.PROVEN)
SWEEP = [
    # A promotion goes through all that a publication does.
    pytest.param(procedure, step, marks=[pytest.mark.slow] if procedure == "publish" else [])
    for procedure, steps in PROCEDURES.items()
    for step in steps
]


def put(workspace, model="toy"):
    artifact = toy.artifact(workspace.root / "run", scored=True)
    return publish(Release(workspace, PARAMS), artifact, model=model, contract=toy.CONTRACT).version


@pytest.fixture(scope="module")
def template(published):
    return published("toy", "toy", "toy_candidate", scored=True)


@pytest.fixture
def killed(zygote):
    """Run a procedure in a process that kills itself; with a crash point that is never reached it would end."""

    def run(workspace, step, procedure):
        killed = zygote.run("publisher", str(workspace.root), step, procedure)
        assert killed.returncode == -signal.SIGKILL, killed.stderr

    return run


def lines(workspace, model="toy"):
    """Return what the journal has of a model, without refusals."""
    entries = [entry for entry in journal.read(workspace.journal) if entry.model == model]
    return [(entry.action, entry.version_to) for entry in entries if entry.action != journal.REFUSED]


def check_clean(workspace):
    assert verify(workspace) == []
    assert not workspace.intent.exists()
    assert list(workspace.staging.iterdir()) == []


@pytest.mark.parametrize(("procedure", "step"), SWEEP)
def test_the_old_state_or_the_new_and_the_next_writer_ends_it(workspace, repository, killed, procedure, step):
    first, second = repository.listed("toy")
    if procedure == "repair":
        (repository.directory("toy", second) / "model.onnx").write_bytes(b"")
    before = (repository.listed("toy"), repository.listed("toy_candidate"))
    killed(workspace, step, procedure)

    listed = repository.listed("toy")
    if procedure in ("publish", "promote"):
        assert listed[0] in (first, second)
        assert len(listed) == 2
        assert (listed == [first, second]) == (step in (*OLD_STATE, CrashPoint.MOVED))
        assert repository.valid("toy") == (listed, {})
    elif procedure == "retire":
        assert listed == before[0]
        assert repository.listed("toy_candidate") in (before[1], [])
    else:
        assert listed in ([first, second], [first])
        assert repository.integrity_error("toy", first) is None

    recover(workspace, procedure)
    check_clean(workspace)
    after = repository.listed("toy")
    assert repository.listed("toy_drift") == repository.versions("toy_drift") == after
    new = [version for version in after if version > second]
    assert repository.versions("toy") == after
    match procedure:
        case "publish" | "promote":
            assert after == ([first, second] if listed == [first, second] else [second, *new])
            action = {"publish": "published", "promote": "promoted"}[procedure]
            ended = [(action, new[0]), ("retired", first)] if new else []
        case "retire":
            assert repository.models() == ["toy", "toy_drift"]
            assert lines(workspace, "toy_candidate")[1:] == [("retired", before[1][0])]
            ended = []
        case "rollback":
            assert after == [first]
            assert workspace.quarantine.is_dir()
            ended = [("rolled back", first)]
        case "repair":
            assert after == [first]
            ended = [("repaired", first), ("set aside", second)]
    assert lines(workspace) == [("published", first), ("published", second), *ended]
    if ended and procedure in ("promote", "rollback"):
        [entry] = [entry for entry in journal.read(workspace.journal) if entry.action == ended[0][0]]
        assert (entry.actor, entry.reason[:6]) == ("the first", "it is ")


def recover(workspace, procedure):
    """Recover: a rollback, a repair and a candidate's removal are called again, the rest is cleared up."""
    server = StandIn(workspace)
    match procedure:
        case "rollback":
            if len(Repository.of(workspace).listed("toy")) == 2 or workspace.intent.exists():
                rollback(Release(workspace, PARAMS, server), "toy")
        case "retire":
            undeploy_candidate(Release(workspace, PARAMS, server), "toy")
        case "repair":
            assert repair(Release(workspace, PARAMS, server), verify(workspace)) == []
        case _:
            with sole_writer(Release(workspace, PARAMS, server, actor="the second"), "clear up") as writer:
                clear_up(writer, "toy")
                retire_fallen(writer, "toy")
                assert publish_scores(writer, "toy", retry=False) == {}


@pytest.mark.parametrize("step", [CrashPoint.PROVEN, CrashPoint.MOVED, CrashPoint.LISTED])
def test_the_first_version_is_whole_or_absent(tmp_path, killed, step):
    workspace = Workspace(tmp_path / "project")
    repository = Repository.of(workspace)
    killed(workspace, step, "publish")
    published = step not in OLD_STATE
    # Of the model itself: its score follows.
    assert repository.models() == (["toy"] if published else [])
    assert repository.valid("toy") == (repository.versions("toy"), {})
    listed = repository.listed("toy")
    last = put(workspace)
    assert repository.listed("toy") == [*listed, last]
    assert lines(workspace) == [("published", version) for version in [*listed, last]]
    check_clean(workspace)
