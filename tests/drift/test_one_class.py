from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from lobsmith.drift import SCORE
from lobsmith.drift.fit_one_class import fit_score, overlapping_blocks
from lobsmith.drift.one_class import DriftScoreModel, alarm_level, export_score
from lobsmith.errors import DataError
from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.files import sha256_file
from tests.another_process import run_in_another_process
from tests.drift.drifting import noise, reference, reference_of
from tests.small import small_params

PARAMS = small_params(**{"reference.block_rows": 64}).reference
Scorer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def score() -> DriftScoreModel:
    return fit_score(reference(), PARAMS)[0]


@pytest.fixture(scope="module")
def path(score: DriftScoreModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("score") / SCORE
    export_score(score, path)
    return path


@pytest.fixture(scope="module")
def exported(path: Path) -> Scorer:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda rows: tuple(session.run(["score", "contributions"], {"rows": rows}))


def blocks(seed: int = 4, rows: int = 64) -> np.ndarray:
    """Blocks of another session: [B, T, F]."""
    return torch.cat(overlapping_blocks(reference(seed).rows["simulator:SIM"].raw, rows)).numpy().copy()


def alarms(score: DriftScoreModel, rows: torch.Tensor) -> float:
    """Share of the blocks that are one."""
    return float((score(rows)[0] > 1).float().mean())


def test_another_session_of_the_same_market_is_no_alarm_and_a_changed_one_is(score: DriftScoreModel) -> None:
    same = torch.from_numpy(blocks())
    assert alarms(score, same) < 0.01
    for factor in (4, 1 / 4):
        sizes = [number for number, name in enumerate(NAMES) if "_size_" in name]
        changed = same.clone()
        changed[:, :, sizes] += np.log(factor)
        assert alarms(score, changed) > 0.9


@pytest.mark.parametrize("name", ["spread", "ask_size_3", "imbalance_5", "elapsed", "trade_rate_2"])
def test_one_feature_that_goes_wild_is_an_alarm_and_is_named(score: DriftScoreModel, name: str) -> None:
    """It would be lost among 150 figures, were there only the distance of them all."""
    wild = torch.from_numpy(blocks())
    column = NAMES.index(name)
    wild[:, :, column] += 20 * float(score.scale[column])
    scores, contributions = score(wild)
    assert float(scores.min()) > 1
    assert (contributions.argmax(dim=1) == column).all()
    assert torch.equal(contributions.amax(dim=1, keepdim=True), scores)


def test_a_feature_that_stands_still_is_an_alarm() -> None:
    score, _ = fit_score(reference_of(noise(6000, memory=0.5)), PARAMS)
    same = torch.from_numpy(noise(3000, seed=1, memory=0.5).raw).reshape(-1, 60, COUNT).clone()
    assert alarms(score, same) == 0
    same[:, :, 7] = 0.0
    assert alarms(score, same) > 0.9


def test_a_block_like_either_instrument_is_no_alarm() -> None:
    first, second = noise(3000), noise(3000, seed=1)
    second = replace(second, raw=second.raw + 4)
    score, fitted = fit_score(reference_of(first, second), PARAMS)
    assert list(fitted) == ["venue:0", "venue:1"]
    shifts = torch.tensor([0.0, 4.0, 2.0])
    block = torch.from_numpy(noise(64, seed=2).raw) + shifts.reshape(3, 1, 1)
    assert (score(block)[0] > 1).flatten().tolist() == [False, False, True]


def test_a_move_of_the_price_is_no_drift(score: DriftScoreModel) -> None:
    """Prices wander by percents; every distance in basis points goes with them."""
    moved = torch.from_numpy(blocks())
    distances = [number for number, name in enumerate(NAMES) if "distance" in name or name == "spread"]
    moved[:, :, distances] *= 1.03
    assert alarms(score, moved) < 0.01
    moved[:, :, distances] *= 1.5
    assert alarms(score, moved) == 1


@pytest.mark.parametrize("rows", [16, 17, 40, 64, 100, 256, 300])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_exported_graph_answers_like_the_network(
    score: DriftScoreModel, exported: Scorer, rows: int, batch: int
) -> None:
    block = blocks(rows=rows)[:batch]
    outputs = exported(block)
    for ours, theirs in zip(score(torch.from_numpy(block)), outputs, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-4)
    assert outputs[0].shape == (batch, 1)
    assert outputs[1].shape == (batch, COUNT)


@pytest.mark.parametrize("rows", [16, 32, 50, 128, 256])
def test_blocks_of_other_lengths_have_levels_of_their_own(exported: Scorer, rows: int) -> None:
    """The mean of sixteen rows is further from the expectation than that of 256."""
    scores, _ = exported(blocks(rows=rows))
    assert 0.2 < np.median(scores) < 0.6
    assert np.mean(scores > 1) < 0.02


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 2), st.integers(0, 63), st.integers(0, COUNT - 1))
def test_one_value_that_is_not_finite_is_an_alarm(
    exported: Scorer, value: float, block: int, row: int, column: int
) -> None:
    rows = blocks()[:3]
    before = exported(rows)
    rows[block, row, column] = value
    scores, contributions = exported(rows)
    assert np.isinf(scores[:, 0]).tolist() == [number == block for number in range(3)]
    assert np.argwhere(np.isinf(contributions)).tolist() == [[block, column]]
    others = [number for number in range(3) if number != block]
    np.testing.assert_array_equal(scores[others], before[0][others])


def test_values_as_large_as_they_can_be_are_an_alarm(exported: Scorer) -> None:
    scores, contributions = exported(np.full((1, 64, COUNT), np.finfo(np.float32).max, np.float32))
    assert np.isfinite(contributions).all()
    assert 1 < scores[0, 0] < np.inf


def test_one_file_for_any_number_of_blocks_and_rows(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"rows": ["batch", "time", COUNT], "score": ["batch", 1], "contributions": ["batch", COUNT]}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [file.name for file in path.parent.iterdir()] == [SCORE]


def test_another_process_exports_the_same_bytes(tmp_path: Path) -> None:
    export_score(fit_score(reference_of(noise(1000)), PARAMS)[0], tmp_path / SCORE)
    code = (
        "import sys; from pathlib import Path; from tests.drift.test_one_class import *;"
        "export_score(fit_score(reference_of(noise(1000)), PARAMS)[0], Path(sys.argv[1]))"
    )
    target = tmp_path / "again.onnx"
    run_in_another_process(code, target)
    assert sha256_file(target) == sha256_file(tmp_path / SCORE)


@pytest.mark.parametrize(("rows", "length"), [(20_000, 64), (1000, 32), (400, 16), (150, 16)])
def test_a_short_window_is_cut_into_shorter_blocks(rows: int, length: int) -> None:
    score, fitted = fit_score(reference_of(noise(rows, memory=0.0)), PARAMS)
    fit = fitted["venue:0"]
    assert (fit.rows, fit.block_rows) == (rows, length)
    assert fit.blocks == round(rows * 0.7) // length
    assert 0 < fit.largest < 1
    assert np.isfinite(fit.levels).all()
    assert torch.isfinite(score(torch.zeros(1, length, COUNT))[0]).all()


def test_a_window_too_short_for_any_block_is_one_clear_error() -> None:
    with pytest.raises(DataError, match=r"venue:0: 60 rows.*give more data"):
        fit_score(reference_of(noise(60)), PARAMS)


@pytest.mark.parametrize("constant", [1, COUNT])
def test_columns_that_never_change_give_no_nan(constant: int) -> None:
    rows = noise(2000)
    rows.raw[:, :constant] = 7.0
    score, _ = fit_score(reference_of(rows), PARAMS)
    same = torch.from_numpy(rows.raw[:64])[None].clone()
    assert float(score(same)[0]) < 1
    same[:, :, 0] = 11.0
    scores, contributions = score(same)
    assert torch.isfinite(contributions).all()
    assert float(scores) > 1
    assert int(contributions.argmax()) == 0


def test_a_smaller_budget_has_a_higher_level() -> None:
    levels = [
        fit_score(reference(), structs.replace(PARAMS, false_alarms_a_day=budget))[1]["simulator:SIM"].levels[0]
        for budget in (10.0, 1.0, 0.1)
    ]
    assert levels == sorted(levels)
    assert levels[0] < levels[2]


@pytest.mark.parametrize("seed", range(3))
def test_the_level_beyond_the_sample_is_that_of_the_tail(seed: int) -> None:
    """Of a Pareto distribution of index 0.2 the quantile is known: p ** -0.2."""
    maxima = np.random.default_rng(seed).uniform(size=500) ** -0.2
    assert alarm_level(maxima, 1e-4) == pytest.approx(1e-4**-0.2, rel=0.35)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(1e-9, 1.0))
def test_a_level_is_finite_and_above_all_that_was_held_out(maxima: list[float], probability: float) -> None:
    level = alarm_level(np.array(maxima), probability)
    assert max(*maxima, 0.1) <= level < np.inf
