"""Checks of `lobsmith doctor` on the running services: each is optional, and names its remedy."""

import os
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from lobsmith import clock
from lobsmith.cli.times import format_duration
from lobsmith.errors import LobsmithError
from lobsmith.params import Params
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

_START = "`lobsmith up` starts it"


class Check(Struct, frozen=True, kw_only=True):
    """The result of a check; `needed` parts are those of `lobsmith demo`."""

    name: str
    found: bool
    needed: bool
    detail: str


def service_checks(workspace: Workspace, params: Params) -> list[Check]:
    """Return whether flows run, versions serve and modes are fresh."""
    api, since = _prefect(workspace)
    return [
        _check("schedules", lambda: _schedules(api, since)),
        _check("worker", lambda: _worker(api)),
        _check("serving", lambda: _serving(workspace)),
        _check("mode", lambda: _modes(workspace, params)),
    ]


def _check(name: str, look: Callable[[], tuple[bool, str]]) -> Check:
    try:
        found, detail = look()
    except LobsmithError as error:
        found, detail = False, " ".join(str(error).split())
    return Check(name=name, found=found, needed=False, detail=detail)


def _prefect(workspace: Workspace) -> tuple[str | None, datetime | None]:
    """Return the address of Prefect's API, and since when `lobsmith up` runs; None where unknown."""
    from lobsmith.services.run import read_run, running_prefect

    run = read_run(workspace)
    since = None if run is None else datetime.fromtimestamp(run.started_ns / NS_PER_S, UTC)
    return os.environ.get("PREFECT_API_URL") or running_prefect(workspace), since


def _schedules(api: str | None, since: datetime | None) -> tuple[bool, str]:
    from lobsmith.services.flows.schedule import firing

    if api is None:
        return False, f"no Prefect server runs; {_START}"
    deployments = firing(api, since)
    if not deployments:
        return False, f"{api} has no deployment; {_START}, or `prefect --no-prompt deploy --all`"
    late = [deployment for deployment in deployments if deployment.late]
    if not late:
        newest = max((deployment.started for deployment in deployments if deployment.started), default=None)
        return True, f"{len(deployments)} on time; newest run {_since(newest)}"
    names = []
    for deployment in late:
        every = format_duration(deployment.period_s or 0)
        names.append(f"{deployment.deployment} every {every}, newest run {_since(deployment.started)}")
    return False, f"late: {'; '.join(names)}; see `lobsmith logs flows`, then `lobsmith down` and `lobsmith up`"


def _worker(api: str | None) -> tuple[bool, str]:
    from lobsmith.services.flows.schedule import POOL, polling_workers

    if api is None:
        return False, f"none polls; {_START}"
    workers = polling_workers(api, POOL)
    if not workers:
        return False, f"none polls the pool {POOL} of {api}; {_START}, or `prefect worker start --pool {POOL}`"
    return True, f"{', '.join(workers)} polls the pool {POOL}"


def _serving(workspace: Workspace) -> tuple[bool, str]:
    from lobsmith.release.repository.repository import Repository
    from lobsmith.release.version.names import may_produce
    from lobsmith.serving.triton.control import connect

    control = connect(workspace)
    if control is None:
        return False, f"no server runs; {_START}, `lobsmith serve` runs it alone"
    models = [model for model in Repository.of(workspace).models() if may_produce(model)]
    ready = {model: control.ready_versions(model) for model in models}
    where = f"HTTP {control.endpoint.http_url}, gRPC {control.endpoint.grpc_url}"
    if not models:
        return False, f"{where}: no model is published; `lobsmith retrain` makes one"
    texts = [f"{model} {', '.join(map(str, versions)) or 'has no READY version'}" for model, versions in ready.items()]
    remedy = "" if all(ready.values()) else "; `lobsmith status` names the faults"
    return all(map(bool, ready.values())), f"{where}: {'; '.join(texts)}{remedy}"


def _modes(workspace: Workspace, params: Params) -> tuple[bool, str]:
    from lobsmith.monitoring.mode.store import read_mode
    from lobsmith.release.repository.repository import Repository
    from lobsmith.release.version.names import may_produce

    repository = Repository.of(workspace)
    texts, fresh = [], True
    for model in filter(may_produce, repository.models()):
        if repository.active(model) is None:
            continue
        published = read_mode(workspace, model)
        if published is None or not published.looked_ns:
            fresh = False
            texts.append(f"{model} has had no drift check")
            continue
        age_s = (clock.now_ns() - published.looked_ns) / NS_PER_S
        stale = age_s > params.modes.stale_s
        fresh &= not stale
        bound = f", stale after {format_duration(params.modes.stale_s)}" if stale else ""
        texts.append(f"{model} {published.mode}, checked {_ago(age_s)}{bound}")
    if not texts:
        return False, "no version is in service; `lobsmith retrain` makes one"
    return fresh, "; ".join(texts) + (
        "" if fresh else "; `lobsmith up` checks every five minutes, `lobsmith drift` now"
    )


def _ago(seconds: float) -> str:
    return f"{format_duration(seconds)} ago"


def _since(time: datetime | None) -> str:
    return "never" if time is None else _ago((datetime.now(UTC) - time).total_seconds())
