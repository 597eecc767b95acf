import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.drift.discriminator import fit_discriminator, rank_auc
from lobsmith.drift.reference import Scaling
from lobsmith.params import DiscriminatorParams

PARAMS = DiscriminatorParams(seed=5, hidden=8, folds=4, rows=500, seconds=60.0)


def windows(features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Scaling]:
    generator = np.random.default_rng(seed)
    scaling = Scaling(np.zeros(features, np.float32), np.ones(features, np.float32))
    old, new = (generator.normal(size=(rows, features)).astype(np.float32) for rows in (800, 200))
    return old, new, scaling


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2).filter(lambda x: len({b for _, b in x}) == 2))
def test_auc_is_the_chance_of_a_higher_score(drawn: list[tuple[int, bool]]) -> None:
    scores, positive = (np.array(column) for column in zip(*drawn, strict=True))
    high, low = scores[positive][:, None], scores[~positive][None]
    assert rank_auc(scores, positive) == pytest.approx(((high > low) + 0.5 * (high == low)).mean())


def test_the_same_rows_give_the_same_bits_and_no_setting_is_left_behind() -> None:
    old, new, scaling = windows()
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    left, right = (fit_discriminator(old, new, scaling, PARAMS) for _ in range(2))
    assert left.log_odds.tobytes() == right.log_odds.tobytes()
    assert left.importance(3).tobytes() == right.importance(3).tobytes()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_tells_apart_what_differs_and_nothing_else() -> None:
    old, new, scaling = windows()
    same = fit_discriminator(old, new, scaling, PARAMS)
    new[:, 1] += 2
    other = fit_discriminator(old, new, scaling, PARAMS)
    assert abs(same.auc - 0.5) < 0.1
    assert other.auc > 0.85
    assert int(other.importance(0).argmax()) == int(other.distances.argmax()) == 1


def test_a_scale_that_doubles_is_seen_though_no_mean_moves() -> None:
    old, new, scaling = windows()
    new[:, 4] *= 3
    discriminator = fit_discriminator(old, new, scaling, PARAMS)
    assert discriminator.auc > 0.65
    assert int(discriminator.importance(0).argmax()) == 4


def test_rows_are_bounded_and_blocks_are_of_time() -> None:
    old, new, scaling = windows()
    discriminator = fit_discriminator(old, new, scaling, PARAMS)
    assert discriminator.recent.sum() == 200
    assert len(discriminator.rows) == 700
    for window in (discriminator.block[~discriminator.recent], discriminator.block[discriminator.recent]):
        assert (np.diff(window) >= 0).all()
        assert np.bincount(window).tolist() == [len(window) // 4] * 4


def test_without_time_it_uses_what_it_has_and_says_so() -> None:
    old, new, scaling = windows()
    discriminator = fit_discriminator(old, new, scaling, PARAMS, seconds=0.0)
    assert not discriminator.finished
    assert 0 <= discriminator.auc <= 1
