"""Enters the deployments of `prefect.yaml` at Prefect's server: what `prefect deploy --all` does.

A deployment's version is a digest of all that it is made from. What the server has in that version is left alone, with
what has been done to it since, such as a schedule that is paused in Prefect's page. Entering the others needs the
flows, for the schemas of their parameters, so it is a job of the zygote.
"""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from lobsmith import __version__, clock

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

OVERRIDES = "LOBSMITH_FLOW_OVERRIDES"
"""Variable of the environment: parameters of `params.yaml` that the flows replace, as a JSON object."""
FILE = "prefect.yaml"
_ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)
"""Intervals count from here, so that a restart does not put the next run off."""
_SHORTEST = timedelta(seconds=5)


class Wanted(NamedTuple):
    """A deployment of `prefect.yaml` and the version that it has at the server once it is entered."""

    entry: dict[str, Any]
    version: str


def wanted(table: dict[str, Any]) -> Iterator[Wanted]:
    """Yield the deployments of `prefect.yaml`, whose flows lie below the working directory."""
    around = [__version__, table.get("pull"), os.environ.get(OVERRIDES), clock.speed()]
    for entry in table["deployments"]:
        flow = Path(entry["entrypoint"].partition(":")[0]).read_bytes()
        made_from = json.dumps([*around, entry], sort_keys=True, default=str).encode()
        yield Wanted(entry, hashlib.sha256(made_from + flow).hexdigest()[:12])


def not_entered(table: dict[str, Any], entered: "Iterable[DeploymentResponse]") -> list[Wanted]:
    """Return the deployments of `prefect.yaml` that a server does not have as they are wanted."""
    there = {(one.name, one.entrypoint, one.version) for one in entered}
    return [one for one in wanted(table) if (one.entry["name"], one.entry["entrypoint"], one.version) not in there]


def register() -> None:
    """Enter the deployments of the `prefect.yaml` in the working directory that the server does not have.

    Runs that are late stay: the server drops only those that are still to come. The limit of one run at a time is the
    worker's to keep: the server would keep it in more transactions, and the slot of a killed run for a minute.
    """
    place = FILE
    try:
        for place_of_next in _entering():
            place = place_of_next
    except Exception as error:  # noqa: BLE001 - a flow's module may raise whatever it likes when it is imported
        words = " ".join(str(error).partition("For further information")[0].split())
        sys.exit(f"Error: {place}: {words or type(error).__name__}; correct the file")


def _entering() -> Iterator[str]:
    """Enter the deployments one by one; yield the place of each before anything of it is looked at."""
    from prefect.cli.deploy._models import PrefectYamlModel
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    table = yaml.safe_load(Path(FILE).read_text())
    PrefectYamlModel.model_validate(table)
    overrides = json.loads(os.environ.get(OVERRIDES, "{}"))
    with get_client(sync_client=True) as client:
        for one, version in not_entered(table, client.read_deployments()):
            yield f"{FILE}, deployment {one['name']}"
            flow: Any = load_flow_from_entrypoint(one["entrypoint"])
            client.create_deployment(
                flow_id=client.create_flow_from_name(flow.name),
                name=one["name"],
                description=one.get("description", flow.description),
                version=version,
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
