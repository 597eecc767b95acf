"""The snippets of the README and of `docs/commands.md`, run as they stand against the real Triton."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lobsmith.compress.export import export_onnx
from lobsmith.compress.golden import golden_vectors
from lobsmith.compress.runtime import OnnxModel
from lobsmith.gates.parity import parity
from lobsmith.market.instrument import Instrument
from lobsmith.models.networks.registry import build
from lobsmith.params import load_params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact, publish
from lobsmith.release.version.contract import wire_contract
from lobsmith.serving.endpoint import Endpoint
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.workspace import Workspace
from tests.small import params_file

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TEXT = "\n".join((ROOT / name).read_text() for name in ("README.md", "docs/commands.md"))


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server of the model `lob` with the shape that params.yaml gives it."""
    import torch

    root = tmp_path_factory.mktemp("readme")
    shutil.copy(params_file(), root / "params.yaml")
    workspace = Workspace(root)
    params = with_free_ports(load_params(workspace.params, {"model.name": "lob"}))
    torch.manual_seed(1)
    contract = wire_contract(params)
    network = build(params.model, contract.feature_count, contract.horizons_ms)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    export_onnx(network, root / "model.onnx")
    model = OnnxModel(root / "model.onnx")
    rows = np.random.default_rng(0).normal(size=(200, contract.feature_count)).astype(np.float32)
    artifact = Artifact(
        model_path=root / "model.onnx",
        golden=golden_vectors(model, rows),
        prime_rows=64,
        instruments=(Instrument(venue="simulator", symbol="SIM", tick_size=0.1, lot_size=0.001),),
        data_fingerprint="0" * 64,
        verdicts=(parity(network, model, rows, params.gates.parity.fp32),),
        metrics={},
    )
    publish(Release(workspace, params), artifact, model="lob", contract=contract)
    with running_triton(workspace, params) as control:
        yield control.endpoint


def snippet(language: str, containing: str, endpoint: Endpoint) -> str:
    (code,) = [code for code in re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL) if containing in code]
    return code.replace("127.0.0.1:8000", endpoint.http_url).replace("127.0.0.1:8001", endpoint.grpc_url)


def test_the_python_snippet_gets_a_prediction_over_both_protocols(endpoint: Endpoint) -> None:
    code = snippet("python", "tritonclient", endpoint)
    assert "lobsmith" not in code
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=True)
    tables = [
        np.array([[float(number) for number in line.strip("[] ").split()] for line in table.splitlines()])
        for table in re.findall(r"\[\[.*?\]\]", result.stdout, re.DOTALL)
    ]
    assert [table.shape for table in tables] == [(4, 3), (4, 5)] * 2
    for probabilities, outlook in (tables[:2], tables[2:]):
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        assert np.isfinite(outlook).all()
        assert ((outlook[:, :3] >= 0) & (outlook[:, :3] <= 1)).all()
        assert (outlook[:, 4] >= 0).all()
    np.testing.assert_allclose(tables[0], tables[2], atol=1e-6)
    np.testing.assert_allclose(tables[1], tables[3], atol=1e-6)
    assert result.stdout.count("(1, 2113)") == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_snippet_gets_a_prediction(endpoint: Endpoint) -> None:
    code = snippet("sh", "curl", endpoint)
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=250, check=True)
    outputs = json.loads(result.stdout)["outputs"]
    assert {output["name"]: output["shape"] for output in outputs} == {
        "probabilities": [1, 1, 4, 3],
        "outlook": [1, 1, 4, 5],
    }
    data = {output["name"]: output["data"] for output in outputs}
    assert sum(data["probabilities"]) == pytest.approx(4, abs=1e-5)
    assert len(data["outlook"]) == 20
    assert np.isfinite(data["outlook"]).all()
