"""What every market does, in an hour of the simulated one; bounds are four standard errors, from blocks of a minute."""

import math

import numpy as np
import pytest

from lobsmith.market.events import ASK, BID, TICKER, TRADE
from lobsmith.market.session import Session
from lobsmith.market.simulator import simulate

SECONDS = 3600
BLOCK_S = 60


@pytest.fixture(scope="module")
def session() -> Session:
    return simulate(seed=21, seconds=SECONDS)


def side(session: Session, which: int, column: str) -> np.ndarray:
    e = session.events
    return getattr(e, column)[(e.kind == TICKER) & (e.side == which)]


def returns(session: Session, seconds: float) -> np.ndarray:
    """Changes of the mid over a grid of local time, ticks."""
    time = side(session, BID, "local_time")
    mid = (side(session, BID, "price") + side(session, ASK, "price")) / 2
    grid = np.arange(time[0], time[-1], int(seconds * 1e9))
    return np.diff(mid[np.searchsorted(time, grid, side="right") - 1])


def correlation(values: np.ndarray, lag: int) -> tuple[float, float]:
    """Autocorrelation at a lag, and its standard error by a jackknife over minutes."""
    centred = values - values.mean()
    products = centred[:-lag] * centred[lag:] / values.var()
    blocks = np.array([block.mean() for block in np.array_split(products, SECONDS // BLOCK_S)])
    return float(products.mean()), float(blocks.std() / math.sqrt(len(blocks)))


def test_the_spread_is_mostly_one_tick_and_wide_ones_are_rare(session: Session) -> None:
    time = side(session, BID, "local_time")
    spread = side(session, ASK, "price") - side(session, BID, "price")
    lasted = np.diff(time)
    shares = np.array([lasted[spread[:-1] == ticks].sum() for ticks in range(1, 12)]) / lasted.sum()
    assert shares[0] > 0.6
    assert (np.diff(shares[:6]) < 0).all()
    assert shares[10:].sum() < 0.01


def test_queues_have_one_mode_and_a_tail(session: Session) -> None:
    sizes = side(session, BID, "size")
    counts, edges = np.histogram(sizes, bins=np.linspace(0, np.quantile(sizes, 0.99), 25))
    mode = int(np.argmax(counts))
    assert mode < 12
    smooth = np.convolve(counts, np.ones(5) / 5, mode="valid")
    top = int(np.argmax(smooth))
    assert (np.diff(smooth[top:]) < 0).mean() > 0.85
    assert 0.5 < sizes.mean() < 5.0
    assert np.quantile(sizes, 0.99) > 3 * np.median(sizes)
    assert edges[0] == 0.0


def test_trade_signs_are_correlated_and_the_correlation_decays_slowly(session: Session) -> None:
    e = session.events
    signs = e.side[e.kind == TRADE].astype(float)
    assert len(signs) > 20_000
    correlations = {lag: correlation(signs, lag) for lag in (1, 2, 5, 10, 20)}
    assert all(value > 4 * error for value, error in correlations.values())
    values = [value for value, _ in correlations.values()]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.4 * values[0]


def test_tails_are_fat(session: Session) -> None:
    random = np.random.default_rng(0)
    for seconds in (1, 10):
        moves = returns(session, seconds)
        blocks = np.array_split(moves, SECONDS // BLOCK_S)

        def kurtosis(values: np.ndarray) -> float:
            centred = values - values.mean()
            return float((centred**4).mean() / (centred**2).mean() ** 2 - 3)

        draws = [
            kurtosis(np.concatenate([blocks[k] for k in random.integers(0, len(blocks), len(blocks))]))
            for _ in range(500)
        ]
        assert np.quantile(draws, 0.01) > 0, (seconds, kurtosis(moves))


def test_volatility_clusters_while_returns_do_not(session: Session) -> None:
    moves = returns(session, 1)
    for lag in (5, 10, 20, 30):
        value, error = correlation(np.abs(moves), lag)
        assert value > 4 * error, lag
        plain, _ = correlation(moves, lag)
        assert abs(plain) < 0.5 * value, lag
