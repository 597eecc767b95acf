"""`lobsmith models` as its users see it; with the real Triton: tests/integration/test_promotion.py."""

import pytest
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.release.reconcile import requests
from lobsmith.release.registry.aliases import CHAMPION
from lobsmith.release.repository.repository import Repository
from tests.release.registrations import candidate, register, workspace_with_mlflow
from tests.release.registrations import point_alias as move_alias
from tests.small import params_file

pytestmark = pytest.mark.integration


@pytest.fixture
def workspace(tmp_path):
    workspace = workspace_with_mlflow(tmp_path)
    workspace.params.write_text(params_file().read_text())
    return workspace


def test_a_promotion_that_is_overtaken_by_another_is_an_error(workspace, monkeypatch):
    first, second = (register(workspace, candidate(workspace, scale)) for scale in (0.3, 0.4))
    request = requests.request

    def overtaken(*arguments):
        request(*arguments)
        move_alias(workspace, CHAMPION, second)

    monkeypatch.setattr(requests, "request", overtaken)
    arguments = ["--root", str(workspace.root), "models", "promote", f"registry:{first.version}", "--model", "toy"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert f"champion names registry:{second.version} by now" in result.stderr
    repository = Repository.of(workspace)
    assert repository.verify("toy", repository.active("toy")).artifact_id == second.artifact_id
