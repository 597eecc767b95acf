"""Registers the deployments of `prefect.yaml` at Prefect's server, as `prefect deploy --all` does.

A deployment's version is a digest of its sources. One that the server has in that version stays, perhaps with a paused
schedule. Registration imports the flows, so it is a job of the zygote.
"""

import asyncio
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from lobsmith import __version__, clock
from lobsmith.errors import FlowsError

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

OVERRIDES = "LOBSMITH_FLOW_OVERRIDES"
"""Environment variable: parameters to replace in flows, a JSON object."""
FILE = "prefect.yaml"
_ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)
"""Start of intervals, fixed so that a restart delays no run."""
_SHORTEST = timedelta(seconds=5)


class PlannedDeployment(NamedTuple):
    """A deployment and its version."""

    entry: dict[str, Any]
    version: str


def planned_deployments(table: dict[str, Any]) -> Iterator[PlannedDeployment]:
    """Yield the deployments of `prefect.yaml`.

    Raises:
        FlowsError: an entrypoint leads to no module.
        OSError: an entrypoint leads to no file.
    """
    shared = [__version__, table.get("pull"), os.environ.get(OVERRIDES), clock.speed()]
    for entry in table["deployments"]:
        flow = _source(entry["entrypoint"]).read_bytes()
        sources = json.dumps([*shared, entry], sort_keys=True, default=str).encode()
        yield PlannedDeployment(entry, hashlib.sha256(sources + flow).hexdigest()[:12])


def _source(entrypoint: str) -> Path:
    """Return the file of an entrypoint, `path.to.module.flow` or `path/of/file.py:flow`."""
    path, colon, _ = entrypoint.partition(":")
    if colon:
        return Path(path)
    module = entrypoint.rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise FlowsError(f"the entrypoint {entrypoint} leads to no module")
    return Path(spec.origin)


def unregistered(table: dict[str, Any], entered: "Iterable[DeploymentResponse]") -> list[PlannedDeployment]:
    """Return the deployments that a server does not have in their version."""
    present = {(response.name, response.entrypoint, response.version) for response in entered}
    return [
        deployment
        for deployment in planned_deployments(table)
        if (deployment.entry["name"], deployment.entry["entrypoint"], deployment.version) not in present
    ]


def register() -> None:
    """Register the missing deployments of `./prefect.yaml`; exit with 1 on an error.

    Late runs stay. A deployment's limit of one run is the worker's: the server's would cost transactions and count a
    killed run for a minute.
    """
    place = FILE
    try:
        for place_of_next in _register_missing():
            place = place_of_next
    except Exception as error:  # noqa: BLE001 - importing a flow's module may raise anything
        message = " ".join(str(error).partition("For further information")[0].split())
        sys.exit(f"Error: {place}: {message or type(error).__name__}; correct the file")


def _register_missing() -> Iterator[str]:
    """Register the missing deployments; yield the place of each first."""
    from prefect.cli.deploy._models import PrefectYamlModel
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    table = yaml.safe_load(Path(FILE).read_text())
    PrefectYamlModel.model_validate(table)
    overrides = json.loads(os.environ.get(OVERRIDES, "{}"))
    with get_client(sync_client=True) as client:
        for entry, version in unregistered(table, client.read_deployments()):
            yield f"{FILE}, deployment {entry['name']}"
            flow: Any = load_flow_from_entrypoint(entry["entrypoint"])
            client.create_deployment(
                flow_id=client.create_flow_from_name(flow.name),
                name=entry["name"],
                description=entry.get("description", flow.description),
                version=version,
                tags=entry.get("tags"),
                entrypoint=entry["entrypoint"],
                parameters={**(entry.get("parameters") or {}), **({"overrides": overrides} if overrides else {})},
                parameter_openapi_schema=parameter_schema(flow).model_dump(exclude_unset=True),
                enforce_parameter_schema=True,
                schedules=[
                    DeploymentScheduleCreate(schedule=schedule_of(schedule, clock.speed()))
                    for schedule in entry.get("schedules", ())
                ],
                work_pool_name=entry["work_pool"]["name"],
                pull_steps=table.get("pull"),
            )


def schedule_of(entry: dict[str, Any], speed: float) -> "CronSchedule | IntervalSchedule":
    """Return a schedule of `prefect.yaml`; at a speed other than 1 a cron becomes an interval.

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
