"""The table of candidates and the choice among them."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from msgspec import structs

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.compress.golden import load_golden
from lobsmith.compress.runtime import BoundModel, OnnxModel
from lobsmith.compress.timing import USES, Timing
from lobsmith.errors import TrainingError
from lobsmith.evaluation.fidelity import Fidelity
from lobsmith.evaluation.results import Interval
from lobsmith.features.dataset import DATASET, load_dataset, save_dataset
from lobsmith.gates.compression import Compressed, Row, choose, compression
from lobsmith.models.split import split
from lobsmith.models.train import Trained, load_network, save_network
from lobsmith.params import CompressParams, Params
from lobsmith.stages.compress import SUMMARY, compress, load_summary
from lobsmith.stages.train import train_stage
from tests.small import small_params

ALL = ["fp32", "int8_dynamic", "int8_static", "fp16", "bf16"]


def lost(loss: float, agreement: float = 0.999, half: float = 0.001) -> Fidelity:
    return Fidelity(
        rows=1000,
        delta_log_loss=Interval(loss, loss - half, loss + half),
        delta_mcc=Interval(0.0, 0.0, 0.0),
        agreement=Interval(agreement, agreement - 0.001, min(1.0, agreement + 0.001)),
    )


def timing_of(speedup: float, use: str = "step", half: float = 0.01) -> Timing:
    return Timing(
        use=use,
        runtime="onnxruntime",
        calls=100,
        p50_us=30 / speedup,
        p99_us=60.0,
        reference_p50_us=30.0,
        reference_p99_us=60.0,
        speedup=speedup,
        low=speedup - half,
        high=speedup + half,
    )


def row_of(name: str, speedup: float, validation: float = 0.001, test: float | None = None, **changes: object) -> Row:
    row = Row(
        name=name,
        precision="fp32",
        pruned=0.0,
        speedup=speedup,
        validation=lost(validation),
        test=lost(validation if test is None else test),
        timings=tuple(timing_of(speedup if use == "step" else 1.5, use) for use in USES),
    )
    return structs.replace(row, **changes)


SETTINGS = small_params().compress
FULL = row_of("fp32", 1.0, 0.0)


def chosen_of(rows: list[Row], settings: CompressParams = SETTINGS) -> str:
    [name] = [row.name for row in choose(rows, settings) if row.chosen]
    return name


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([], "fp32"),
        ([row_of("a", 1.5), row_of("b", 2.0), row_of("c", 1.2)], "b"),
        # Slower, and faster by no more than chance explains.
        ([row_of("a", 0.6), row_of("b", 1.005)], "fp32"),
        # Outside the budget at the interval's upper end, though not at its value.
        ([row_of("a", 3.0, 0.0045), row_of("b", 1.5)], "b"),
        ([row_of("a", 3.0), row_of("b", 3.5, refused="not finite")], "a"),
        # What the test rows veto gives way to the network itself, not to the next best.
        ([row_of("a", 3.0, validation=0.001, test=0.02), row_of("b", 2.0)], "fp32"),
    ],
)
def test_the_fastest_that_loses_little_enough_is_chosen(others: list[Row], chosen: str) -> None:
    assert chosen_of([FULL, *others]) == chosen


def test_too_few_directions_in_common_are_outside_the_budget() -> None:
    other = structs.replace(row_of("a", 2.0), validation=lost(0.0, agreement=0.985))
    assert chosen_of([FULL, other]) == "fp32"


def test_the_use_decides_which_times_count() -> None:
    rows = [FULL, row_of("a", 0.6)]
    assert chosen_of(rows) == "fp32"
    assert chosen_of(rows, structs.replace(SETTINGS, use="batch")) == "a"


def test_a_name_is_taken_whatever_its_speed() -> None:
    rows = [FULL, row_of("a", 0.6), row_of("b", 3.0, refused="not finite")]
    assert chosen_of(rows, structs.replace(SETTINGS, candidate="a")) == "a"
    for name, why in (("b", "is refused .not finite."), ("nobody", "is none of the candidates")):
        with pytest.raises(TrainingError, match=f"{name} {why}; choose one of fp32, a"):
            choose(rows, structs.replace(SETTINGS, candidate=name))


def test_each_row_says_what_became_of_it() -> None:
    rows = [
        FULL,
        row_of("slow", 0.9),
        row_of("costly", 3.0, 0.02),
        row_of("broken", 3.0, refused="not finite"),
        row_of("second", 1.5),
        row_of("best", 2.0),
    ]
    outcomes = [row.outcome for row in choose(rows, SETTINGS)]
    assert outcomes == ["", "no faster", "loses too much", "refused", "", "served"]
    vetoed = choose([FULL, row_of("a", 3.0, test=0.02)], SETTINGS)
    assert [row.outcome for row in vetoed] == ["served", "vetoed"]


def test_a_network_that_is_refused_itself_is_not_served() -> None:
    with pytest.raises(TrainingError, match="not finite; train it again"):
        choose([structs.replace(FULL, refused="not finite"), row_of("a", 3.0)], SETTINGS)


def summary_of(chosen: Row) -> Compressed:
    return Compressed(
        weights_sha256="0" * 64,
        name=chosen.name,
        precision="fp32",
        network="candidates/full",
        use="step",
        bytes=1,
        prime_rows=1,
        prime_tolerance=1e-3,
        candidates=(structs.replace(chosen, chosen=True),),
    )


@pytest.mark.parametrize(
    ("test", "passed"), [(lost(0.001), True), (lost(0.0045), False), (lost(0.0, agreement=0.98), False), (None, False)]
)
def test_the_gate_asks_the_test_rows(test: Fidelity | None, passed: bool) -> None:
    verdict = compression(summary_of(structs.replace(FULL, test=test)), SETTINGS)
    assert verdict.passed is passed
    assert verdict.evidence["candidate"] == "fp32"


@pytest.fixture(scope="module")
def params() -> Params:
    return small_params(**{"compress.precisions": ALL, "compress.pruning": [0.5], "compress.fine_tune_epochs": 1})


@pytest.fixture(scope="module")
def trained(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(small_run, tmp_path_factory.mktemp("run"), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def compressed(params: Params, trained: Path) -> Compressed:
    return compress(params, trained)


@pytest.mark.slow
def test_every_candidate_has_its_row(compressed: Compressed, trained: Path) -> None:
    names = [*ALL, "pruned_50", *(f"pruned_50_{precision}" for precision in ALL[1:])]
    assert [candidate.name for candidate in compressed.candidates] == names
    assert load_summary(trained) == compressed
    for candidate in compressed.candidates:
        if candidate.precision == "bf16" and candidate.refused:
            # Where ONNX Runtime has no kernels for it.
            assert "bf16" in candidate.refused
            assert candidate.p50_us is None
            continue
        assert candidate.refused == ""
        assert [timing.use for timing in candidate.timings] == list(USES)
        assert candidate.timings[0].p50_us == candidate.p50_us
        assert candidate.bytes
        assert candidate.memory_bytes
        assert candidate.test.rows > 100
        assert candidate.delta_log_loss == candidate.test.delta_log_loss.value
    first = compressed.candidates[0]
    assert (first.delta_log_loss, first.agreement) == (0, 1)
    assert 0 < compressed.candidates[2].parity < 0.3
    assert compressed.candidates[2].bytes < first.bytes


@pytest.mark.slow
def test_exactly_one_is_chosen_and_its_files_are_those_that_are_served(compressed: Compressed, trained: Path) -> None:
    assert [candidate.name for candidate in compressed.candidates if candidate.chosen] == [compressed.name]
    place = trained / compressed.network / compressed.precision
    for name in (MODEL, STEP):
        assert (place / name).read_bytes() == (trained / name).read_bytes()
    golden = load_golden(trained / GOLDEN)
    answer = OnnxModel(trained / MODEL).run(golden.features, golden.state)
    np.testing.assert_array_equal(answer.probabilities, golden.probabilities)
    step = BoundModel(trained / STEP)
    step.features[0, 0] = golden.features[0, 0]
    step.step()
    np.testing.assert_allclose(step.probabilities[0, 0], golden.probabilities[0, 0], atol=1e-5)


@pytest.mark.slow
def test_a_pruned_candidate_keeps_the_wires_state(compressed: Compressed, trained: Path) -> None:
    network = load_network(trained / "candidates" / "pruned_50").network
    model = OnnxModel(trained / "candidates" / "pruned_50" / "fp32" / MODEL)
    assert network.state_size < model.state_size == load_network(trained).network.state_size


def copy_of(trained: Path, params: Params, target: Path) -> Trained:
    target.mkdir(exist_ok=True)
    save_dataset(load_dataset(trained / DATASET), target / DATASET)
    return load_network(trained)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["nan", "infinite", "constant"])
def test_a_network_whose_answers_are_none_is_refused(fault: str, trained: Path, params: Params, tmp_path: Path) -> None:
    """F30."""
    copied = copy_of(trained, params, tmp_path)
    with torch.no_grad():
        for layer in (copied.network.readout, copied.network.linear):
            if fault == "constant":
                layer.weight.zero_()
            else:
                layer.bias.fill_(float("nan") if fault == "nan" else float("inf"))
    save_network(copied, params.model, params.labels.horizons_ms, tmp_path)
    with pytest.raises(TrainingError, match="cannot be served.*(not finite|never change)"):
        compress(small_params(), tmp_path)
    assert not (tmp_path / MODEL).exists()
    assert not (tmp_path / SUMMARY).exists()


@pytest.mark.slow
def test_networks_without_units_to_prune_say_so(trained: Path, tmp_path: Path) -> None:
    params = small_params(**{"model.network": "logistic", "compress.pruning": [0.5]})
    save_dataset(load_dataset(trained / DATASET), tmp_path / DATASET)
    train_stage(params, [tmp_path / DATASET], tmp_path)
    summary = compress(params, tmp_path)
    assert [candidate.name for candidate in summary.candidates] == ["fp32", "pruned_50"]
    assert "prun" in summary.candidates[1].refused
    assert summary.name == "fp32"


@pytest.mark.slow
def test_a_named_candidate_is_served(trained: Path, params: Params, tmp_path: Path) -> None:
    copied = copy_of(trained, params, tmp_path)
    save_network(copied, params.model, params.labels.horizons_ms, tmp_path)
    named = small_params(**{"compress.precisions": ["fp32", "int8_static"], "compress.candidate": "int8_static"})
    summary = compress(named, tmp_path)
    assert (summary.name, summary.precision) == ("int8_static", "int8_static")
    rows = split(load_dataset(tmp_path / DATASET), named.split).test
    assert summary.chosen.test.rows == len(rows)


def test_a_summary_of_another_release_is_named(tmp_path: Path) -> None:
    for content in (None, b"{}", msgspec.json.encode([1])):
        if content is not None:
            (tmp_path / SUMMARY).write_bytes(content)
        with pytest.raises(TrainingError, match="run the compress stage again"):
            load_summary(tmp_path)
