"""Transports by name."""

from lobsmith.params import Params
from lobsmith.release.repository import Repository
from lobsmith.serving.endpoint import read_endpoint
from lobsmith.trading.transports import DescribingTransport, GrpcTransport, HttpTransport, InProcessTransport
from lobsmith.workspace import Workspace


def open_transport(workspace: Workspace, params: Params, name: str, url: str | None = None) -> DescribingTransport:
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
