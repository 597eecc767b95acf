"""Calls with bound buffers, how long they take beside others, and how much memory a model takes."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lobsmith.compress.export import export_onnx
from lobsmith.compress.footprint import measure_footprint
from lobsmith.compress.graph.specialise import specialise
from lobsmith.compress.runtime import BoundModel, OnnxModel
from lobsmith.compress.timing import USES, compare_times
from lobsmith.errors import ReleaseError
from tests.compress.graph.test_specialise import rows
from tests.compress.test_export import make_network


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
    opened = partial(BoundModel, general, *USES[use])
    timing = compare_times(opened, opened, use, rows(100), 210)
    assert (timing.use, timing.runtime, timing.calls) == (use, "onnxruntime", 240)
    assert 0 < timing.p50_us <= timing.p99_us
    assert 0 < timing.reference_p50_us <= timing.reference_p99_us
    assert 0 < timing.low < timing.speedup < timing.high


class Watched:
    """A model that remembers what it was fed, and how its state was when it was."""

    runtime = "watched"

    def __init__(self, log: list[tuple[np.ndarray, float]], steps: int = 1) -> None:
        self.features = np.zeros((1, steps, 2), np.float32)
        self.probabilities, self.outlook = (
            np.zeros((1, steps, 1, 3), np.float32),
            np.zeros((1, steps, 1, 5), np.float32),
        )
        self.state, self.log = np.zeros((1, 1), np.float32), log

    def step(self) -> None:
        self.log.append((self.features.copy(), float(self.state[0, 0])))
        self.state += 1


def test_each_side_walks_through_the_rows_with_its_own_state() -> None:
    features = np.arange(74, dtype=np.float32).reshape(37, 2)
    fed: tuple[list, list] = ([], [])
    timing = compare_times(partial(Watched, fed[0]), partial(Watched, fed[1], 5), "step", features, 120, forgets=True)
    assert timing.runtime == "watched"
    for log, steps in zip(fed, (1, 5), strict=True):
        # Six openings of 50 calls that warm and 20 that count.
        assert len(log) == 6 * 70
        for number, (rows_fed, _) in enumerate(log):
            start = number % 70 % (37 // steps) * steps
            np.testing.assert_array_equal(rows_fed[0], features[start : start + steps])
    assert [state for _, state in fed[0]] == [float(number % 70) for number in range(420)]
    # It begins each call anew.
    assert {state for _, state in fed[1]} == {0.0}


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
