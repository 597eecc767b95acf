"""Calls with bound buffers, how long they take beside others, and how much memory a model takes."""

from pathlib import Path

import numpy as np
import pytest

from lobsmith.compress.export import export_onnx
from lobsmith.compress.footprint import measure_footprint
from lobsmith.compress.runtime import BoundModel, OnnxModel
from lobsmith.compress.specialise import specialise
from lobsmith.compress.timing import USES, compare_times
from lobsmith.errors import ReleaseError
from tests.compress.test_export import make_network
from tests.compress.test_specialise import rows


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "general.onnx"
    export_onnx(make_network(), path)
    return path


@pytest.fixture(scope="module")
def single(general: Path) -> Path:
    path = general.with_name("single.onnx")
    specialise(general, path)
    return path


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 8), (3, 1), (2, 5)])
def test_bound_calls_answer_as_free_ones_and_carry_the_state(general: Path, batch: int, steps: int) -> None:
    free, bound = OnnxModel(general), BoundModel(general, batch, steps)
    state = free.cold_state(batch)
    features = rows(batch * steps * 6).reshape(6, batch, steps, -1)
    for part in features:
        answer = free.run(part, state)
        state = answer.next_state
        bound.features[:] = part
        bound.step()
        np.testing.assert_array_equal(bound.probabilities, answer.probabilities)
        np.testing.assert_array_equal(bound.outlook, answer.outlook)
        np.testing.assert_array_equal(bound.state, state)


def test_zeros_written_into_the_state_begin_a_new_stream(single: Path) -> None:
    model, answers = BoundModel(single), []
    for count in (3, 4):
        model.state[:] = 0
        for row in rows(count):
            model.features[0, 0] = row
            model.step()
        answers.append(model.probabilities.copy())
    first, second = answers
    assert (first != second).any()
    model.state[:] = 0
    for row in rows(3):
        model.features[0, 0] = row
        model.step()
    np.testing.assert_array_equal(model.probabilities, first)


@pytest.mark.parametrize("use", USES)
def test_times_of_both_sides_are_measured_in_one_run(general: Path, use: str) -> None:
    model, reference = (BoundModel(general, *USES[use]) for _ in range(2))
    timing = compare_times(model, reference, use, rows(100), 210)
    assert (timing.use, timing.calls) == (use, 200)
    assert 0 < timing.p50_us <= timing.p99_us
    assert 0 < timing.reference_p50_us <= timing.reference_p99_us
    assert timing.speedup == pytest.approx(timing.reference_p50_us / timing.p50_us)
    assert 0 < timing.low <= timing.high


def test_each_side_walks_through_the_rows_with_its_own_state(single: Path) -> None:
    model, reference = BoundModel(single), BoundModel(single)
    features = rows(37)
    compare_times(model, reference, "step", features, 100)
    expected = BoundModel(single)
    # 50 calls that warm, then 100.
    for number in range(150):
        expected.features[0, 0] = features[number % 37]
        expected.step()
    for one in (model, reference):
        np.testing.assert_array_equal(one.state, expected.state)


def test_a_reference_may_forget(general: Path, single: Path) -> None:
    window = BoundModel(general, 1, 10)
    features = rows(40)
    compare_times(BoundModel(single), window, "step", features, 60, forgets=True)
    alone = BoundModel(general, 1, 10)
    # 110 calls: the last one had the tenth to 19th row, from a cold start.
    alone.features[0] = features[10:20]
    alone.step()
    np.testing.assert_array_equal(window.state, alone.state)


def test_memory_is_that_of_a_process_of_its_own(single: Path) -> None:
    assert 1_000_000 < measure_footprint(single, 1, 1) < 100_000_000


@pytest.mark.parametrize("content", [b"", b"not onnx", None])
def test_a_file_that_cannot_be_run_has_no_footprint(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReleaseError, match="bad.onnx") as caught:
        measure_footprint(path, 1, 1)
    assert "\n" not in str(caught.value)
