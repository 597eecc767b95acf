"""Transports to a model server: Triton over gRPC or HTTP, or the engine in this process."""

from collections.abc import Callable

from lobsmith.errors import ParamsError
from lobsmith.params import Params
from lobsmith.trading.transport.base import Transport
from lobsmith.workspace import Workspace


def open_transport(workspace: Workspace, params: Params, name: str, url: str | None = None) -> Transport:
    """Return a transport to `url`, else to the workspace's running server, else to the ports of `params`.

    Args:
        workspace: of the server or, in process, of the repository.
        params: `serving` has the ports.
        name: grpc, http or inprocess.
        url: HOST:PORT of another server.

    Raises:
        ParamsError: no such transport.
        ServingError: `url` is no HOST:PORT.
    """
    return transport_opener(workspace, params, name, url)()


def transport_opener(
    workspace: Workspace, params: Params, name: str, url: str | None = None
) -> Callable[[], Transport]:
    """Return a function that opens such a transport, for threads that need their own.

    Imports only that transport's libraries: gevent takes the thread of its first import for the main one.

    Raises:
        ParamsError: no such transport.
    """
    if name not in ("grpc", "http", "inprocess"):
        raise ParamsError(f"{name}: no such transport; there are grpc, http and inprocess")
    if name == "inprocess":
        from lobsmith.release.repository.repository import Repository
        from lobsmith.trading.transport.inprocess import InProcessTransport

        return lambda: InProcessTransport(Repository.of(workspace))
    from lobsmith.serving.endpoint import read_endpoint

    serving = params.serving
    if name == "grpc":
        from lobsmith.trading.transport.grpc import GrpcTransport

        def open_grpc() -> Transport:
            endpoint = None if url else read_endpoint(workspace)
            return GrpcTransport(url or (endpoint.grpc_url if endpoint else f"{serving.host}:{serving.grpc_port}"))

        return open_grpc
    from lobsmith.trading.transport.http import HttpTransport

    def open_http() -> Transport:
        endpoint = None if url else read_endpoint(workspace)
        return HttpTransport(url or (endpoint.http_url if endpoint else f"{serving.host}:{serving.http_port}"))

    return open_http
