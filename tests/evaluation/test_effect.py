import numpy as np
import pytest

from lobsmith.evaluation.assess import effect, horizon_rows
from lobsmith.evaluation.bootstrap import widening
from lobsmith.evaluation.results import Effect, Interval

MS = 1_000_000
NAN = float("nan")
UP, DOWN, FLAT = (0.1, 0.1, 0.8), (0.8, 0.1, 0.1), (0.1, 0.8, 0.1)


def trade(times_ms, mids, spreads, probabilities, *, rows=None, segments=None, **options) -> Effect:
    count = len(times_ms)
    return effect(
        np.array(probabilities, np.float64).reshape(-1, 3),
        np.arange(count) if rows is None else np.array(rows, np.int64),
        np.array(times_ms, np.int64) * MS,
        np.zeros(count, np.int64) if segments is None else np.array(segments, np.int64),
        np.array(mids, np.int64),
        np.array(spreads, np.float64),
        **{"horizon_ms": 100, "confidence": 0.8, "fee_bps": 1.5, **options},
    )


def test_a_scripted_path_is_exact() -> None:
    # Bought at 0, closed by the row at 90 (the last one by 100); skipped at 50; sold at 101, closed by the row at 201,
    # which is received just then; skipped at 150; bought at 201, closed by the row at 250.
    times = [0, 50, 90, 101, 150, 201, 250, 302]
    mids = [2000, 1900, 2002, 2010, 2006, 2001, 2005, 2500]
    spreads = [4.0, 90.0, 2.0, 3.0, 90.0, 1.0, 5.0, 90.0]
    result = trade(times, mids, spreads, [UP, UP, FLAT, DOWN, DOWN, UP, FLAT, UP])
    gross = [1e4 * 2 / 2000, 1e4 * 9 / 2010, 1e4 * 4 / 2001]
    half = [(4.0 + 2.0) / 2, (3.0 + 1.0) / 2, (1.0 + 5.0) / 2]
    net = [g - s - 3.0 for g, s in zip(gross, half, strict=True)]
    assert result.trades == 3
    assert result.gross_bps == pytest.approx(sum(gross) / 3, abs=1e-9)
    assert result.spread_bps == pytest.approx(sum(half) / 3, abs=1e-9)
    assert result.fees_bps == 3.0
    assert result.net_bps.value == pytest.approx(sum(net) / 3, abs=1e-9)
    # Of three trades, one in 27 draws holds the same one three times: the percentiles are the extremes.
    wider = widening(3, 1)
    assert result.net_bps.low == pytest.approx(sum(net) / 3 - wider * (sum(net) / 3 - min(net)), abs=1e-9)
    assert result.net_bps.high == pytest.approx(sum(net) / 3 + wider * (max(net) - sum(net) / 3), abs=1e-9)


def test_a_trade_that_is_right_still_pays() -> None:
    result = trade([0, 100], [10_000, 10_002], [1.0, 2.0], [UP, FLAT])
    assert result.net_bps == Interval(*[pytest.approx(2.0 - 1.5 - 3.0, abs=1e-9)] * 3)
    sold = trade([0, 100], [10_000, 10_002], [1.0, 2.0], [DOWN, FLAT])
    assert sold.net_bps.value == pytest.approx(-2.0 - 1.5 - 3.0, abs=1e-9)


@pytest.mark.parametrize(
    "probabilities",
    [
        pytest.param([FLAT, FLAT], id="no confidence"),
        pytest.param([(NAN, NAN, NAN), FLAT], id="no prediction"),
        pytest.param([(0.21, 0.0, 0.79), FLAT], id="not quite enough"),
    ],
)
def test_without_a_trade_all_is_zero(probabilities) -> None:
    zero = Interval(0.0, 0.0, 0.0)
    assert trade([0, 100], [10, 11], [1, 1], probabilities) == Effect(
        horizon_ms=100, confidence=0.8, trades=0, gross_bps=0.0, spread_bps=0.0, fees_bps=0.0, net_bps=zero
    )


def test_the_likelier_side_is_taken_and_none_of_two_alike() -> None:
    times, mids, spreads = [0, 100], [10_000, 10_001], [0, 0]
    assert trade(times, mids, spreads, [(0.5, 0.0, 0.5), FLAT], confidence=0.5).trades == 0
    assert trade(times, mids, spreads, [(0.4, 0.1, 0.5), FLAT], confidence=0.4).gross_bps == pytest.approx(1.0)
    assert trade(times, mids, spreads, [(0.5, 0.1, 0.4), FLAT], confidence=0.4).gross_bps == pytest.approx(-1.0)


def test_a_horizon_that_its_segment_does_not_reach_is_not_traded() -> None:
    times, mids, spreads = [0, 99, 100, 210], [100, 101, 150, 160], [1, 1, 1, 1]
    assert trade(times, mids, spreads, [UP, UP, UP, UP], segments=[0, 0, 1, 1]).gross_bps == pytest.approx(0.0)
    assert trade(times, mids, spreads, [UP, UP, FLAT, FLAT], segments=[0, 0, 1, 1]).trades == 0
    assert trade(times, mids, spreads, [UP, UP, FLAT, FLAT], segments=[0, 0, 0, 0]).trades == 1


def test_no_trade_sees_another_segment() -> None:
    generator = np.random.default_rng(3)
    times = np.cumsum(generator.integers(1, 60, 600))
    mids = 10_000 + np.cumsum(generator.integers(-3, 4, 600))
    segments = np.arange(600) // 200
    probabilities = np.array([UP, DOWN, FLAT])[generator.integers(0, 3, 600)]
    first = np.where(segments == 1, mids, 0)
    inside = segments == 1
    alone = trade(times[inside], mids[inside], np.ones(200), probabilities[inside])
    assert alone.trades > 20
    rows = np.flatnonzero(inside)
    for other in (1, 5_000):
        changed = np.where(inside, first, mids * other)
        spreads = np.where(inside, 1.0, 77.0 * other)
        assert trade(times, changed, spreads, probabilities[inside], rows=rows, segments=segments) == alone


def test_rows_that_are_not_held_out_move_the_mid_but_do_not_trade() -> None:
    result = trade([0, 40, 80, 200], [10_000, 10_004, 10_008, 1], [2, 2, 6, 2], [UP], rows=[0])
    assert (result.trades, result.gross_bps, result.spread_bps) == (1, pytest.approx(8.0), 4.0)


def test_trades_never_overlap() -> None:
    times = np.arange(0, 5_000, 7)
    result = trade(times, np.full(len(times), 1_000), np.ones(len(times)), [UP] * len(times))
    # Every 105 ms, the first multiple of 7 that is not before the horizon's end.
    assert result.trades == len(range(0, 4_998 - 100 + 1, 105))


def test_horizon_rows_equal_a_search_row_by_row() -> None:
    generator = np.random.default_rng(4)
    time = np.cumsum(generator.integers(0, 40, 900)).astype(np.int64)
    segment = (np.arange(900) // 170).astype(np.int64)
    rows = np.flatnonzero(generator.random(900) < 0.4)
    last_rows = horizon_rows(time, segment, rows, 100)
    for row, last in zip(rows, last_rows, strict=True):
        inside = np.flatnonzero(segment == segment[row])
        target = time[row] + 100
        assert last == (-1 if time[inside[-1]] < target else inside[time[inside] <= target][-1])
    assert (last_rows < 0).any()
    assert (last_rows >= 0).any()
