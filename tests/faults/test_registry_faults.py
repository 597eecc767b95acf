"""F19 to F21: MLflow down, slow or locked; killed between alias and publication; promotions that race."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from lobsmith.errors import RegistryError, ReleaseError
from lobsmith.release.context import Release
from lobsmith.release.reconcile.actions import ReconcilePoint
from lobsmith.release.reconcile.reconcile import Reconciled, reconcile
from lobsmith.release.reconcile.requests import registered_of, request_promotion
from lobsmith.release.registry import mlflow_store
from lobsmith.release.registry.aliases import CHALLENGER, CHAMPION, AliasTargets, alias_targets, set_alias
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.repository.rollback import rollback
from lobsmith.workspace import MLFLOW_URI, Workspace
from tests.release.registrations import DEPLOYMENT, PARAMS, candidate, point_alias, register, workspace_with_mlflow
from tests.release.stand_in import StandIn
from tests.release.zygote import Zygote

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("validation_in_process")]


@pytest.fixture
def workspace(tmp_path):
    return workspace_with_mlflow(tmp_path / "project")


def reconcile_fully(workspace: Workspace) -> Reconciled:
    """Reconcile twice: the second finds nothing left to do."""
    server = StandIn(workspace)
    done = reconcile(Release(workspace, PARAMS, server), "toy")
    assert reconcile(Release(workspace, PARAMS, server), "toy").actions == ()
    return done


def artifact_of(workspace: Workspace, model: str = "toy") -> str | None:
    repository = Repository.of(workspace)
    version = repository.active(model)
    return None if version is None else repository.verify(model, version).artifact_id


def register_candidate(workspace, scale):
    return register(workspace, candidate(workspace, scale))


def promoted(workspace, scale):
    version = register_candidate(workspace, scale)
    point_alias(workspace, CHAMPION, version)
    reconcile_fully(workspace)
    return version


def killed_at(zygote: Zygote, workspace: Workspace, point: ReconcilePoint) -> None:
    done = zygote.run("reconciler", str(workspace.root), point.value)
    assert done.returncode == -signal.SIGKILL, done.stderr


POINTS = {
    "promotion": (
        ReconcilePoint.DECIDED,
        ReconcilePoint.FOUND,
        ReconcilePoint.PROMOTED,
        ReconcilePoint.TAGGED,
        ReconcilePoint.CANDIDATE_UNDEPLOYED,
    ),
    "first challenger": (ReconcilePoint.CHALLENGER_PROMOTED, ReconcilePoint.DROPPED),
    "challenger": (ReconcilePoint.CANDIDATE_DEPLOYED,),
    "rollback": (ReconcilePoint.ROLLBACK_TAGGED, ReconcilePoint.ALIAS_REVERTED, ReconcilePoint.ROLLBACK_ACKNOWLEDGED),
    "refusal": (ReconcilePoint.JOURNALED, ReconcilePoint.REFUSED),
}


def test_every_crash_point_is_swept():
    assert {point for points in POINTS.values() for point in points} == set(ReconcilePoint)


@pytest.mark.slow
@pytest.mark.parametrize(("story", "point"), [(story, point) for story, points in POINTS.items() for point in points])
def test_f20_a_killed_reconcile_is_completed_by_the_next(workspace, zygote, story, point):
    old = None if story == "first challenger" else promoted(workspace, 0.3)
    new = register(workspace, candidate(workspace, 0.4), keep=story != "refusal")
    aliases, serving, deployed = AliasTargets(champion=new), new, None
    match story:
        case "promotion":
            point_alias(workspace, CHAMPION, new)
        case "first challenger":
            point_alias(workspace, CHALLENGER, new)
        case "challenger":
            candidate(workspace, 0.5)
            point_alias(workspace, CHALLENGER, new)
            aliases, serving, deployed = AliasTargets(old, new), old, new
        case "rollback":
            point_alias(workspace, CHAMPION, new)
            reconcile_fully(workspace)
            rollback(Release(workspace, PARAMS), "toy")
            aliases, serving = AliasTargets(champion=old), old
        case "refusal":
            candidate(workspace, 0.5)
            point_alias(workspace, CHAMPION, new)
            serving = old
    killed_at(zygote, workspace, point)
    repository = Repository.of(workspace)
    assert repository.valid("toy")[1] == {}
    if old is not None:
        assert repository.active("toy") is not None
    reconcile_fully(workspace)
    targets = alias_targets(workspace, "toy")
    for alias in (CHAMPION, CHALLENGER):
        have, want = getattr(targets, alias), getattr(aliases, alias)
        assert (have and have.version) == (want and want.version)
    assert artifact_of(workspace) == serving.artifact_id
    assert artifact_of(workspace, DEPLOYMENT) == (deployed and deployed.artifact_id)
    assert repository.valid("toy")[1] == {}
    entries = [entry for entry in journal.read(workspace.journal) if entry.model == "toy"]
    activated = [entry.version_to for entry in entries if entry.action in journal.ACTIVATING]
    assert len(activated) == len(set(activated)) == {"first challenger": 1, "challenger": 1, "refusal": 1}.get(story, 2)
    assert sum(entry.action == journal.ROLLBACK_ACKNOWLEDGED for entry in entries) == (story == "rollback")


@pytest.mark.slow
def test_f21_racing_promotions_end_at_the_alias(workspace):
    """Processes that reconcile and processes that move the alias, all at once."""
    first = promoted(workspace, 0.3)
    versions = [first, *(register(workspace, candidate(workspace, scale)) for scale in (0.4, 0.5))]
    racing = []
    for version in versions[1:]:
        point_alias(workspace, CHAMPION, version)
        racing += [
            subprocess.Popen(
                [sys.executable, "-m", "tests.release.reconciler", str(workspace.root)], stdout=subprocess.DEVNULL
            )
            for _ in range(2)
        ]
    assert [process.wait() for process in racing] == [0] * 4
    reconcile_fully(workspace)
    assert artifact_of(workspace) == versions[-1].artifact_id
    repository = Repository.of(workspace)
    assert repository.valid("toy") == (repository.versions("toy"), {})
    entries = [
        entry for entry in journal.read(workspace.journal) if (entry.model, entry.action) == ("toy", journal.PROMOTED)
    ]
    assert [entry.version_to for entry in entries] == repository.versions("toy")
    # Each promotion request was applied once at most, and the last one certainly.
    artifacts = [entry.artifact_id for entry in entries]
    assert len(artifacts) == len(set(artifacts))


def test_f19_a_locked_database_changes_nothing(workspace, monkeypatch):
    promoted(workspace, 0.3)
    new = register(workspace, candidate(workspace, 0.4))
    point_alias(workspace, CHAMPION, new)
    before, lines = artifact_of(workspace), journal.read(workspace.journal)
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(workspace.home / "mlflow.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"locked\n"
        with monkeypatch.context() as impatient:
            impatient.setattr(mlflow_store, "_REACH_DEADLINE_S", 0.3)
            done = reconcile(Release(workspace, PARAMS), "toy")
            assert "database is locked" in done.unreachable
            assert "mlflow.db" in done.unreachable
            with pytest.raises(RegistryError, match="end the process that holds it"):
                set_alias(workspace, "toy", CHAMPION, new.version)
        assert (artifact_of(workspace), journal.read(workspace.journal)) == (before, lines)
    finally:
        holder.kill()
        holder.communicate()
    reconcile_fully(workspace)
    assert artifact_of(workspace) == new.artifact_id


def test_a_database_that_is_locked_between_two_steps_is_named_too(workspace, monkeypatch):
    """The database is free at the check and locked at the call."""
    # MLflow's connections wait five seconds for a lock.
    monkeypatch.setattr(sqlite3.dbapi2, "connect", partial(sqlite3.connect, timeout=0.2))
    new = register(workspace, candidate(workspace, 0.3))
    point_alias(workspace, CHAMPION, new)
    lock = sqlite3.connect(workspace.home / "mlflow.db", isolation_level=None, timeout=0)

    def hold(step: str) -> None:
        if step == ReconcilePoint.PROMOTED:
            lock.execute("BEGIN EXCLUSIVE")

    try:
        done = reconcile(Release(workspace, PARAMS, note=hold), "toy")
    finally:
        lock.close()
    assert "locked" in done.unreachable
    assert done.promoted == done.active
    assert reconcile_fully(workspace).promoted is None


class MlflowServer:
    """A real `mlflow server` process on SQLite."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        arguments = ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}", "--port", str(self.port)]
        arguments += ["--artifacts-destination", str(self._folder / "artifacts"), "--workers", "1"]
        log = (self._folder / "log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments], stdout=log, stderr=log, start_new_session=True
        )
        for _ in range(600):
            try:
                httpx.get(f"{self.uri}/health", timeout=1)
            except httpx.HTTPError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError((self._folder / "log").read_text())

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def mlflow_server(tmp_path, monkeypatch):
    server = MlflowServer(tmp_path / "server")
    monkeypatch.setenv(MLFLOW_URI, server.uri)
    yield server
    server.kill()


@pytest.mark.slow
def test_f19_an_mlflow_server_that_is_killed_or_hangs(tmp_path, mlflow_server, monkeypatch):
    """What serves goes on; a rollback needs no MLflow; the alias follows when it is back."""
    workspace = Workspace(tmp_path / "project")
    workspace.home.mkdir(parents=True)
    assert workspace.mlflow_uri == mlflow_server.uri
    good = register_candidate(workspace, 0.3)
    bad = register_candidate(workspace, 0.4)
    for version in (good, bad):
        point_alias(workspace, CHAMPION, version)
        reconcile_fully(workspace)
    third = register_candidate(workspace, 0.5)
    point_alias(workspace, CHAMPION, third)
    assert not (workspace.home / "mlflow.db").exists()
    serving = artifact_of(workspace)

    mlflow_server.signal(signal.SIGSTOP)
    with monkeypatch.context() as impatient:
        impatient.setattr(mlflow_store, "_REACH_DEADLINE_S", 1.0)
        assert "does not answer" in reconcile(Release(workspace, PARAMS), "toy").unreachable
    mlflow_server.signal(signal.SIGCONT)
    mlflow_server.kill()
    done = reconcile(Release(workspace, PARAMS), "toy")
    assert mlflow_server.uri in done.unreachable
    assert (done.actions, artifact_of(workspace)) == ((), serving)
    with pytest.raises(RegistryError, match="does not answer"):
        registered_of(workspace, "toy", f"registry:{third.version}")
    back = rollback(Release(workspace, PARAMS), "toy", reason="it is bad")
    assert artifact_of(workspace) == good.artifact_id

    mlflow_server.start()
    point_alias(workspace, CHAMPION, bad)  # as it was when the rollback was made
    reconcile_fully(workspace)
    assert alias_targets(workspace, "toy").champion.version == good.version
    assert Repository.of(workspace).active("toy") == back.version_to
    # What the repository does not have is fetched from the server.
    candidate(workspace, 0.6)
    done = request_promotion(Release(workspace, PARAMS, actor="me"), "toy", third.version, reason="now")
    assert artifact_of(workspace) == third.artifact_id
    assert done.unreachable is None


def test_an_address_that_is_none_of_ours_is_refused(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    monkeypatch.setenv(MLFLOW_URI, "postgresql://somewhere/mlflow")
    with pytest.raises(ReleaseError, match=r"postgresql: .*name an http"):
        alias_targets(workspace, "toy")
    for credentials in ("me:secret", ":secret"):
        monkeypatch.setenv(MLFLOW_URI, f"https://{credentials}@somewhere")
        with pytest.raises(ReleaseError, match="MLFLOW_TRACKING_USERNAME") as caught:
            alias_targets(workspace, "toy")
        assert "secret" not in str(caught.value)
    monkeypatch.setenv(MLFLOW_URI, "http://somewhere:port")
    with pytest.raises(RegistryError, match="does not answer: Invalid port"):
        alias_targets(workspace, "toy")


def test_a_rolled_back_version_can_be_asked_for_again_by_hand(workspace):
    """Also while the alias still points at it: the rollback is completed first."""
    promoted(workspace, 0.3)
    bad = promoted(workspace, 0.4)
    rollback(Release(workspace, PARAMS), "toy")
    done = request_promotion(Release(workspace, PARAMS, actor="me"), "toy", bad.version, reason="it was the feed")
    assert artifact_of(workspace) == bad.artifact_id
    assert done.promoted == done.active
    last = [entry for entry in journal.read(workspace.journal) if entry.action == journal.PROMOTED][-1]
    assert last.reason == f"registry:{bad.version} is champion: me: it was the feed"
