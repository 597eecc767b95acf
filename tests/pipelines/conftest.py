import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lobsmith.workspace import Workspace
from tests.release.registrations import workspace_with_mlflow
from tests.small import params_file


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real Prefect server of its own for the session, started once by the first flow that runs."""
    home = tmp_path_factory.mktemp("prefect")
    before = dict(os.environ)
    os.environ.update(PREFECT_HOME=str(home), PREFECT_LOGGING_LEVEL="CRITICAL")
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # The end of a run waits up to a second for the thread of its heartbeats, which only Prefect's automations read.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    shutil.copy(params_file(), tmp_path / "params.yaml")
    return workspace_with_mlflow(tmp_path)
