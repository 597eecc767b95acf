from types import SimpleNamespace

import pytest
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, ModelInstanceGroup

from lobsmith.errors import ReleaseError
from lobsmith.market.instrument import SIMULATED, Instrument
from lobsmith.release.version.triton_config import (
    config_text,
    configured_contract,
    listed_versions,
    prime_rows_for,
    read_config,
)
from lobsmith.trading.transport.triton import model_shape
from tests.release import plans, toy


def write(path, **changes):
    settings = {"versions": [3, 1], "prime_rows": 9, "max_batch": 64, "warmup": 5} | changes
    path.write_text(config_text("toy", toy.CONTRACT, **settings))
    return path


def test_states_the_wire_contract(tmp_path):
    config = read_config(write(tmp_path / "config.pbtxt"))
    assert (config.name, config.backend, config.default_model_filename) == ("toy", "onnxruntime", "model.onnx")
    assert {tensor.name: list(tensor.dims) for tensor in config.input} == {"features": [-1, 3], "state": [2]}
    outputs = {tensor.name: list(tensor.dims) for tensor in config.output}
    assert outputs == {"probabilities": [-1, 2, 3], "outlook": [-1, 2, 5], "next_state": [2]}
    assert {tensor.data_type for tensor in (*config.input, *config.output)} == {TYPE_FP32}
    assert config.HasField("dynamic_batching")
    assert config.parameters["prime_rows"].string_value == "9"
    assert listed_versions(config) == [1, 3]


def test_a_client_reads_the_instruments_and_old_configurations_have_none(tmp_path):
    other = Instrument(venue="binance-usdm", symbol="BTCUSDT", tick_size=0.1, lot_size=0.001)
    for instruments, names in (((SIMULATED, other), ("simulator:SIM", "binance-usdm:BTCUSDT")), ((), ())):
        config = read_config(write(tmp_path / "config.pbtxt", instruments=instruments))
        assert model_shape(MessageToDict(config, preserving_proto_field_name=True)).instruments == names


def test_contract_comes_back(tmp_path):
    assert configured_contract(write(tmp_path / "config.pbtxt")) == toy.CONTRACT


@pytest.mark.parametrize(("warmup", "samples"), [(0, []), (5, [5])])
def test_warm_up_is_left_out_where_none_is_asked_for(tmp_path, warmup, samples):
    config = read_config(write(tmp_path / "config.pbtxt", warmup=warmup))
    assert [sample.count for sample in config.model_warmup] == samples
    assert all(tensor.zero_data for sample in config.model_warmup for tensor in sample.inputs.values())


@pytest.mark.parametrize("content", [b"name: ", b"nonsense { }", b"\xff\xfe", b"backend: 7"])
def test_refuses_what_is_no_configuration(tmp_path, content):
    path = tmp_path / "config.pbtxt"
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=str(path)):
        read_config(path)


@pytest.mark.parametrize("content", ["", 'name: "theirs"', 'input { name: "features" dims: 4 }'])
def test_refuses_the_contract_of_a_foreign_model(tmp_path, content):
    path = tmp_path / "config.pbtxt"
    path.write_text(content)
    with pytest.raises(ReleaseError, match="not a configuration that lobsmith wrote"):
        configured_contract(path)


@pytest.mark.parametrize("policy", ["", "version_policy { latest { num_versions: 2 } }", "version_policy { all { } }"])
def test_only_a_specific_policy_lists_versions(tmp_path, policy):
    path = tmp_path / "config.pbtxt"
    path.write_text(policy)
    assert listed_versions(read_config(path)) == []


@pytest.mark.parametrize(("measured", "rows"), [([1], 1), ([3], 4), ([64, 5], 64), ([65], 128), ([1024], 1024)])
def test_priming_is_enough_for_every_version_and_seldom_changes(measured, rows):
    assert prime_rows_for(measured) == rows


def test_plans_differ_in_what_runs_them_only(tmp_path):
    engine = plans.build(tmp_path, SimpleNamespace(version=1, artifact_id="0" * 64), ("8.6", "8.9"))
    config = read_config(write(tmp_path / "config.pbtxt", engine=engine))
    assert (config.backend, config.default_model_filename) == ("tensorrt", "")
    assert dict(config.cc_model_filenames) == {"8.6": "model_sm86.plan", "8.9": "model_sm89.plan"}
    [group] = config.instance_group
    assert (group.kind, list(group.profile)) == (ModelInstanceGroup.KIND_GPU, ["0", "1"])
    # No batch may be larger than the narrowest profile takes.
    assert config.max_batch_size == 8
    onnx = read_config(write(tmp_path / "onnx.pbtxt"))
    for name in ("backend", "default_model_filename", "cc_model_filenames", "instance_group", "max_batch_size"):
        for message in (config, onnx):
            message.ClearField(name)
    assert config == onnx
