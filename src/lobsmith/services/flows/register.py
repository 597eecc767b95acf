"""Enters the deployments of `prefect.yaml` at Prefect's server: what `prefect deploy --all` does.

It needs the flows, for the schemas of their parameters, so it runs as a job of the zygote.
"""

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lobsmith import clock

if TYPE_CHECKING:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

OVERRIDES = "LOBSMITH_FLOW_OVERRIDES"
"""Variable of the environment: parameters of `params.yaml` that the flows replace, as a JSON object."""
_ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)
"""Intervals count from here, so that a restart does not put the next run off."""
_SHORTEST = timedelta(seconds=5)


def register() -> None:
    """Enter every deployment of the `prefect.yaml` in the working directory; what was entered before is replaced.

    Runs that are late stay: the server drops only those that are still to come. The limit of one run at a time is the
    worker's to keep: the server would keep it in more transactions, and the slot of a killed run for a minute.
    """
    from prefect.cli.deploy._models import PrefectYamlModel
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    table = yaml.safe_load(Path("prefect.yaml").read_text())
    PrefectYamlModel.model_validate(table)
    overrides = json.loads(os.environ.get(OVERRIDES, "{}"))
    with get_client(sync_client=True) as client:
        for one in table["deployments"]:
            flow: Any = load_flow_from_entrypoint(one["entrypoint"])
            client.create_deployment(
                flow_id=client.create_flow_from_name(flow.name),
                name=one["name"],
                description=one.get("description", flow.description),
                version=flow.version,
                tags=one.get("tags"),
                entrypoint=one["entrypoint"],
                parameters={**(one.get("parameters") or {}), **({"overrides": overrides} if overrides else {})},
                parameter_openapi_schema=parameter_schema(flow).model_dump(exclude_unset=True),
                enforce_parameter_schema=True,
                schedules=[
                    DeploymentScheduleCreate(schedule=schedule_of(entry, clock.speed()))
                    for entry in one.get("schedules", ())
                ],
                work_pool_name=one["work_pool"]["name"],
                pull_steps=table.get("pull"),
            )


def schedule_of(entry: dict[str, Any], speed: float) -> "CronSchedule | IntervalSchedule":
    """Return a schedule of `prefect.yaml` where time passes `speed` times as fast as the machine's.

    Where it does, times of day become an interval: that between the next two.

    Args:
        entry: `interval` in seconds, or `cron` with its `timezone`.
        speed: of the workspace's clock.
    """
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    if "interval" in entry:
        interval = timedelta(seconds=entry["interval"])
    elif speed == 1:
        return CronSchedule.model_validate(entry)
    else:
        interval = _between_two(entry)
    if speed != 1:
        interval = max(_SHORTEST, interval / speed)
    return IntervalSchedule(interval=interval, anchor_date=_ANCHOR)


def _between_two(entry: dict[str, Any]) -> timedelta:
    from prefect.server.schemas.schedules import CronSchedule

    first, second = asyncio.run(CronSchedule.model_validate(entry).get_dates(2))
    return second - first
