"""Parts of starting Triton that need no Triton."""

import json
import socket
import threading

import msgspec
import pytest

from lobsmith.errors import PortBusyError, ReleaseError, ServingError
from lobsmith.params import ServingParams
from lobsmith.release.version.triton_config import config_text
from lobsmith.serving.ports import check_free
from lobsmith.serving.supervisor import stop_on_signals, with_free_ports
from lobsmith.serving.triton.control import override
from lobsmith.serving.triton.embedded import PORTS, describe_exit, error_line, ipv4, ports_of
from tests.release import toy


def serving(**changes: object) -> ServingParams:
    return msgspec.structs.replace(with_free_ports(toy.params()).serving, **changes)


def test_free_ports_differ_and_pass_the_check() -> None:
    params = serving()
    assert len({getattr(params, name) for name in PORTS}) == 4
    check_free(ports_of(params))


@pytest.mark.parametrize("name", PORTS)
def test_a_taken_port_says_which_setting_to_change(name: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        flag = "--" + name.replace("_", "-")
        with pytest.raises(
            PortBusyError, match=rf"port {port} .*taken.*serving\.{name} in params\.yaml or pass {flag}"
        ):
            check_free(ports_of(serving(**{name: port})))


def test_one_port_for_two_services_is_refused() -> None:
    params = serving()
    with pytest.raises(PortBusyError, match=r"named by serving\.http_port and by serving\.grpc_port"):
        check_free(ports_of(msgspec.structs.replace(params, grpc_port=params.http_port)))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ServingError, match="no address of this machine"):
        check_free(ports_of(serving(host="192.0.2.1")))
    with pytest.raises(ServingError, match="no IPv4 address"):
        ipv4("no-such-host.invalid")
    assert ipv4("localhost") == "127.0.0.1"


def test_the_override_changes_nothing_but_the_versions() -> None:
    text = config_text("toy", toy.CONTRACT, versions=[1, 2, 3], prime_rows=7, max_batch=4, warmup=2)
    config = json.loads(override(text, [30, 10]))
    assert config["version_policy"] == {"specific": {"versions": ["10", "30"]}}
    assert config["parameters"]["prime_rows"]["string_value"] == "7"
    assert config["model_warmup"][0]["count"] == 2
    with pytest.raises(ReleaseError, match=r"config\.pbtxt"):
        override("not a configuration", [1])


def test_the_error_line_of_a_log() -> None:
    log = [
        "2026-01-02T03:04:05Z I 7 server.cc:1] started",
        "2026-01-02T03:04:05Z E 7 main.cc:9] failed to bind: Address in use",
        "2026-01-02T03:04:06Z I 7 server.cc:2] shutting down",
    ]
    assert error_line(log) == "main.cc:9] failed to bind: Address in use"
    assert error_line(["only this"]) == "only this"
    assert error_line([]) == ""
    assert len(error_line(["error " + "x" * 1000])) == 300


@pytest.mark.parametrize(("code", "message"), [(1, "exit status 1"), (-9, "SIGKILL"), (-200, "signal 200")])
def test_an_exit_is_described(code: int, message: str) -> None:
    assert describe_exit(code) == message


def test_the_first_signal_asks_and_the_second_insists() -> None:
    import signal

    stop, before = threading.Event(), signal.getsignal(signal.SIGINT)
    with stop_on_signals(stop):
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
