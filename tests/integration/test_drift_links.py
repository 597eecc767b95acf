"""A drift check's reports beside the MLflow run of the version that was checked."""

import pytest

from lobsmith.monitoring.drift.report import Reported, link_to_run
from lobsmith.release.registry.mlflow_store import mlflow_store
from lobsmith.workspace import MLFLOW_URI
from tests.monitoring.drift import drifted
from tests.release.registrations import workspace_with_mlflow

pytestmark = pytest.mark.integration


@pytest.fixture
def reported(tmp_path):
    page, json = tmp_path / "drift.html", tmp_path / "drift.json"
    page.write_text("first")
    json.write_text("{}")
    return Reported(
        page=page,
        json=json,
        evidently_html=None,
        evidently_json=None,
        evidently_failed="it took too long",
        headline="Covariate drift",
    )


def test_the_run_shows_the_newest_check_and_the_figures_of_all(tmp_path, reported):
    workspace = workspace_with_mlflow(tmp_path / "project")
    with mlflow_store(workspace) as client:
        experiment = client.create_experiment("lob", artifact_location=workspace.mlflow_artifacts.as_uri())
        run = client.create_run(experiment).info.run_id
    *_, before = drifted.earlier_checks(3, 1)
    for check, text in ((before, "first"), (drifted.check(), "second")):
        reported.page.write_text(text)
        assert link_to_run(workspace, reported, check, run) is None
    with mlflow_store(workspace) as client:
        assert {file.path for file in client.list_artifacts(run, "drift")} == {"drift/drift.html", "drift/drift.json"}
        [kept] = workspace.mlflow_artifacts.glob("*/artifacts/drift/drift.html")
        assert kept.read_text() == "second"
        points = client.get_metric_history(run, "drift.covariate.statistic")
        assert [point.value for point in points] == [before.verdicts[0].value, drifted.covariate().value]
        assert points[1].timestamp == drifted.NOW_NS // 1_000_000
        assert client.get_run(run).data.tags["drift"] == "Covariate drift"


def test_where_mlflow_is_away_or_knows_no_run_that_is_one_line(tmp_path, reported, monkeypatch):
    workspace = workspace_with_mlflow(tmp_path / "project")
    check = drifted.check()
    assert "no MLflow run" in link_to_run(workspace, reported, check, None)
    assert "mlflow.db" in link_to_run(workspace, reported, check, "0" * 32)
    monkeypatch.setenv(MLFLOW_URI, "http://127.0.0.1:9")
    missed = link_to_run(workspace, reported, check, "0" * 32)
    assert "does not answer" in missed
    assert "\n" not in missed
