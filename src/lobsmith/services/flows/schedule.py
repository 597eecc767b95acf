"""When each deployment runs next, as Prefect's server says, and how its last run ended."""

from datetime import datetime
from typing import Any

import httpx
from msgspec import Struct

from lobsmith.errors import FlowsError

_DEADLINE_S = 5.0
_NEWEST = 200
"""The server hands out no more at once."""


class NextRun(Struct, frozen=True, kw_only=True):
    """The next run of a deployment.

    Attributes:
        deployment: as in `lobsmith up`'s table and in Prefect's commands, `flow/deployment`.
        due: UTC; None where the server has made no run, which a paused schedule explains and nothing else should.
        last: state of the run that began last, such as `Running`, `Completed`, `Skipped` or `Crashed`; cancelled ones
            do not count. None where none has begun.
    """

    deployment: str
    due: datetime | None
    last: str | None


def next_runs(api_url: str) -> list[NextRun]:
    """Ask Prefect's server for the next run of each deployment, of which a flow has one.

    Args:
        api_url: its address, such as `http://127.0.0.1:4200/api`.

    Raises:
        FlowsError: it does not answer, or not as Prefect's server does.
    """
    try:
        with httpx.Client(base_url=api_url.rstrip("/"), timeout=_DEADLINE_S) as client:
            deployments = _post(client, "/deployments/filter")
            flows = {one["id"]: one["name"] for one in _post(client, "/flows/filter")}
            due = _post(client, "/ui/flows/next-runs", flow_ids=list(flows))
            last = _last_states(client, {})
            if missing := [one["id"] for one in deployments if one["id"] not in last]:
                # Those of every minute crowd out one of every six hours.
                last |= _last_states(client, {"deployments": {"id": {"any_": missing}}})
        found = [
            NextRun(
                deployment=f"{flows[one['flow_id']]}/{one['name']}",
                due=datetime.fromisoformat(run["next_scheduled_start_time"]) if (run := due[one["flow_id"]]) else None,
                last=last.get(one["id"]),
            )
            for one in deployments
        ]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FlowsError(f"{api_url}: Prefect's server does not answer: {error}; start it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise FlowsError(f"{api_url}: not the answer of a Prefect server: {error!r}; look at what it names") from error
    return sorted(found, key=lambda one: one.deployment)


def _last_states(client: httpx.Client, among: dict[str, Any]) -> dict[str, str]:
    begun = {"state": {"type": {"any_": ["RUNNING", "COMPLETED", "FAILED", "CRASHED"]}}}
    runs = _post(client, "/flow_runs/filter", flow_runs=begun, sort="START_TIME_DESC", limit=_NEWEST, **among)
    return {run["deployment_id"]: run["state_name"] for run in reversed(runs)}


def _post(client: httpx.Client, path: str, **body: Any) -> Any:
    return client.post(path, json=body).raise_for_status().json()
