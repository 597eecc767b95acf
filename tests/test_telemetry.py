"""Every opt-out reaches the libraries, in processes started from a clean environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lobsmith.telemetry import OFF
from tests.small import params_file

# Prefect's SDK also sends nothing in CI, which would hide a missing opt-out.
HIDING = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "BUILDKITE", "PREFECT_API_URL")


def answer(code: str, **environment: str) -> Any:
    clean = {name: value for name, value in os.environ.items() if name not in (*OFF, *HIDING)}
    completed = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return json.loads(completed.stdout)


CLIENT = """
import json
{first}
import prefect
from prefect.analytics import is_telemetry_enabled
settings = prefect.settings.get_current_settings()
print(json.dumps([
    is_telemetry_enabled(),
    settings.server.analytics_enabled,
    settings.server.ui.show_promotional_content,
    settings.telemetry.enable_resource_metrics,
    settings.cloud.enable_orchestration_telemetry,
]))
"""


@pytest.mark.slow
def test_importing_lobsmith_turns_prefect_off(tmp_path: Path) -> None:
    assert answer(CLIENT.format(first=""), PREFECT_HOME=str(tmp_path)) == [True] * 5
    assert answer(CLIENT.format(first="import lobsmith"), PREFECT_HOME=str(tmp_path)) == [False] * 5


@pytest.mark.slow
def test_flow_runs_of_another_worker_have_it_from_prefect_yaml(tmp_path: Path) -> None:
    table = yaml.safe_load((params_file().parent / "prefect.yaml").read_text())
    environments = [entry["work_pool"]["job_variables"]["env"] for entry in table["deployments"]]
    assert all(environment == environments[0] for environment in environments)
    sent, _, _, metrics, _ = answer(CLIENT.format(first=""), PREFECT_HOME=str(tmp_path), **environments[0])
    assert (sent, metrics) == (False, False)


SERVER = """
import json
from pathlib import Path
from urllib.request import urlopen
from lobsmith.services.prefect_server import TemporaryServer
with TemporaryServer(Path({home!r})) as server:
    server.wait_ready()
    with urlopen(server.api + "/admin/settings") as reply:
        settings = json.loads(reply.read())["server"]
print(json.dumps([settings["analytics_enabled"], settings["ui"]["show_promotional_content"]]))
"""


@pytest.mark.slow
@pytest.mark.integration
def test_the_server_that_a_command_starts_sends_nothing(tmp_path: Path) -> None:
    assert answer(SERVER.format(home=str(tmp_path))) == [False, False]
