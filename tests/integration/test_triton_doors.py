"""D11: what only the publisher may do, over both protocols, against the real Triton."""

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.serving.triton.control import TritonControl
from lobsmith.serving.triton.embedded import GRPC_KEY_HEADER, KEY_HEADER
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.workspace import Workspace
from tests.served import publish_small, rows
from tests.small import params_file, small_params

pytestmark = pytest.mark.integration

# Each takes a client of either protocol and headers.
LOCKED: dict[str, Callable[[Any, dict[str, str]], object]] = {
    "index": lambda client, headers: client.get_model_repository_index(headers=headers),
    "load": lambda client, headers: client.load_model("lob", headers=headers),
    "unload": lambda client, headers: client.unload_model("lob", headers=headers),
    "shared memory": lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    "register shared memory": lambda client, headers: client.register_system_shared_memory(
        "x", "/x", 8, headers=headers
    ),
    "unregister shared memory": lambda client, headers: client.unregister_system_shared_memory(headers=headers),
    "CUDA memory": lambda client, headers: client.get_cuda_shared_memory_status(headers=headers),
    "register CUDA memory": lambda client, headers: client.register_cuda_shared_memory(
        "x", b"\0" * 64, 0, 8, headers=headers
    ),
    "unregister CUDA memory": lambda client, headers: client.unregister_cuda_shared_memory(headers=headers),
    "trace settings": lambda client, headers: client.get_trace_settings(headers=headers),
    "change trace settings": lambda client, headers: client.update_trace_settings(
        settings={"trace_file": ["x"]}, headers=headers
    ),
    "log settings": lambda client, headers: client.get_log_settings(headers=headers),
    "change log settings": lambda client, headers: client.update_log_settings({"log_file": "x"}, headers=headers),
}
PROTOCOLS = {"http": (tritonclient.http, KEY_HEADER), "grpc": (tritonclient.grpc, GRPC_KEY_HEADER)}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonControl]:
    workspace = Workspace(tmp_path_factory.mktemp("doors") / "project")
    workspace.root.mkdir()
    shutil.copy(params_file(), workspace.params)
    params = with_free_ports(small_params())
    publish_small(workspace, params, seed=1)
    # A name that climbs out of the repository would find a whole model.
    shutil.copytree(workspace.repository / "lob", workspace.root / "outside")
    config = workspace.root / "outside" / "config.pbtxt"
    config.write_text(config.read_text().replace('"lob"', '"outside"'))
    with running_triton(workspace, params) as control:
        yield control


@pytest.fixture(params=sorted(PROTOCOLS))
def client(request: pytest.FixtureRequest, control: TritonControl) -> Iterator[tuple[Any, str]]:
    """A client and the name of the header that would carry the key."""
    module, header = PROTOCOLS[request.param]
    url = control.endpoint.http_url if request.param == "http" else control.endpoint.grpc_url
    client = module.InferenceServerClient(url)
    yield client, header
    client.close()


@pytest.mark.parametrize("call", LOCKED)
def test_a_locked_call_needs_the_key(client: tuple[Any, str], control: TritonControl, call: str) -> None:
    triton, header = client
    key = control.endpoint.key
    for headers in ({}, {header: "wrong"}, {header: ""}, {header: key[:-1]}, {header: key.swapcase()}):
        with pytest.raises(InferenceServerException, match="(?i)restrict"):
            LOCKED[call](triton, headers)
    assert control.ready_versions("lob")


def test_the_key_opens(client: tuple[Any, str], control: TritonControl) -> None:
    triton, header = client
    headers = {header: control.endpoint.key}
    assert triton.get_model_repository_index(headers=headers)
    triton.get_system_shared_memory_status(headers=headers)
    triton.get_log_settings(headers=headers)


def test_inference_metadata_and_health_need_no_key(client: tuple[Any, str], control: TritonControl) -> None:
    triton, _ = client
    module = tritonclient.http if isinstance(triton, tritonclient.http.InferenceServerClient) else tritonclient.grpc
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("lob")
    assert triton.get_server_metadata()
    assert triton.get_model_metadata("lob")
    assert triton.get_model_config("lob")
    assert triton.get_inference_statistics("lob")
    inputs = []
    transport = GrpcTransport(control.endpoint.grpc_url)
    state = np.zeros((1, transport.describe("lob").state_size), np.float32)
    transport.close()
    for name, array in (("features", rows(1)[None]), ("state", state)):
        inputs.append(module.InferInput(name, list(array.shape), "FP32"))
        inputs[-1].set_data_from_numpy(array)
    assert triton.infer("lob", inputs).as_numpy("probabilities").shape[-1] == 3


@pytest.mark.parametrize(
    "name", ["../outside", "..%2foutside", "%2e%2e%2foutside", "..", "%2e%2e", "/etc", "lob/../lob"]
)
@pytest.mark.parametrize("path", ["/v2/models/{}/ready", "/v2/models/{}/versions/1/ready", "/v2/models/{}/config"])
def test_a_name_that_climbs_finds_nothing(control: TritonControl, path: str, name: str) -> None:
    assert status(control, "GET", path.format(name)) in range(400, 500)


@pytest.mark.parametrize("name", ["../outside", "..%2foutside", "%2e%2e%2foutside", "lob/../../outside"])
def test_not_even_the_key_loads_what_lies_outside(control: TritonControl, name: str) -> None:
    """The publisher's own calls refuse such a name before they ask; this is what Triton makes of it."""
    assert status(control, "POST", f"/v2/repository/models/{name}/load", {KEY_HEADER: control.endpoint.key}) != 200
    triton = tritonclient.grpc.InferenceServerClient(control.endpoint.grpc_url)
    with pytest.raises(InferenceServerException):
        triton.load_model(name, headers={GRPC_KEY_HEADER: control.endpoint.key})
    triton.close()
    assert {row.model for row in control.index() if row.state} == {"lob"}


def status(control: TritonControl, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection(control.endpoint.host, control.endpoint.http_port, timeout=5)
    try:
        connection.request(method, path, json.dumps({}) if method == "POST" else None, headers or {})
        return connection.getresponse().status
    finally:
        connection.close()
