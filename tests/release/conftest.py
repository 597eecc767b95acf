import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from lobsmith.release.context import Release
from lobsmith.release.publish.plans import publish_engine
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import check_files
from lobsmith.workspace import Workspace
from tests.release import plans as engines
from tests.release import toy
from tests.release.in_process import publish
from tests.release.stand_in import StandIn


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the root of a project with a version of each model named, in that order.

    Where they are `scored` the drift scores are 1, 2, … times the mean squares; `plans` are those of the newest
    version of `toy`. The same arguments give the same project: a test works on a copy.
    """

    @cache
    def project(*models: str, scored: bool = False, plans: bool = False) -> Path:
        workspace = Workspace(tmp_path_factory.mktemp("project"))
        for scale, model in enumerate(models, start=1):
            artifact = toy.artifact(workspace.root / "run", scored=scored, score_scale=float(scale))
            publish(Release(workspace, toy.params()), artifact, model=model, contract=toy.CONTRACT)
        if plans:
            repository = Repository.of(workspace)
            of = repository.verify("toy", repository.active("toy"))
            engines.build(workspace.root / "engine", of)
            publish_engine(Release(workspace, toy.params()), workspace.root / "engine", of, validate=check_files)
        return workspace.root

    return project


@pytest.fixture(scope="session")
def template() -> Path | None:
    """The project that tests work on a copy of; modules name theirs."""
    return None


@pytest.fixture
def workspace(template: Path | None, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path if template is None else shutil.copytree(template, tmp_path / "project"))


@pytest.fixture
def repository(workspace: Workspace) -> Repository:
    return Repository.of(workspace)


@pytest.fixture
def server(workspace: Workspace) -> StandIn:
    return StandIn(workspace)
