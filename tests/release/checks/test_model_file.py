import math
from typing import get_args

import onnx
import pytest
from msgspec import structs

from lobsmith.errors import ReleaseError
from lobsmith.params import ModelParams, NetworkName
from lobsmith.release.checks.model_file import check_model_file
from lobsmith.release.version.contract import FEATURE_COUNT, WireContract
from tests.release import toy


def test_accepts_a_model_that_keeps_the_contract(tmp_path):
    check_model_file(toy.write_model(tmp_path / "model.onnx"), toy.CONTRACT)


@pytest.mark.parametrize("network", get_args(NetworkName))
def test_accepts_the_exported_network(tmp_path, network):
    from lobsmith.compress.export import export_onnx
    from lobsmith.models.networks.registry import build, state_size

    shape = ModelParams(name="lob", network=network, channels=4, hidden=4, layers=1, ring=3, attention=2)
    horizons = (100, 1000)
    export_onnx(build(shape, FEATURE_COUNT, horizons), tmp_path / "model.onnx")
    contract = WireContract(
        feature_count=FEATURE_COUNT,
        state_size=state_size(shape, FEATURE_COUNT, horizons),
        horizons_ms=horizons,
        definitions_sha256="",
    )
    check_model_file(tmp_path / "model.onnx", contract)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": {"features": "ticks"}}, r"its inputs are \['state', 'ticks'\]"),
        ({"names": {"next_state": "state_out"}}, r"its outputs are \['outlook', 'probabilities', 'state_out'\]"),
        ({"names": {"outlook": "view"}}, r"its outputs are \['next_state', 'probabilities', 'view'\]"),
        ({"features": 4}, r"features has shape \[any, any, 4\], not \[any, any, 3\]"),
        ({"batch": 1}, r"features has shape \[1, any, 3\], not \[any, any, 3\]"),
        ({"external": True}, r"keeps \w+ in the side file weights.bin"),
    ],
)
def test_refuses_what_the_contract_does_not_say(tmp_path, changes, message):
    path = toy.write_model(tmp_path / "model.onnx", **changes)
    with pytest.raises(ReleaseError, match=message):
        check_model_file(path, toy.CONTRACT)


def test_refuses_a_model_whose_side_file_is_missing(tmp_path):
    path = toy.write_model(tmp_path / "model.onnx", external=True)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ReleaseError, match=r"side file weights.bin"):
        check_model_file(path, toy.CONTRACT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"horizons_ms": (100,)}, "probabilities has shape"), ({"state_size": 3}, "state has shape")],
)
def test_refuses_another_horizon_count_and_state(tmp_path, changes, message):
    path = toy.write_model(tmp_path / "model.onnx")
    with pytest.raises(ReleaseError, match=message):
        check_model_file(path, structs.replace(toy.CONTRACT, **changes))


def test_refuses_double_precision_inputs(tmp_path):
    path = toy.write_model(tmp_path / "model.onnx")
    model = onnx.load(path)
    cast = onnx.helper.make_node("Cast", ["state"], ["narrow"], to=onnx.TensorProto.FLOAT)
    for node in model.graph.node:
        node.input[:] = ["narrow" if tensor == "state" else tensor for tensor in node.input]
    model.graph.node.insert(0, cast)
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, path)
    with pytest.raises(ReleaseError, match="state is DOUBLE"):
        check_model_file(path, toy.CONTRACT)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.25, 0.5, 0.75, 0.9, 0.99])
def test_refuses_a_truncated_file(tmp_path, share):
    path = toy.write_model(tmp_path / "model.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: math.floor(len(content) * share)])
    with pytest.raises(ReleaseError, match=str(path)):
        check_model_file(path, toy.CONTRACT)


@pytest.mark.parametrize("content", [b"not a model", bytes(1000), b"\x08\x08"])
def test_refuses_what_is_no_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=str(path)):
        check_model_file(path, toy.CONTRACT)


def test_refuses_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "model.onnx", tmp_path):
        with pytest.raises(ReleaseError, match=str(path)):
            check_model_file(path, toy.CONTRACT)
