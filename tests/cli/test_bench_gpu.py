import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from msgspec import structs

from lobsmith.bench.gpu import TOLERANCES, bench_gpu, largest_difference
from lobsmith.bench.gpu_ceilings import Ceilings, Floor, floor
from lobsmith.bench.gpu_networks import cases, count_flops
from lobsmith.bench.gpu_report import Plan
from lobsmith.bench.gpu_ways import BUILDERS, Buffers
from lobsmith.cli.main import cli
from lobsmith.compress.export import export_onnx
from lobsmith.compress.runtime import OnnxModel
from lobsmith.features.definitions import COUNT
from lobsmith.params import as_table
from tests.small import small_params

PLAN = Plan(
    device="cpu",
    networks=("step", "window", "lstm_a"),
    precisions=("fp32", "bf16"),
    batches=(1, 3),
    calls=20,
    seconds=0.05,
    rounds=2,
    resident=False,
    compile=False,
)


@pytest.fixture(scope="module")
def report():
    return bench_gpu(small_params(), None, PLAN, note=lambda _: None)


@pytest.mark.slow
def test_every_way_has_a_row_or_a_reason(report) -> None:
    ways = Counter((row.network, row.way, row.precision) for row in report.rows)
    assert set(ways.values()) == {len(PLAN.batches)}
    assert {way for _, way, _ in ways} == {"eager", "graph", *BUILDERS, "onnx cpu", "onnx cuda"}
    for row in report.rows:
        assert (row.reason is None) == (row.way in {"eager", "onnx cpu"}), row
        assert (row.count > 0) == (row.reason is None)


@pytest.mark.slow
def test_times_are_ordered_and_counted(report) -> None:
    per_stream = {row.network: row.flops for row in report.rows if row.reason is None and row.batch == 1}
    for row in report.rows:
        if row.reason is None:
            assert 0 < row.p50_us <= row.p99_us
            assert row.count <= PLAN.calls
            assert row.p999_us is None, "there are too few calls for it"
            assert row.flops == per_stream[row.network] * row.batch
            assert row.floor_ratio == pytest.approx(row.p50_us / row.floor_us)


@pytest.mark.slow
def test_outputs_agree_with_eager_float32(report) -> None:
    for row in report.rows:
        if row.reason is None:
            assert row.difference <= TOLERANCES[row.precision]
            assert not row.wrong
    lower = [row.difference for row in report.rows if row.precision == "bf16" and row.reason is None]
    assert min(lower) > 0, "answers in bf16 that equal those in fp32 do not depend on the inputs"


def test_halves_hold_the_network_too() -> None:
    plan = structs.replace(PLAN, networks=("step",), precisions=("fp32", "fp16"), batches=(2,), calls=2, rounds=1)
    rows = bench_gpu(small_params(), None, plan, note=lambda _: None).rows
    assert [row.wrong for row in rows if row.way == "eager" and row.reason is None] == [False, False]


def test_a_nan_or_a_large_difference_is_found() -> None:
    reference = (torch.tensor([1.0, 2.0]).double(), torch.zeros(1).double())
    same = (torch.tensor([1.0, 2.0]), torch.zeros(1))
    assert largest_difference(same, reference, (True, True)) == 0
    assert largest_difference((torch.tensor([1.0, 3.0]), torch.zeros(1)), reference, (True, True)) == 0.5
    lost = (torch.tensor([1.0, float("nan")]), torch.zeros(1))
    assert math.isnan(largest_difference(lost, reference, (True, True)))
    assert math.isnan(largest_difference((*lost[:1], torch.ones(1)), reference, (True, True)))
    # A state that stays on the device is not there to be compared.
    assert largest_difference((same[0], torch.full((1,), float("nan"))), reference, (True, False)) == 0


def test_operations_of_lstm_a_are_those_of_its_formula() -> None:
    (lstm_a,) = cases(small_params(), None, ("lstm_a",))
    a_row = 8 * 100 * (50 + 100) + 8 * 100 * (100 + 100)
    assert count_flops(lstm_a) == 100 * a_row + 2 * 100


def test_operations_of_the_network_are_those_of_its_layers() -> None:
    params = small_params()
    (step,) = cases(params, None, ("step",))
    m, horizons = params.model, len(params.labels.horizons_ms)
    convolutions = 2 * (COUNT * m.channels + 2 * m.channels**2)
    lstm = sum(8 * m.hidden * (inputs + m.hidden) for inputs in (m.channels, *[m.hidden] * (m.layers - 1)))
    attention = 3 * 2 * m.hidden * m.attention + 2 * 2 * m.attention * (m.ring + 1)
    readouts = 2 * 8 * horizons * (m.hidden + m.attention + COUNT)
    assert count_flops(step) == convolutions + lstm + attention + readouts


def test_the_floor_is_the_highest_roof() -> None:
    ceilings = Ceilings(memory_gb_s=1000, matmul_tflop_s={"fp32": 10}, to_device_gb_s=20, to_host_gb_s=25, launch_us=5)
    nothing = {"moved": 0, "flops": 0, "to_device": 0, "to_host": 0}
    assert floor(ceilings, "fp32", **nothing) == Floor(us=5, bound="launch")
    assert floor(ceilings, "fp32", **{**nothing, "moved": 10**9}).us == pytest.approx(1000)
    assert floor(ceilings, "fp32", **{**nothing, "flops": 10**9}).us == pytest.approx(100)
    link = floor(ceilings, "fp32", moved=0, flops=0, to_device=10**6, to_host=10**6)
    assert link.bound == "link"
    assert link.us == pytest.approx(50 + 40)


def test_a_state_on_the_device_does_not_travel() -> None:
    (step,) = cases(small_params(), None, ("step",))
    travels, stays = (Buffers.of(step, 4, torch.device("cpu"), resident=resident) for resident in (False, True))
    state = 4 * 4 * step.network.state_size
    assert [a - b for a, b in zip(travels.traffic(), stays.traffic(), strict=True)] == [state, state]
    assert travels.moved() == stays.moved()


@pytest.mark.parametrize("name", ["step", "window", "lstm_a"])
def test_the_served_file_answers_what_a_case_asks(name: str, tmp_path: Path) -> None:
    (case,) = cases(small_params(), None, (name,))
    export_onnx(case.network, tmp_path / "model.onnx")
    served = OnnxModel(tmp_path / "model.onnx")
    features, *state = (tensor.numpy() for tensor in case.example(3))
    answers = served.run(features, state[0] if state else served.cold_state(3))
    with torch.no_grad():
        expected_outputs = case.make(torch.float32).eval()(*case.example(3))
    for answer, expected in zip(case.from_served(tuple(map(torch.from_numpy, answers))), expected_outputs, strict=True):
        assert expected.std() > 0
        torch.testing.assert_close(answer, expected, atol=1e-5, rtol=0)


def run(tmp_path: Path, *arguments: str) -> Result:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(as_table(small_params())))
    return CliRunner().invoke(cli, ["--root", str(tmp_path), "bench", "gpu", *arguments])


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert torch.__version__ in result.output
    assert "--device cpu" in result.output


@pytest.mark.parametrize("batches", ["", "0", "8192", "1,x"])
def test_batches_that_are_none_are_refused(tmp_path: Path, batches: str) -> None:
    assert run(tmp_path, "--device", "cpu", "--batches", batches).exit_code == 2


def test_what_there_is_none_of_is_named(tmp_path: Path) -> None:
    for option, name in (("--networks", "gru"), ("--precisions", "fp8"), ("--device", "tpu")):
        result = run(tmp_path, "--device", "cpu", option, name)
        assert result.exit_code in {1, 2}
        assert name in result.output


@pytest.mark.slow
def test_a_rehearsal_prints_and_keeps_one_object(tmp_path: Path) -> None:
    kept = tmp_path / "rehearsal.json"
    quick = ("--networks", "step,lstm_a", "--precisions", "fp32", "--batches", "2", "--calls", "4", "--rounds", "1")
    result = run(tmp_path, "--device", "cpu", "--no-compile", *quick, "--json", "--output", str(kept))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads(kept.read_text())
    assert set(report) == {"measured", "machine", "plan", "weights", "ceilings", "references", "rows"}
    assert report["machine"]["gpu"] is None
    assert report["machine"]["packages"]["torch"] == torch.__version__
    references = {reference["machine"]: reference["p99_us"] for reference in report["references"]}
    assert references == {"A100": 35.2, "GH200": 4.7}
    assert all(report["ceilings"][name] > 0 for name in ("memory_gb_s", "to_device_gb_s", "to_host_gb_s", "launch_us"))


def test_a_trained_network_can_be_measured(tmp_path: Path) -> None:
    result = run(tmp_path, "--device", "cpu", "--directory", str(tmp_path))
    assert result.exit_code == 1
    assert "run the train stage again" in result.output


@pytest.mark.slow
def test_a_wrong_answer_is_printed_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ("--networks", "lstm_a", "--precisions", "bf16", "--batches", "1", "--calls", "1", "--rounds", "1")
    monkeypatch.setitem(TOLERANCES, "bf16", 0.0)
    result = run(tmp_path, "--device", "cpu", "--no-compile", *quick)
    assert result.exit_code == 1
    assert "wrong" in result.output
    assert "35.2" in result.output
    assert "CUDA graphs need a CUDA GPU" in result.output
