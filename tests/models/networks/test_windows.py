from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lobsmith.features.definitions import COUNT, LEVELS, NAMES
from lobsmith.models.networks.bin_ctabl import BilinearNormalisation, BinCtabl, TemporalAttention
from lobsmith.models.networks.deeplob import DeepLob
from lobsmith.models.networks.window import BOOK, COLUMNS, ROW, BookWindows
from tests.models.networks.trunks import assert_answers_the_same, exported, step

Trunk = DeepLob | BinCtabl
_GENERATOR = torch.Generator().manual_seed(3)
LOCATION = torch.randn(COUNT, generator=_GENERATOR)
SCALE = torch.rand(COUNT, generator=_GENERATOR) + 0.5


def deeplob(**arguments: Any) -> DeepLob:
    torch.manual_seed(1)
    return DeepLob(LOCATION, SCALE, **arguments).eval()


def bin_ctabl(**arguments: Any) -> BinCtabl:
    torch.manual_seed(1)
    trunk = BinCtabl(LOCATION, SCALE, **arguments).eval()
    for parameter in trunk.parameters():  # biases start at zero, attention at its mean
        torch.nn.init.normal_(parameter, std=0.3)
    return trunk


both = pytest.mark.parametrize("build", [deeplob, bin_ctabl])


@both
def test_widths_and_states_are_as_declared(build: Callable[..., Trunk]) -> None:
    trunk = build()
    answer, state = trunk(torch.randn(2, 3, COUNT), trunk.cold_state(2))
    assert answer.shape == (2, 3, trunk.width)
    assert state.shape == (2, trunk.state_size)
    assert trunk.state_size == (trunk.windows.window - 1) * 41 + 1
    assert (answer.dtype, state.dtype) == (torch.float32, torch.float32)
    assert not trunk.cold_state(2).any()


@both
def test_three_hundred_rows_at_once_equal_three_hundred_steps(build: Callable[..., Trunk]) -> None:
    trunk, rows = build(), torch.randn(1, 300, COUNT)
    at_once, at_once_state = step(trunk, rows, [300])
    stepped, stepped_state = step(trunk, rows, [1] * 300)
    assert (at_once - stepped).abs().max() <= 1e-5
    assert torch.equal(at_once_state, stepped_state)


@both
@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, 119), max_size=8), seed=st.integers(0, 2**31))
def test_any_split_gives_the_same_answer(build: Callable[..., Trunk], cuts: set[int], seed: int) -> None:
    trunk = build()
    rows = torch.randn(1, 120, COUNT, generator=torch.Generator().manual_seed(seed))
    sizes = np.diff([0, *sorted(cuts), 120]).tolist()
    at_once, at_once_state = step(trunk, rows, [120])
    split, split_state = step(trunk, rows, sizes)
    assert (at_once - split).abs().max() <= 1e-5
    assert torch.equal(at_once_state, split_state)


@both
def test_the_past_does_not_change_with_the_future(build: Callable[..., Trunk]) -> None:
    trunk, rows = build(), torch.randn(2, 130, COUNT)
    before, _ = step(trunk, rows, [130])
    for changed in (0, 1, 64, 129):
        other = rows.clone()
        other[:, changed] += 3
        after, _ = step(trunk, other, [130])
        assert torch.equal(before[:, :changed], after[:, :changed])
        assert not torch.equal(before[:, changed], after[:, changed])
        beyond = changed + trunk.windows.window
        assert torch.equal(before[:, beyond:], after[:, beyond:])


@both
def test_streams_of_a_batch_do_not_touch_each_other(build: Callable[..., Trunk]) -> None:
    trunk, rows = build(), torch.randn(3, 20, COUNT)
    together, together_state = step(trunk, rows, [8, 12])
    alone, alone_state = step(trunk, rows[1:2], [8, 12])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)
    assert torch.equal(together_state[1:2], alone_state)


@both
def test_every_parameter_learns(build: Callable[..., Trunk]) -> None:
    trunk = build()
    answer, _ = trunk(torch.randn(2, 5, COUNT), trunk.cold_state(2))
    answer.square().mean().backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@both
def test_saved_weights_carry_the_scaling(build: Callable[..., Trunk]) -> None:
    trunk, rows = build(price_scale=2.0), torch.randn(1, 12, COUNT)
    other = type(trunk)(torch.zeros(COUNT), torch.ones(COUNT)).eval()
    other.load_state_dict(trunk.state_dict())
    assert torch.equal(step(trunk, rows, [12])[0], step(other, rows, [12])[0])


@both
def test_a_market_at_rest_has_finite_answers_and_gradients(build: Callable[..., Trunk]) -> None:
    trunk = build()
    answer, _ = trunk(torch.zeros(1, 30, COUNT), trunk.cold_state(1))
    answer.sum().backward()
    assert answer.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in trunk.parameters() if parameter.grad is not None)


@both
def test_exported_it_answers_the_same_for_other_batches_and_times(build: Callable[..., Trunk], tmp_path: Path) -> None:
    trunk = build()
    shapes = ((1, 1), (3, 7), (1, 120), (5, 2))

    def rows(batch: int, steps: int, _seed: int) -> Tensor:
        return torch.randn(batch, steps, COUNT)

    # The ring fills: cold, partly and fully valid.
    assert_answers_the_same(exported(trunk, tmp_path / "trunk.onnx"), trunk, shapes, rows, rtol=0, atol=1e-4)


def test_deeplob_has_the_published_number_of_parameters() -> None:
    head = 64 * 3 + 3
    assert _parameters(deeplob()) + head == 60_947
    # The authors' code prints 143,907, of which 2 · (9 · 32 + 5 · 64) belong to its batch normalisation.
    assert _parameters(deeplob(filters=32, inception=64)) + head == 143_907 - 1_216


def test_bin_ctabl_has_the_published_number_of_parameters() -> None:
    # C(TABL) has 11,344; BiN adds a gain and a bias for each of 40 columns and 10 rows, and two weights.
    assert _parameters(bin_ctabl(width=3)) == 11_344 + 2 * (40 + 10) + 2


@pytest.mark.parametrize("window", [10, 100])
def test_prices_are_as_they_stood_relative_to_the_newest_mid(window: int) -> None:
    book = _Book(rows=150, seed=window)
    got = _windows(book, window=window)
    columns = [NAMES.index(name) for name in COLUMNS[1::2]]
    sizes = (book.sizes - LOCATION[columns].numpy()) / SCALE[columns].numpy()
    for row in range(150):
        for age in range(window):
            seen = got[row, window - 1 - age]
            if age > row:
                assert not seen.any()
                continue
            np.testing.assert_allclose(seen[1::2], sizes[row - age], rtol=0, atol=1e-6)
            first_order = book.distances[row - age] - 1e4 * np.log(book.mid[row] / book.mid[row - age])
            np.testing.assert_allclose(seen[0::2] * 5.0, first_order, rtol=0, atol=1e-3)
            exact = 1e4 * (book.prices[row - age] / book.mid[row] - 1)
            np.testing.assert_allclose(seen[0::2] * 5.0, exact, rtol=0, atol=0.05)


def test_the_same_book_seen_from_any_past_gives_the_same_prices() -> None:
    # However the mid got there, the newest row shows its own distances.
    book = _Book(rows=40, seed=1)
    got = _windows(book, window=10)
    np.testing.assert_allclose(got[:, -1, 0::2] * 5.0, book.distances, rtol=0, atol=1e-4)


def test_columns_are_ordered_as_in_the_paper() -> None:
    assert COLUMNS[:4] == ("ask_price_1", "ask_size_1", "bid_price_1", "bid_size_1")
    assert (len(COLUMNS), BOOK, ROW) == (40, 40, 41)


def test_a_window_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="two rows"):
        BookWindows(LOCATION, SCALE, window=1, price_scale=5.0)


def test_bilinear_normalisation_equals_the_papers_formula() -> None:
    layer = BilinearNormalisation(40, 10)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(7, 40, 10, dtype=torch.float64)
    got = layer.double()(x).detach().numpy()
    values = x.numpy()
    columns = (values - values.mean(2, keepdims=True)) / values.std(2, keepdims=True)
    rows = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    weights = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    first, second = np.exp(weights["log_weights"])
    expected = first * (weights["column_gain"] * columns + weights["column_bias"])
    expected = expected + second * (weights["row_gain"] * rows + weights["row_bias"])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_attention_starts_as_a_mean_over_time_and_keeps_its_diagonal() -> None:
    layer = TemporalAttention((6, 5), (4, 1))
    x = torch.randn(3, 6, 5)
    y = layer.left @ x
    uniform = (0.5 * y / 5 + 0.5 * y) @ layer.right + layer.bias
    torch.testing.assert_close(layer(x), uniform)
    before = layer(x)
    with torch.no_grad():
        layer.between.diagonal().add_(7.0)
    assert torch.equal(layer(x), before)


class _Book:
    """A book in prices and sizes: a mid on a random walk, levels at random distances; 64 bits throughout."""

    def __init__(self, *, rows: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.mid = 30_000 * np.exp(np.cumsum(random.normal(0, 5e-5, rows)))
        away = 1 + 1e-4 * np.cumsum(random.exponential(1.0, (rows, LEVELS, 2)), axis=1)
        ask = self.mid[:, None] * away[:, :, 0]
        bid = self.mid[:, None] * (2 - away[:, :, 1])
        # Level by level: ask, bid.
        self.prices = np.stack([ask, bid], axis=2).reshape(rows, 2 * LEVELS)
        self.sizes = random.exponential(1.0, (rows, 2 * LEVELS))
        self.distances = 1e4 * (self.prices - self.mid[:, None]) / self.mid[:, None]

    def features(self) -> np.ndarray:
        """Return the raw feature vector, with noise where a window of books must not look."""
        rows = len(self.mid)
        raw = np.random.default_rng(0).normal(size=(rows, COUNT))
        for level in range(1, LEVELS + 1):
            ask, bid = 2 * level - 2, 2 * level - 1
            raw[:, NAMES.index(f"ask_distance_{level}")] = self.distances[:, ask]
            raw[:, NAMES.index(f"bid_distance_{level}")] = -self.distances[:, bid]
            raw[:, NAMES.index(f"ask_size_{level}")] = self.sizes[:, ask]
            raw[:, NAMES.index(f"bid_size_{level}")] = self.sizes[:, bid]
        raw[:, NAMES.index("mid_return")] = np.diff(1e4 * np.log(self.mid), prepend=1e4 * np.log(self.mid[0]))
        return raw


def _windows(book: _Book, *, window: int) -> np.ndarray:
    """Return the windows [N, W, 40] of the scaled stream, fed in seven chunks."""
    features = (book.features() - LOCATION.numpy()) / SCALE.numpy()
    module = BookWindows(LOCATION, SCALE, window=window, price_scale=5.0)
    state = module.cold_state(1)
    parts = []
    for part in np.array_split(features.astype(np.float32), 7):
        windows, state = module(torch.from_numpy(part).unsqueeze(0), state)
        parts.append(windows[0])
    return torch.cat(parts).numpy()


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
