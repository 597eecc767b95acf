"""Transports by name, and the guard that asks over one of its own."""

from typing import Protocol

from lobsmith.features.definitions import COUNT
from lobsmith.params import Params
from lobsmith.release.repository.repository import Repository
from lobsmith.serving.endpoint import read_endpoint
from lobsmith.trading.guard.guard import Guard
from lobsmith.trading.guard.monitor_mode import FileModes, HttpModes
from lobsmith.trading.transport.transports import (
    DescribingTransport,
    GrpcTransport,
    HttpTransport,
    InProcessTransport,
    ScoringTransport,
)
from lobsmith.workspace import Workspace


class ClientTransport(DescribingTransport, ScoringTransport, Protocol):
    """A transport that can do all that a client asks for."""


def open_transport(workspace: Workspace, params: Params, name: str, url: str | None = None) -> ClientTransport:
    """Return a transport to the server named by `url`, else to the workspace's running one, else to params' ports.

    Args:
        workspace: of the server, or of the repository that is read in process.
        params: `serving` has the ports.
        name: grpc, http or inprocess.
        url: HOST:PORT of another server.
    """
    if name == "inprocess":
        return InProcessTransport(Repository.of(workspace))
    endpoint = None if url else read_endpoint(workspace)
    if name == "grpc":
        default = endpoint.grpc_url if endpoint else f"{params.serving.host}:{params.serving.grpc_port}"
        return GrpcTransport(url or default)
    default = endpoint.http_url if endpoint else f"{params.serving.host}:{params.serving.http_port}"
    return HttpTransport(url or default)


def open_guard(
    workspace: Workspace, params: Params, model: str, name: str, url: str | None = None, modes: str | None = None
) -> Guard:
    """Return a guard of one stream, which runs until it is closed.

    Args:
        workspace: of the server, and of the record of the mode.
        params: those that the model was trained with.
        model: the production model.
        name: grpc, http or inprocess.
        url: HOST:PORT of another server.
        modes: URL of the pages of modes on another machine, `http://HOST:PORT/modes`.

    Raises:
        ServingError: `modes` is no such URL.
    """
    source = FileModes(workspace, model) if modes is None else HttpModes(modes, model)
    return Guard(model, COUNT, params, source, lambda: open_transport(workspace, params, name, url))
