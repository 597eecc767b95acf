"""`lobsmith serve`: Triton, supervised, until Ctrl-C."""

import threading

import click

from lobsmith.cli.options import overrides, results, set_option
from lobsmith.params import load_params
from lobsmith.process import Heartbeat
from lobsmith.progress import room_permitting
from lobsmith.workspace import Workspace


@click.command()
@click.option("--http-port", type=int, help="Instead of serving.http_port.")
@click.option("--grpc-port", type=int, help="Instead of serving.grpc_port.")
@click.option("--metrics-port", type=int, help="Instead of serving.metrics_port.")
@click.option("--modes-port", type=int, help="Instead of serving.modes_port.")
@set_option
@click.pass_obj
def serve(
    workspace: Workspace,
    http_port: int | None,
    grpc_port: int | None,
    metrics_port: int | None,
    modes_port: int | None,
    settings: tuple[str, ...],
) -> None:
    """Serve the model repository with Triton until Ctrl-C, and the landing page on the port of the modes."""
    from lobsmith.services.landing.pages import landing_pages
    from lobsmith.serving.supervisor import EventKind, ServeEvent, stop_on_signals
    from lobsmith.serving.supervisor import serve as supervise

    ports = {
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "modes_port": modes_port,
    }
    replaced = {f"serving.{name}": port for name, port in ports.items() if port is not None}
    params = load_params(workspace.params, {**overrides(settings), **replaced})
    heartbeat = Heartbeat.inherited()

    @room_permitting()
    def show(event: ServeEvent) -> None:
        if event.kind is EventKind.SERVING:
            heartbeat.beat()
        results.print(f"{event.kind.value:<9} {event.message}", soft_wrap=True)
        if event.endpoint is not None and event.kind is EventKind.SERVING:
            e = event.endpoint
            urls = f"HTTP {e.http_url}, gRPC {e.grpc_url}, metrics {e.metrics_url}, modes {e.modes_url}"
            results.print(f"{'':9} {urls}", soft_wrap=True)
            results.print(f"{'':9} open {e.page_url}; Ctrl-C stops", soft_wrap=True)

    stop = threading.Event()
    with stop_on_signals(stop), landing_pages(workspace) as pages:
        supervise(workspace, params, on_event=show, stop=stop, pages=pages)
