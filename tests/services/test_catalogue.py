"""Which services a workspace has, and which of them the user's own servers take the place of."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lobsmith.errors import PortBusyError, ServiceError, TritonMissingError
from lobsmith.params import load_params
from lobsmith.services import catalogue as module
from lobsmith.services.catalogue import PREFECT_API, Catalogue, catalogue
from lobsmith.services.flows.register import OVERRIDES
from lobsmith.services.service import Phase, Service
from lobsmith.serving.ports import Port, check_free, free_ports
from lobsmith.workspace import MLFLOW_URI, Workspace
from tests.small import params_file

PARAMS = load_params(params_file())


def by_name(started: Catalogue) -> dict[str, Service]:
    return {service.name: service for service in started.services}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PREFECT_API, MLFLOW_URI):
        monkeypatch.delenv(name, raising=False)


class WantsKey(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(http.HTTPStatus.UNAUTHORIZED)


@pytest.fixture
def own_server() -> Iterator[str]:
    """A server of the user's, which requires a key."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WantsKey)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_service_listens_on_loopback_on_its_own_port(tmp_path: Path) -> None:
    started = catalogue(Workspace(tmp_path), PARAMS)
    services = started.services
    names = [service.name for service in services]
    assert names == ["prefect", "mlflow", "triton", "flows", "evidently"]
    ports = [port for service in services for port in service.ports]
    assert {port.host for port in ports} == {"127.0.0.1"}
    assert len({port.number for port in ports}) == len(ports) == 7
    assert started.prefect_api == f"http://127.0.0.1:{PARAMS.services.prefect_port}/api"
    assert all(set(service.after) <= set(names[: names.index(service.name)]) for service in services)


def test_nothing_is_kept_outside_the_workspaces_own_folder(tmp_path: Path) -> None:
    prefect = by_name(catalogue(Workspace(tmp_path), PARAMS))["prefect"]
    home = str(tmp_path / ".lobsmith")
    assert prefect.environment["PREFECT_HOME"].startswith(home)
    assert prefect.environment["PREFECT_SERVER_UI_STATIC_DIRECTORY"].startswith(home)
    assert str(prefect.folder).startswith(home)


def test_the_users_own_servers_take_the_place_of_ours(
    tmp_path: Path, own_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No http.server answers GET by itself: 501 counts as broken, so the class is given a page that requires a key.
    monkeypatch.setenv(PREFECT_API, f"{own_server}/api/")
    monkeypatch.setenv(MLFLOW_URI, own_server)
    started = catalogue(Workspace(tmp_path), PARAMS)
    services = by_name(started)
    states = {name: service.instead and service.instead[0] for name, service in services.items()}
    assert (states["prefect"], states["mlflow"], states["flows"]) == (Phase.ELSEWHERE, Phase.ELSEWHERE, None)
    assert started.prefect_api == f"{own_server}/api"
    assert services["flows"].environment[PREFECT_API] == f"{own_server}/api"


@pytest.mark.parametrize("variable", [PREFECT_API, MLFLOW_URI])
def test_a_server_of_the_users_that_does_not_answer_is_one_line(
    tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/api"
    monkeypatch.setenv(variable, url)
    with pytest.raises(
        ServiceError, match=rf"^{variable}={url}: no server answers \(.*refused.*\); start it, or unset"
    ):
        catalogue(Workspace(tmp_path), PARAMS)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_our_own_address_in_the_environment_is_no_server_of_the_users(
    tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFECT_API, f"http://{host}:{PARAMS.services.prefect_port}/api")
    prefect = by_name(catalogue(Workspace(tmp_path), PARAMS))["prefect"]
    assert prefect.instead is None


def test_without_triton_the_others_run_and_the_reason_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise TritonMissingError("Triton is not installed; pip install it")

    monkeypatch.setattr(module, "find_triton", missing)
    services = by_name(catalogue(Workspace(tmp_path), PARAMS, live=["BTCUSDT"]))
    assert services["triton"].instead == (Phase.MISSING, "Triton is not installed; pip install it")
    assert services["live"].command[-2:] == ("live", "BTCUSDT")
    assert services["live"].finishes


def test_the_schedules_and_the_live_feed_go_on_with_one_model(tmp_path: Path) -> None:
    services = by_name(catalogue(Workspace(tmp_path), PARAMS, ["BTCUSDT"], "lob_demo"))
    assert json.loads(services["flows"].environment[OVERRIDES]) == {"data.source": "live", "model.name": "lob_demo"}
    assert services["live"].command[-4:] == ("live", "--model", "lob_demo", "BTCUSDT")


def test_two_services_on_one_port_are_refused() -> None:
    number = free_ports(1)[0]
    ports = [Port(number, "services.prefect_port"), Port(number, "services.mlflow_port")]
    with pytest.raises(PortBusyError, match=r"is named by services\.prefect_port and by services\.mlflow_port"):
        check_free(ports)
