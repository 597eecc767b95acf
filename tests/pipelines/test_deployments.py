"""What `prefect.yaml` deploys is what Prefect accepts and what is there."""

import re
import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prefect.cli.deploy._models import ConcurrencyLimitSpec, PrefectYamlModel
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.flows import Flow, load_flow_from_entrypoint

from lobsmith.params import load_params
from lobsmith.services.flows.register import OVERRIDES, planned_deployments, schedule_of, unregistered

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = PrefectYamlModel.model_validate(yaml.safe_load((ROOT / "prefect.yaml").read_text())).deployments


def test_every_flow_is_deployed() -> None:
    sources = (path.read_text() for path in (ROOT / "pipelines").glob("*.py"))
    flows = {name for source in sources for name in re.findall(r'^@flow\(name="(\w+)"', source, re.MULTILINE)}
    assert len(flows) >= 5
    assert {deployment.entrypoint.rpartition(".")[2] for deployment in DEPLOYMENTS} == flows


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment.name)
def test_an_entrypoint_leads_to_a_flow_that_takes_the_parameters(deployment, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise ImportError('another project')")
    monkeypatch.chdir(tmp_path)
    flow = load_flow_from_entrypoint(deployment.entrypoint)
    assert isinstance(flow, Flow)
    flow.validate_parameters(deployment.parameters)
    assert flow.name == deployment.entrypoint.rpartition(".")[2]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment.name)
def test_late_runs_do_not_pile_up(deployment) -> None:
    limit = deployment.concurrency_limit
    assert isinstance(limit, ConcurrencyLimitSpec)
    assert (limit.limit, limit.collision_strategy) == (1, ConcurrencyLimitStrategy.CANCEL_NEW.value)
    [schedule] = deployment.schedules
    if deployment.name == "every-six-hours":
        assert (schedule.cron, schedule.timezone) == ("0 */6 * * *", "UTC")
    elif deployment.name == "drift":
        # The budget of false alarms counts with it.
        assert schedule.interval == timedelta(seconds=load_params(ROOT / "params.yaml").drift.look_s)
    else:
        assert schedule.interval == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("entry", "as_it_is", "sixty_times"),
    [
        ({"interval": 60}, timedelta(seconds=60), timedelta(seconds=5)),
        ({"interval": 3600}, timedelta(hours=1), timedelta(minutes=1)),
        ({"cron": "0 */6 * * *", "timezone": "UTC"}, "0 */6 * * *", timedelta(minutes=6)),
    ],
)
def test_a_schedule_follows_the_speed_of_the_clock(entry, as_it_is, sixty_times) -> None:
    schedule = schedule_of(entry, 1.0)
    assert (schedule.cron if "cron" in entry else schedule.interval) == as_it_is
    assert schedule_of(entry, 60.0).interval == sixty_times


def test_a_deployment_has_another_version_once_anything_that_it_is_made_from_is_another(
    tmp_path: Path, monkeypatch
) -> None:
    table = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    shutil.copytree(ROOT / "pipelines", tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(tmp_path)
    for entry in table["deployments"]:
        entry["entrypoint"] = entry["entrypoint"].replace("lobsmith.pipelines.", "copied.")
    monkeypatch.delenv(OVERRIDES, raising=False)
    there = [
        SimpleNamespace(**deployment.entry, version=deployment.version) for deployment in planned_deployments(table)
    ]
    names = [deployment.name for deployment in there]

    def changed() -> list[str]:
        return [deployment.entry["name"] for deployment in unregistered(table, there)]

    assert changed() == []
    assert [deployment.entry["name"] for deployment in unregistered(table, there[1:])] == names[:1]
    with (tmp_path / "copied" / "shadow.py").open("a") as code:
        code.write("# another line\n")
    assert changed() == ["shadow"]
    table["deployments"][0]["schedules"] = [{"interval": 77}]
    assert changed() == [names[0], "shadow"]
    monkeypatch.setenv(OVERRIDES, '{"data.source": "live"}')
    assert changed() == names
