import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.features.labels import targets
from lobsmith.features.stream import Rows
from lobsmith.models.networks.volatility import (
    CELL_S,
    COMPONENTS_S,
    DEFAULT_S,
    FLOOR,
    GRID_S,
    MOST_CELLS,
    UNIT_ROOT,
    GarchStatus,
    Volatility,
    fit_garch,
    grid_returns,
    qlike,
)
from lobsmith.params import LabelParams
from tests.models.networks.encoder import assert_answers_the_same, exported, step

HORIZONS_MS = (100, 1000, 5000)
H = len(HORIZONS_MS)
RETURN, ELAPSED = NAMES.index("mid_return"), NAMES.index("elapsed")
_GENERATOR = torch.Generator().manual_seed(3)
LOCATION = torch.randn(COUNT, generator=_GENERATOR) * 0.1
SCALE = torch.rand(COUNT, generator=_GENERATOR) + 0.5
Array = npt.NDArray[np.float64]


def encoder(*, garch: tuple[float, float, float] | None = (0.3, 0.5, 1.2)) -> Volatility:
    """A fitted encoder; `garch` holds V, ρ and η."""
    torch.manual_seed(1)
    built = Volatility(LOCATION, SCALE, HORIZONS_MS).eval()
    built.tau[:H] = torch.tensor([0.3, 4.0, 25.0])
    built.long_run.fill_(0.4)
    built.har.copy_(torch.randn(built.har.shape, generator=torch.Generator().manual_seed(4)) * 0.3 + 0.3)
    if garch is not None:
        built.garch.copy_(torch.tensor(garch))
        built.garch_status.fill_(int(GarchStatus.FITTED))
    return built


def features(rows: int, *, batch: int = 1, seed: int = 0) -> Tensor:
    """Rows whose times and returns are of every size; the other columns are noise."""
    random = np.random.default_rng(seed)
    raw = random.normal(size=(batch, rows, COUNT))
    elapsed_ms = 10 ** random.uniform(-3, 3.5, (batch, rows))
    elapsed_ms[random.random((batch, rows)) < 0.1] = 0.0
    raw[:, :, ELAPSED] = np.log1p(elapsed_ms)
    raw[:, :, RETURN] = random.normal(size=(batch, rows)) * (random.random((batch, rows)) < 0.6)
    return torch.from_numpy(((raw - LOCATION.numpy()) / SCALE.numpy()).astype(np.float32))


def forecasts(built: Volatility, rows: Rows) -> Array:
    """Variances, bps² [N, 3, H], of a whole stream from cold: EWMA, HAR, GARCH."""
    scaled = torch.from_numpy((rows.raw - built.location.numpy()) / built.scale.numpy()).unsqueeze(0)
    answer, _ = step(built, scaled, [256] * (len(rows) // 256) + [len(rows) % 256])
    return np.exp(2 * answer[0, :, built.hidden :].numpy().astype(np.float64)).reshape(-1, 3, H)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def stream(returns: Array, elapsed_s: Array, *, segment: npt.NDArray[np.int64] | None = None) -> Rows:
    """Rows of given returns, bps, and times since the row before."""
    count = len(returns)
    raw = np.zeros((count, COUNT), np.float32)
    raw[:, RETURN] = returns
    raw[:, ELAPSED] = np.log1p(1e3 * elapsed_s)
    mid = np.round(1e12 * np.exp(1e-4 * np.cumsum(returns))).astype(np.int64)
    time = np.cumsum(np.round(1e9 * elapsed_s).astype(np.int64))
    segment = np.zeros(count, np.int64) if segment is None else segment
    return Rows(raw, raw, time, mid, segment, np.ones(count, np.bool_))


def realised(rows: Rows) -> npt.NDArray[np.float32]:
    params = LabelParams(horizons_ms=HORIZONS_MS, significant_bps=1.0, withdrawal=0.5)
    return targets(rows.time, rows.mid, rows.segment, rows.raw, params).volatility


def stochastic_volatility(count: int, *, seed: int, reversion_s: float = 6.0) -> Rows:
    """A log-variance that reverts, rows at random times 50 ms apart."""
    random = np.random.default_rng(seed)
    elapsed = random.exponential(0.05, count)
    level = np.empty(count)
    now = 0.0
    for row, noise in enumerate(random.normal(size=count)):
        kept = np.exp(-elapsed[row] / reversion_s)
        now = now * kept + 1.0 * np.sqrt(1 - kept**2) * noise
        level[row] = now
    return stream(random.normal(size=count) * np.sqrt(elapsed * np.exp(level)), elapsed)


def garch_returns(count: int, *, omega: float, alpha: float, beta: float, seed: int) -> Array:
    random = np.random.default_rng(seed)
    variance, returns = omega / (1 - alpha - beta), np.empty(count)
    for cell, noise in enumerate(random.normal(size=count)):
        returns[cell] = np.sqrt(variance) * noise
        variance = omega + alpha * returns[cell] ** 2 + beta * variance
    return returns


@pytest.fixture(scope="module")
def market() -> Rows:
    return stochastic_volatility(60_000, seed=11)


def test_widths_and_states_are_as_declared() -> None:
    built = encoder()
    answer, state = built(features(3, batch=2), built.cold_state(2))
    assert answer.shape == (2, 3, built.width)
    assert built.width == 64 + 3 * H
    assert state.shape == (2, built.state_size)
    assert built.state_size == 2 * 2 * 64 + (H + 3) + 1 + 1
    assert (answer.dtype, state.dtype) == (torch.float32, torch.float32)
    assert not built.cold_state(2).any()


@pytest.mark.parametrize("garch", [(0.3, 0.5, 1.2), (5.0, 1e-3, 3.0), (0.01, 20.0, 70.0), (1.0, 0.2, 0.0), None])
def test_three_hundred_rows_at_once_equal_three_hundred_steps(garch: tuple[float, float, float] | None) -> None:
    built, rows = encoder(garch=garch), features(300)
    at_once, at_once_state = step(built, rows, [300])
    stepped, stepped_state = step(built, rows, [1] * 300)
    close(at_once, stepped)
    close(at_once_state, stepped_state)


def test_a_thousand_rows_at_once_equal_four_calls() -> None:
    built, rows = encoder(), features(1000)
    at_once, at_once_state = step(built, rows, [1000])
    parts, parts_state = step(built, rows, [250] * 4)
    close(at_once, parts)
    close(at_once_state, parts_state)


@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.integers(1, 149), max_size=8), seed=st.integers(0, 2**31))
def test_any_split_gives_the_same_answer(cuts: set[int], seed: int) -> None:
    built, rows = encoder(), features(150, batch=2, seed=seed)
    at_once, at_once_state = step(built, rows, [150])
    split, split_state = step(built, rows, np.diff([0, *sorted(cuts), 150]).tolist())
    close(at_once, split)
    close(at_once_state, split_state)


def test_the_past_does_not_change_with_the_future() -> None:
    built, rows = encoder(), features(130, batch=2)
    before, _ = step(built, rows, [130])
    for changed in (0, 1, 64, 129):
        other = rows.clone()
        other[:, changed] += 3
        after, _ = step(built, other, [130])
        assert torch.equal(before[:, :changed], after[:, :changed])
        assert not torch.equal(before[:, changed], after[:, changed])


def test_streams_of_a_batch_do_not_touch_each_other() -> None:
    built, rows = encoder(), features(20, batch=3)
    together, together_state = step(built, rows, [8, 12])
    alone, alone_state = step(built, rows[1:2], [8, 12])
    close(together[1:2], alone)
    close(together_state[1:2], alone_state)


def test_every_parameter_learns_and_no_forecast_does() -> None:
    built = encoder().train()
    state = built.cold_state(2)
    for part in torch.split(features(12, batch=2), 6, dim=1):
        answer, state = built(part, state)
    answer.square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(name.startswith("lstm.") for name, _ in built.named_parameters())


def test_saved_weights_carry_the_fit() -> None:
    built, rows = encoder(), features(12)
    other = Volatility(torch.zeros(COUNT), torch.ones(COUNT), (1, 2, 3)).eval()
    other.load_state_dict(built.state_dict())
    assert torch.equal(step(built, rows, [12])[0], step(other, rows, [12])[0])


def test_exported_it_answers_the_same_for_other_batches_and_times(tmp_path: Path) -> None:
    built = encoder()
    session = exported(built, tmp_path / "encoder.onnx")
    shapes = ((1, 1), (3, 7), (1, 256), (2, 511), (5, 2))

    def rows(batch: int, steps: int, seed: int) -> Tensor:
        return features(steps, batch=batch, seed=seed)

    assert_answers_the_same(session, built, shapes, rows, rtol=1e-5, atol=1e-5)
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        session.run(None, {"features": features(512).numpy(), "state": built.cold_state(1).numpy()})


@pytest.mark.parametrize("garch", [(0.3, 0.5, 1.2), (5.0, 1e-3, 3.0), (0.01, 20.0, 70.0)])
def test_the_forecasts_are_those_of_a_slow_loop(garch: tuple[float, float, float]) -> None:
    built, rows = encoder(garch=garch), features(300, seed=5)
    answer, _ = step(built, rows, [100, 200])
    raw = (rows[0].numpy() * SCALE.numpy() + LOCATION.numpy()).astype(np.float64)
    returns, elapsed = raw[:, RETURN], np.expm1(np.maximum(raw[:, ELAPSED], 0)) / 1e3
    horizons = np.array(HORIZONS_MS) / 1e3
    tau, har = built.tau.numpy().astype(np.float64), built.har.numpy().astype(np.float64)
    level, rho, eta = built.garch.numpy().astype(np.float64)
    rates, variance = np.full(H + 3, float(built.long_run)), float(built.long_run)
    for row in range(300):
        d, square = elapsed[row], returns[row] ** 2
        rates = rates * np.exp(-d / tau) + square / tau
        if d > 1e-7:
            kept = np.exp(-rho * d)
            expected = level * d + (variance - level) * -np.expm1(-rho * d) / rho
            gain = rho * kept * -np.expm1(-eta * d) / -np.expm1(-rho * d)
            variance = level + (variance - level) * kept + gain * (square - expected)
        else:
            variance += eta * square
        assert variance > 0
        ewma = 0.5 * np.log(rates[:H] * horizons)
        linear = har[:, 0] + (har[:, 1:] * 0.5 * np.log(np.outer(horizons, rates[H:]))).sum(axis=1)
        lasting = -np.expm1(-rho * horizons) / rho
        ahead = 0.5 * np.log(level * horizons + (variance - level) * lasting)
        floor = np.log(FLOOR)
        expected_row = np.maximum(np.concatenate([ewma, linear, ahead]), floor)
        np.testing.assert_allclose(answer[0, row, built.hidden :].numpy(), expected_row, rtol=1e-4, atol=5e-5)


def test_ewma_and_har_are_those_of_a_search_and_a_regression(market: Rows) -> None:
    built = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    rows, train = market.slice(0, 8000), np.arange(500, 6000)
    target = realised(rows)
    fit = built.fit(rows, train, target)
    assert fit.horizon_fitted.all()
    raw = rows.raw[train].astype(np.float64)
    elapsed = np.expm1(raw[:, ELAPSED]) / 1e3
    long_run = (raw[:, RETURN] ** 2).sum() / elapsed.sum()
    assert float(built.long_run) == pytest.approx(long_run, rel=1e-6)
    taus = np.array([*GRID_S, *COMPONENTS_S])
    rates, rate = np.empty((len(train), len(taus))), np.full(len(taus), long_run)
    for row in range(len(train)):
        rate = rate * np.exp(-elapsed[row] / taus) + raw[row, RETURN] ** 2 / taus
        rates[row] = rate
    for h, horizon in enumerate(np.array(HORIZONS_MS) / 1e3):
        actual = target[train, h].astype(np.float64)
        variance = np.maximum(rates * horizon, FLOOR**2)
        losses = [np.mean(actual**2 / f + np.log(f)) for f in variance[:, : len(GRID_S)].T]
        assert float(built.tau[h]) == pytest.approx(GRID_S[int(np.argmin(losses))])
        inputs = np.column_stack([np.ones(len(train)), 0.5 * np.log(variance[:, len(GRID_S) :])])
        outcome = np.log(np.maximum(actual, 0.1 * np.sqrt(np.mean(actual**2))))
        direct = np.linalg.solve(inputs.T @ inputs, inputs.T @ outcome)
        direct[0] += 0.5 * np.log(np.mean(actual**2 / np.exp(2 * inputs @ direct)))
        np.testing.assert_allclose(built.har[h].numpy(), direct, rtol=1e-4, atol=1e-5)


def test_no_row_outside_the_training_rows_is_used(market: Rows) -> None:
    rows = market.slice(0, 4000)
    target = realised(rows)
    train = np.r_[100:1500, 1700:3000]
    first = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    first.fit(rows, train, target)
    outside = np.setdiff1d(np.arange(4000), train)
    raw, other = rows.raw.copy(), target.copy()
    raw[outside] = 1e6
    other[outside] = 77.0
    changed = Rows(raw, raw, rows.time, rows.mid, rows.segment, rows.complete)
    second = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    second.fit(changed, train, other)
    for name, buffer in first.named_buffers():
        assert torch.equal(buffer, dict(second.named_buffers())[name]), name


def test_simulated_garch_is_recovered() -> None:
    returns = 0.2 * garch_returns(40_000, omega=0.02, alpha=0.08, beta=0.9, seed=2)
    rows = stream(returns, np.full(40_000, CELL_S))
    built = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    garch = built.fit(rows, np.arange(40_000), realised(rows)).garch
    assert garch.status is GarchStatus.FITTED
    assert int(built.garch_status) == GarchStatus.FITTED
    assert garch.cells == 39_999
    assert garch.alpha == pytest.approx(0.08, abs=0.012)
    assert garch.beta == pytest.approx(0.9, abs=0.02)
    rate, rho, eta = built.garch.tolist()
    assert rate * CELL_S == pytest.approx(0.2**2 * 0.02 / 0.02, rel=0.15)
    assert np.exp(-rho * CELL_S) == pytest.approx(garch.alpha + garch.beta, rel=1e-6)
    assert np.exp(-(rho + eta) * CELL_S) == pytest.approx(garch.beta, rel=1e-6)
    # Rows on the grid: the recursion in continuous time is the discrete one.
    variance = 0.2**2 * np.ones(40_000)
    for cell in range(1, 40_000):
        variance[cell] = garch.omega + garch.alpha * returns[cell - 1] ** 2 + garch.beta * variance[cell - 1]
    forecast = forecasts(built, rows)[:-1, 2, 0]
    assert np.corrcoef(np.log(forecast), np.log(variance[1:]))[0, 1] > 0.999
    assert np.mean(forecast / variance[1:]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("spacing", [0.005, 0.1, 3.0])
def test_garch_forecasts_are_unbiased_whatever_the_spacing_of_rows(spacing: float) -> None:
    random = np.random.default_rng(8)
    built = encoder(garch=(0.3, 0.2, 0.8))
    elapsed = random.exponential(spacing, 50_000)
    rows = stream(random.normal(size=50_000) * np.sqrt(0.3 * elapsed), elapsed)
    forecast = forecasts(built, rows)[1000:, 2, 1]
    assert forecast.mean() == pytest.approx(0.3, rel=0.05)


def test_forecasts_beat_the_unconditional_mean(market: Rows) -> None:
    target, train = realised(market), np.arange(40_000)
    built = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    assert built.fit(market, train, target).garch.usable
    variance = forecasts(built, market)
    for h in range(H):
        test = np.arange(42_000, 60_000)
        test = test[np.isfinite(target[test, h])]
        actual = target[test, h].astype(np.float64)
        mean = np.full(len(test), np.nanmean(target[train, h].astype(np.float64) ** 2))
        for kind in range(3):
            assert qlike(actual, variance[test, kind, h]) < qlike(actual, mean) - 0.02, (h, kind)


def test_a_cold_stream_starts_at_the_long_run_rate() -> None:
    built = encoder()
    still = np.zeros((1, 1, COUNT))
    rows = torch.from_numpy(((still - LOCATION.numpy()) / SCALE.numpy()).astype(np.float32))
    answer, _ = step(built, rows, [1])
    horizons = np.array(HORIZONS_MS) / 1e3
    lasting = (1 - np.exp(-0.5 * horizons)) / 0.5
    ahead = 0.3 * horizons + (0.4 - 0.3) * lasting
    np.testing.assert_allclose(answer[0, 0, 64 : 64 + H], 0.5 * np.log(0.4 * horizons), rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer[0, 0, -H:], 0.5 * np.log(ahead), rtol=0, atol=1e-5)


def test_a_market_at_rest_has_finite_answers_and_falls_back() -> None:
    rows = stream(np.zeros(2000), np.full(2000, 0.05))
    built = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    fit = built.fit(rows, np.arange(2000), realised(rows))
    assert fit.garch.status is GarchStatus.NO_VARIATION
    variance = forecasts(built, rows)
    assert np.isfinite(variance).all()
    np.testing.assert_array_equal(variance[:, 2], variance[:, 0])
    np.testing.assert_allclose(variance[:, 1], FLOOR**2, rtol=1e-4)


def test_too_few_cells_fall_back_to_ewma(market: Rows) -> None:
    rows = market.slice(0, 150)
    built = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    fit = built.fit(rows, np.arange(150), realised(rows))
    assert fit.garch.status is GarchStatus.TOO_FEW_CELLS
    assert not fit.garch.usable
    assert int(built.garch_status) == GarchStatus.TOO_FEW_CELLS
    variance = forecasts(built, rows)
    assert np.isfinite(variance).all()
    np.testing.assert_array_equal(variance[:, 2], variance[:, 0])


def test_a_fit_of_nothing_takes_back_an_earlier_one(market: Rows) -> None:
    rows = market.slice(0, 3000)
    built = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    built.fit(rows, np.arange(3000), realised(rows))
    unknown = np.full((3000, H), np.nan, np.float32)
    for train in (np.arange(0), np.arange(1), np.arange(3000)):
        fit = built.fit(rows, train, unknown)
        assert not fit.horizon_fitted.any()
        assert not built.horizon_fitted.any()
        assert (built.tau[:H] == DEFAULT_S).all()
        assert all(buffer.isfinite().all() for buffer in built.buffers())
        assert np.isfinite(forecasts(built, rows)).all()
        assert fit.garch.usable == (len(train) == 3000)


def test_an_unfitted_garch_is_ewma() -> None:
    answer, _ = step(encoder(garch=None), features(50), [50])
    assert torch.equal(answer[:, :, -H:], answer[:, :, 64 : 64 + H])


@pytest.mark.parametrize(
    ("alpha", "beta", "flag", "status"),
    [
        (0.2, 0.8, 0, GarchStatus.NOT_STATIONARY),
        (0.1, 0.8, 4, GarchStatus.NOT_CONVERGED),
        (float("nan"), 0.8, 0, GarchStatus.NOT_CONVERGED),
        (0.1, 0.0, 0, GarchStatus.FITTED),
    ],
)
def test_a_fit_that_is_not_to_be_used_says_so(
    alpha: float, beta: float, flag: int, status: GarchStatus, monkeypatch: pytest.MonkeyPatch, market: Rows
) -> None:
    from arch.univariate.base import ARCHModel

    estimates = {"omega": 0.1, "alpha[1]": alpha, "beta[1]": beta}
    result = SimpleNamespace(params=estimates, convergence_flag=flag, loglikelihood=1.0)
    monkeypatch.setattr(ARCHModel, "fit", lambda *_, **__: result)
    rows = market.slice(0, 3000)
    built = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    assert built.fit(rows, np.arange(3000), realised(rows)).garch.status is status
    variance = forecasts(built, rows)
    assert np.isfinite(variance).all()
    assert np.array_equal(variance[:, 2], variance[:, 0]) == (status is not GarchStatus.FITTED)


def test_a_variance_that_hardly_reverts_is_not_taken_for_stationary() -> None:
    rows = stochastic_volatility(40_000, seed=11, reversion_s=15.0)
    built = Volatility(torch.zeros(COUNT), torch.ones(COUNT), HORIZONS_MS)
    garch = built.fit(rows, np.arange(40_000), realised(rows)).garch
    assert garch.status is GarchStatus.NOT_STATIONARY
    assert garch.alpha + garch.beta >= 1 - UNIT_ROOT
    variance = forecasts(built, rows)
    np.testing.assert_array_equal(variance[:, 2], variance[:, 0])


def test_fits_that_do_not_agree_are_not_used(monkeypatch: pytest.MonkeyPatch, market: Rows) -> None:
    from arch.univariate.base import ARCHModel

    estimates = {"omega": 0.1, "alpha[1]": 0.1, "beta[1]": 0.8}
    likelihoods = iter([-10.0, -7.0, -8.0, -9.0, -10.0, -7.0, -6.8])
    monkeypatch.setattr(
        ARCHModel,
        "fit",
        lambda *_, **__: SimpleNamespace(params=estimates, convergence_flag=0, loglikelihood=next(likelihoods)),
    )
    returns = garch_returns(1000, omega=0.02, alpha=0.08, beta=0.9, seed=1)
    assert fit_garch(returns).status is GarchStatus.NOT_CONVERGED
    assert fit_garch(returns).status is GarchStatus.FITTED


def test_a_long_grid_is_fitted_and_not_left_where_the_search_began() -> None:
    returns = garch_returns(210_000, omega=0.005, alpha=0.04, beta=0.955, seed=6)
    garch = fit_garch(returns)
    assert garch.status is GarchStatus.FITTED
    assert garch.cells == MOST_CELLS
    assert (garch.alpha, garch.beta) == (pytest.approx(0.04, abs=0.01), pytest.approx(0.955, abs=0.01))


def test_the_grid_does_not_bridge_segments() -> None:
    time = np.array([0, 50, 100, 101, 250, 1000, 1100, 1350]) * 1_000_000
    returns = np.array([9.0, 1.0, 2.0, 4.0, 8.0, 9.0, 16.0, 32.0])
    starts = np.array([True, False, False, False, False, True, False, False])
    np.testing.assert_array_equal(grid_returns(time, returns, starts), [3.0, 4.0, 16.0, 0.0, 0.0])


def test_wild_rows_have_finite_answers() -> None:
    built = encoder()
    for value in (-1e30, -1e4, 0.0, 1e4, 1e30):
        rows = torch.zeros(1, 50, COUNT)
        rows[:, :, RETURN] = value
        rows[:, ::2, ELAPSED] = value
        answer, state = step(built, rows, [20, 30])
        assert answer.isfinite().all()
        assert state.isfinite().all()


def test_what_is_served_does_not_import_the_fit() -> None:
    program = "import sys, lobsmith.models.networks.volatility; sys.exit('arch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
