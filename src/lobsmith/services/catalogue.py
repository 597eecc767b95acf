"""The services of a workspace: command, ports, readiness."""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lobsmith.errors import ServiceError, TritonMissingError
from lobsmith.monitoring.drift.evidently_ui import UI_HEALTH, evidently_workspace, ui_command, ui_environment
from lobsmith.params import Params
from lobsmith.services.flows.register import OVERRIDES
from lobsmith.services.service import Phase, Probe, Service, answers, why_away
from lobsmith.serving.endpoint import read_endpoint
from lobsmith.serving.ports import HOST, Port
from lobsmith.serving.triton.embedded import PORTS, is_ready, ports_of
from lobsmith.serving.triton.installation import check_installation, find_triton
from lobsmith.workspace import MLFLOW_URI, SQLITE, Workspace

PREFECT_API = "PREFECT_API_URL"
_RECORDER_S = 5.0
"""Time for a live session to end after draining its shadow rows, s."""
_LIVE_BEAT_S, _FLOWS_BEAT_S = 20.0, 30.0
"""Longest age of a heartbeat, s; a live session beats each second, a zygote restarts slowly."""
_BEAT_POLL_S = 2.0


@dataclass(frozen=True)
class Catalogue:
    """The services of a workspace in start order, and the addresses of Prefect's API and of the landing page."""

    services: tuple[Service, ...]
    prefect_api: str
    page: str = ""


def catalogue(
    workspace: Workspace, params: Params, live: Sequence[str] | None = None, model: str | None = None
) -> Catalogue:
    """Return the services that `lobsmith up` runs.

    Args:
        workspace: of the project.
        params: ports and deadlines.
        live: arguments of `lobsmith live`, whose captures are trained on; None for no session.
        model: production model of flows and live session instead of `model.name`.

    Raises:
        ServiceError: an external server does not answer.
    """
    prefect, api = _prefect(workspace, params)
    triton = _triton(workspace, params)
    services = [prefect, _mlflow(workspace, params), triton]
    overrides = {} if live is None else {"data.source": "live"}
    if model is not None:
        overrides["model.name"] = model
    services.append(_flows(workspace, prefect, api, overrides))
    services.append(_evidently(workspace, params))
    if live is not None:
        services.append(_live(workspace, params, live if model is None else ("--model", model, *live)))
    return Catalogue(tuple(services), api, _landing_page(params) if triton.instead is None else "")


def _prefect(workspace: Workspace, params: Params) -> tuple[Service, str]:
    port = params.services.prefect_port
    page = f"http://{HOST}:{port}"
    api = f"{page}/api"
    external = os.environ.get(PREFECT_API, "").rstrip("/")
    # Our own address may be left from an earlier session.
    if external and external not in (api, api.replace(HOST, "localhost")):
        _check_reachable(PREFECT_API, external)
        instead = (Phase.ELSEWHERE, f"{PREFECT_API} names this server")
        return Service(name="prefect", folder=workspace.root, address=external, instead=instead), external
    environment = {
        "PREFECT_HOME": str(workspace.prefect),
        PREFECT_API: api,
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        # By default Prefect unpacks its pages beside its code.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(workspace.prefect / "pages"),
        "PREFECT__SERVER_FINAL": "1",
        # A pass reads all runs cancelled within a day, many after an outage.
        "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "600",
    }
    service = Service(
        name="prefect",
        command=(sys.executable, "-P", "-m", "lobsmith.services.prefect_server", str(port)),
        environment=environment,
        folder=_empty_folder(workspace),
        address=page,
        page=True,
        ports=(Port(port, "services.prefect_port"),),
        probe=answers(port, "/api/health"),
    )
    return service, api


def _flows(workspace: Workspace, prefect: Service, api: str, overrides: dict[str, str]) -> Service:
    ours = prefect.instead is None
    home = str(workspace.prefect) if ours else os.environ.get("PREFECT_HOME", str(workspace.prefect))
    return Service(
        name="flows",
        command=(sys.executable, "-P", "-m", "lobsmith.services.flows"),
        environment={
            "LOBSMITH_ROOT": str(workspace.root),
            PREFECT_API: api,
            "PREFECT_HOME": home,
            OVERRIDES: json.dumps(overrides),
        },
        folder=workspace.root,
        after=("prefect", "mlflow"),
        beat_s=_FLOWS_BEAT_S,
        probe_s=_BEAT_POLL_S,
    )


def _mlflow(workspace: Workspace, params: Params) -> Service:
    external = os.environ.get(MLFLOW_URI, "")
    if external and not external.startswith(SQLITE):
        _check_reachable(MLFLOW_URI, external.rstrip("/"))
        instead = (Phase.ELSEWHERE, f"{MLFLOW_URI} names this server")
        return Service(name="mlflow", folder=workspace.root, address=external, instead=instead)
    port = params.services.mlflow_port
    return Service(
        name="mlflow",
        command=(sys.executable, "-P", "-m", "lobsmith.services.mlflow_server", str(workspace.root), str(port)),
        folder=_empty_folder(workspace),
        address=f"http://{HOST}:{port}",
        page=True,
        ports=(Port(port, "services.mlflow_port"),),
        probe=answers(port, "/health"),
    )


def _triton(workspace: Workspace, params: Params) -> Service:
    serving = params.serving
    try:
        check_installation(find_triton())
    except TritonMissingError as error:
        return Service(name="triton", folder=workspace.root, instead=(Phase.MISSING, str(error)))
    options = [part for name in PORTS for part in (f"--{name.replace('_', '-')}", str(getattr(serving, name)))]
    return Service(
        name="triton",
        command=(sys.executable, "-P", "-m", "lobsmith", "--root", str(workspace.root), "serve", *options),
        folder=_empty_folder(workspace),
        address=f"http {serving.http_port}, grpc {serving.grpc_port}, modes {serving.modes_port}",
        ports=tuple(ports_of(serving)),
        # One heartbeat after the models' loading; then the probe alone.
        beat_s=math.inf,
        probe=_triton_answers(workspace),
        probe_s=2.0,
        # `lobsmith serve` restarts Triton first.
        start_deadline_s=serving.start_deadline_s + 2 * serving.load_deadline_s,
        silent_s=serving.start_deadline_s + serving.load_deadline_s,
        stop_deadline_s=serving.stop_deadline_s + 5.0,
    )


def _landing_page(params: Params) -> str:
    host = params.serving.host
    return f"http://{HOST if host == '0.0.0.0' else host}:{params.serving.modes_port}"  # noqa: S104 - a comparison


def _triton_answers(workspace: Workspace) -> Probe:
    def probe(pid: int) -> str | None:
        endpoint = read_endpoint(workspace)
        if endpoint is None or endpoint.pid != pid:
            return "Triton is being started"
        return None if is_ready(endpoint) else f"Triton does not answer at {endpoint.http_url}"

    return probe


def _evidently(workspace: Workspace, params: Params) -> Service:
    port = params.services.evidently_port
    return Service(
        name="evidently",
        command=ui_command(evidently_workspace(workspace), port),
        environment=ui_environment(),
        folder=_empty_folder(workspace),
        address=f"http://{HOST}:{port}",
        page=True,
        ports=(Port(port, "services.evidently_port"),),
        probe=answers(port, UI_HEALTH),
    )


def _live(workspace: Workspace, params: Params, arguments: Sequence[str]) -> Service:
    return Service(
        name="live",
        command=(sys.executable, "-P", "-m", "lobsmith", "--root", str(workspace.root), "live", *arguments),
        # File arguments are relative to it.
        folder=Path.cwd(),
        address=" ".join(arguments),
        after=("triton",),
        # Without a network there is none; the session reconnects by itself.
        beat_s=_LIVE_BEAT_S,
        probe_s=_BEAT_POLL_S,
        start_deadline_s=math.inf,
        stop_deadline_s=params.mirror.drain_s + _RECORDER_S,
        finishes=True,
    )


def _empty_folder(workspace: Workspace) -> Path:
    """Return an empty working directory; servers read settings and modules from theirs."""
    return workspace.up / "empty"


def _check_reachable(variable: str, url: str) -> None:
    if (why := why_away(url)) is not None:
        raise ServiceError(
            f"{variable}={url}: no server answers ({why}); start it, or unset {variable} to have one of ours"
        )
