"""Next run and last state of each deployment, from Prefect's server."""

from datetime import datetime
from operator import attrgetter
from typing import Any

import httpx
from msgspec import Struct

from lobsmith.errors import FlowsError

_DEADLINE_S = 5.0
_NEWEST = 200
"""The server's limit of runs in a response."""


class NextRun(Struct, frozen=True, kw_only=True):
    """The next run of a deployment.

    Attributes:
        deployment: `flow/deployment`, as in Prefect's commands.
        due: UTC; None where no run is scheduled, as when paused.
        last: state of the run started last, such as `Completed` or `Crashed`, cancelled ones left out; else None.
    """

    deployment: str
    due: datetime | None
    last: str | None


def next_runs(api_url: str) -> list[NextRun]:
    """Return the next run of each deployment; a flow has one deployment.

    Args:
        api_url: such as `http://127.0.0.1:4200/api`.

    Raises:
        FlowsError: no answer of a Prefect server.
    """
    try:
        with httpx.Client(base_url=api_url.rstrip("/"), timeout=_DEADLINE_S) as client:
            deployments = _post(client, "/deployments/filter")
            flows = {flow["id"]: flow["name"] for flow in _post(client, "/flows/filter")}
            due = _post(client, "/ui/flows/next-runs", flow_ids=list(flows))
            last = _last_states(client, {})
            if missing := [deployment["id"] for deployment in deployments if deployment["id"] not in last]:
                # Frequent runs crowd rare ones out of the response.
                last |= _last_states(client, {"deployments": {"id": {"any_": missing}}})
        runs = []
        for deployment in deployments:
            run = due[deployment["flow_id"]]
            runs.append(
                NextRun(
                    deployment=f"{flows[deployment['flow_id']]}/{deployment['name']}",
                    due=datetime.fromisoformat(run["next_scheduled_start_time"]) if run else None,
                    last=last.get(deployment["id"]),
                )
            )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FlowsError(f"{api_url}: Prefect's server does not answer: {error}; start it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise FlowsError(f"{api_url}: not the answer of a Prefect server: {error!r}; check that address") from error
    return sorted(runs, key=attrgetter("deployment"))


def _last_states(client: httpx.Client, among: dict[str, Any]) -> dict[str, str]:
    started = {"state": {"type": {"any_": ["RUNNING", "COMPLETED", "FAILED", "CRASHED"]}}}
    runs = _post(client, "/flow_runs/filter", flow_runs=started, sort="START_TIME_DESC", limit=_NEWEST, **among)
    return {run["deployment_id"]: run["state_name"] for run in reversed(runs)}


def _post(client: httpx.Client, path: str, **body: Any) -> Any:
    return client.post(path, json=body).raise_for_status().json()
