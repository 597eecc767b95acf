"""Next run and last state of each deployment, and whether they run, from Prefect's server."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import httpx
from msgspec import Struct

from lobsmith.errors import FlowsError

POOL = "lobsmith"
"""The work pool of `prefect.yaml`."""
_DEADLINE_S = 5.0
_STARTED = {"state": {"type": {"any_": ["RUNNING", "COMPLETED", "FAILED", "CRASHED"]}}}
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


class Firing(Struct, frozen=True, kw_only=True):
    """Whether a deployment's schedule starts runs.

    Attributes:
        deployment: its name.
        started: start of its newest run, UTC; None before the first.
        period_s: time between two scheduled runs, s; None where fewer are scheduled, as when paused.
        late: more than two periods and `_GRACE` have passed without a run.
    """

    deployment: str
    started: datetime | None
    period_s: float | None
    late: bool


_GRACE = timedelta(minutes=1)


def firing(api_url: str, since: datetime | None) -> list[Firing]:
    """Return whether each deployment's schedule starts runs.

    Args:
        api_url: such as `http://127.0.0.1:4200/api`.
        since: start of the worker, UTC; by default that of each deployment.

    Raises:
        FlowsError: no answer of a Prefect server.
    """
    with _server(api_url) as client:
        deployments = _post(client, "/deployments/filter")
        return sorted((_firing(client, deployment, since) for deployment in deployments), key=attrgetter("deployment"))


def _firing(client: httpx.Client, deployment: dict[str, Any], since: datetime | None) -> Firing:
    among = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    begun = _post(client, "/flow_runs/filter", flow_runs=_STARTED, sort="START_TIME_DESC", limit=1, **among)
    planned = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    due = _post(client, "/flow_runs/filter", flow_runs=planned, sort="EXPECTED_START_TIME_ASC", limit=200, **among)
    started = datetime.fromisoformat(begun[0]["start_time"]) if begun and begun[0]["start_time"] else None
    times = sorted({datetime.fromisoformat(run["expected_start_time"]) for run in due})
    period = times[-1] - times[-2] if len(times) > 1 else None
    waited = datetime.now(UTC) - max(filter(None, (started, since or datetime.fromisoformat(deployment["created"]))))
    return Firing(
        deployment=deployment["name"],
        started=started,
        period_s=None if period is None else period.total_seconds(),
        late=period is not None and waited > 2 * period + _GRACE,
    )


def polling_workers(api_url: str, pool: str) -> list[str]:
    """Return the workers of a work pool that poll the server.

    Raises:
        FlowsError: no answer of a Prefect server.
    """
    with _server(api_url) as client:
        reply = client.post(f"/work_pools/{pool}/workers/filter", json={})
        workers = [] if reply.status_code == httpx.codes.NOT_FOUND else reply.raise_for_status().json()
        return [worker["name"] for worker in workers if worker["status"] == "ONLINE"]


def next_runs(api_url: str) -> list[NextRun]:
    """Return the next run of each deployment; a flow has one deployment.

    Args:
        api_url: such as `http://127.0.0.1:4200/api`.

    Raises:
        FlowsError: no answer of a Prefect server.
    """
    with _server(api_url) as client:
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
        return sorted(runs, key=attrgetter("deployment"))


@contextmanager
def _server(api_url: str) -> Iterator[httpx.Client]:
    """Yield a client of Prefect's server; errors in the block are its."""
    try:
        with httpx.Client(base_url=api_url.rstrip("/"), timeout=_DEADLINE_S) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FlowsError(f"{api_url}: Prefect's server does not answer: {error}; start it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise FlowsError(f"{api_url}: not the answer of a Prefect server: {error!r}; check that address") from error


def _last_states(client: httpx.Client, among: dict[str, Any]) -> dict[str, str]:
    runs = _post(client, "/flow_runs/filter", flow_runs=_STARTED, sort="START_TIME_DESC", limit=_NEWEST, **among)
    return {run["deployment_id"]: run["state_name"] for run in reversed(runs)}


def _post(client: httpx.Client, path: str, **body: Any) -> Any:
    return client.post(path, json=body).raise_for_status().json()
