import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lobsmith.errors import DataError
from lobsmith.features.labels import direction_labels
from lobsmith.market.book import CROSSED, ROW, apply, levels, new_book, touch
from lobsmith.market.events import ASK, BID, CLEAR, END, LEVEL, TICKER, TRADE, concatenate
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session, fingerprint
from lobsmith.market.simulator import START_NS, Change, Dynamics, Market, row_probabilities, simulate
from lobsmith.market.simulator.raw import raw_lines, write_raw
from tests.market import inject

SEED = 7


@pytest.fixture(scope="module")
def session() -> Session:
    return simulate(seed=SEED, seconds=600)


def tickers(session: Session) -> tuple[np.ndarray, np.ndarray]:
    """Local times, and bid plus ask, of each ticker."""
    e = session.events
    bid, ask = ((e.kind == TICKER) & (e.side == side) for side in (BID, ASK))
    return e.local_time[bid], e.price[bid] + e.price[ask]


def test_the_same_seed_gives_the_same_session() -> None:
    assert fingerprint(simulate(7, 30)) == fingerprint(simulate(7, 30))
    assert fingerprint(simulate(7, 30)) != fingerprint(simulate(8, 30))
    assert fingerprint(simulate(7, 30, Dynamics(market=1.0))) != fingerprint(simulate(7, 30))


def test_stopping_and_going_on_changes_nothing() -> None:
    market = Market(SEED)
    parts = [market.advance(seconds) for seconds in (0.0, 0.05, 3.2, 3.2, 10.0)]
    parts.append(market.advance(np.inf, tickers=500))
    parts.append(market.advance(30.0))
    whole = simulate(SEED, 30).events
    for name in ("price", "local_time", "size"):
        np.testing.assert_array_equal(getattr(concatenate(parts), name), getattr(whole, name))


def test_a_change_of_the_dynamics_changes_only_what_comes_after_it() -> None:
    change = Change(at_s=20.0, dynamics=Dynamics(order=1600.0, queue=4400.0))
    plain, changed = simulate(SEED, 60).events, simulate(SEED, 60, changes=[change]).events
    before = int((plain.exchange_time < START_NS + 20 * 10**9).sum())
    for name in ("local_time", "kind", "price", "size", "sequence"):
        a, b = getattr(plain, name), getattr(changed, name)
        np.testing.assert_array_equal(a[:before], b[:before], err_msg=name)
    assert (plain.local_time[before : before + 100] != changed.local_time[before : before + 100]).any()
    traded, larger = (e.size[before:][e.kind[before:] == TRADE].mean() for e in (plain, changed))
    assert larger > 1.5 * traded


def test_a_market_that_was_copied_does_not_change_with_the_other() -> None:
    market = Market(SEED)
    market.advance(5.0)
    other = market.copy()
    other.change(Dynamics().scaled({"order": 2.0}))
    other.advance(10.0)
    whole = Market(SEED).advance(10.0).local_time
    rest = market.advance(10.0).local_time
    np.testing.assert_array_equal(rest, whole[-len(rest) :])


@pytest.mark.parametrize("times", [[10.0, 10.0], [20.0, 10.0], [30.0]])
def test_changes_that_do_not_rise_within_the_session_are_an_error(times: list[float]) -> None:
    with pytest.raises(DataError, match="times that rise"):
        simulate(SEED, 30, changes=[Change(at_s=time, dynamics=Dynamics()) for time in times])


@pytest.mark.parametrize("at_s", [0.0, -1.0, math.nan, math.inf])
def test_a_change_at_no_time_is_an_error(at_s: float) -> None:
    with pytest.raises(DataError, match="cannot change"):
        Change(at_s=at_s, dynamics=Dynamics())


@pytest.mark.parametrize(
    ("factors", "what"), [({"orders": 2.0}, "no constant orders"), ({"order": 0.0}, "order"), ({"market": 9.0}, "end")]
)
def test_factors_of_which_no_market_can_be_made_are_refused(factors: dict[str, float], what: str) -> None:
    with pytest.raises(DataError, match=what):
        Dynamics().scaled(factors)


def test_speaks_the_schema(session: Session) -> None:
    e = session.events
    assert e.kind[0] == CLEAR
    assert e.flags[-1] == END
    assert set(e.kind.tolist()) == {CLEAR, LEVEL, TICKER, TRADE}
    assert (np.diff(e.local_time) >= 0).all()
    late = e.local_time - e.exchange_time
    assert late.min() >= 3_000_000
    assert np.median(late) < 5_000_000
    assert (e.size[e.kind != LEVEL][1:] > 0).all()
    book_ids = e.sequence[(e.kind == LEVEL) | (e.kind == TICKER)]
    assert (np.diff(book_ids) >= 0).all()
    # One time a message.
    bounds = e.message_bounds()
    assert all(e.local_time[a] == e.local_time[b - 1] for a, b in pairwise(bounds))
    account = session.accounting
    assert (account.crossed, account.faults, account.segments) == (0, {}, 1)
    assert account.records == account.kept
    assert account.seconds == pytest.approx(600, abs=0.2)


def test_the_book_is_valid_after_every_message(session: Session) -> None:
    e = session.events
    book = new_book()
    prices, sizes = np.zeros(30, np.int64), np.zeros(30)
    for i in range(120_000):
        status = apply(book, e.kind[i], e.side[i], e.price[i], e.size[i], e.sequence[i], e.flags[i])
        assert not status & CROSSED
        if status & ROW:
            bid, bid_size, ask, ask_size = touch(book)
            assert bid < ask
            assert min(bid_size, ask_size) > 0
            assert min(levels(book, BID, prices, sizes), levels(book, ASK, prices, sizes)) >= 15


def queue_imbalance(session: Session) -> np.ndarray:
    """Of the two best queues, at each ticker, in [-1, 1]."""
    e = session.events
    bid, ask = (e.size[(e.kind == TICKER) & (e.side == side)] for side in (BID, ASK))
    return (bid - ask) / (bid + ask)


def test_imbalance_tells_where_the_mid_goes(session: Session) -> None:
    time, mid = tickers(session)
    imbalance = queue_imbalance(session)
    later = np.searchsorted(time, time + 100e6, side="right") - 1
    move = np.sign(mid[later] - mid)
    assert 0.1 < (move > 0).mean() < 0.4
    assert move[imbalance > 0.5].mean() > 0.1
    assert move[imbalance < -0.5].mean() < -0.1


def test_a_fork_leaves_the_market_as_it_is() -> None:
    original, other = Market(SEED), Market(SEED)
    for market in (original, other):
        market.advance(np.inf, tickers=500)
    first = original.fork([100, 1000], paths=50, seed=3)
    np.testing.assert_array_equal(first, original.fork([100, 1000], paths=50, seed=3))
    assert not np.array_equal(first, original.fork([100, 1000], paths=50, seed=4))
    np.testing.assert_allclose(first.sum(axis=1), 1.0)
    np.testing.assert_array_equal(original.advance(60.0).price, other.advance(60.0).price)


def test_a_copy_goes_on_as_its_original_would_have() -> None:
    market = Market(SEED)
    market.advance(10.0)
    copy = market.copy()
    market.advance(20.0)
    copied = copy.advance(30.0)
    whole = simulate(SEED, 30).events
    assert len(copied) > 1000
    np.testing.assert_array_equal(copied.price, whole.price[-len(copied) :])
    np.testing.assert_array_equal(copied.local_time, whole.local_time[-len(copied) :])


def test_no_stream_of_a_fork_is_used_twice() -> None:
    """The error of the mean over many forks falls as it does for independent ones."""
    market = Market(SEED)
    market.advance(np.inf, tickers=500)
    shares = np.array([market.fork([100], paths=50, seed=seed)[0, 2] for seed in range(200)])
    mean = shares.mean()
    assert shares.var() == pytest.approx(mean * (1 - mean) / 50, rel=0.4)  # four standard errors of a variance


def test_forked_probabilities_are_the_true_ones(session: Session) -> None:
    """600 rows drawn with a fixed seed, 100 continuations each, against what happened and against the baselines."""
    horizons = (100, 1000)
    time, mid = tickers(session)
    labels = direction_labels(time, mid, np.zeros(len(time), np.int64), horizons)
    imbalance = queue_imbalance(session)
    known = np.flatnonzero((labels >= 0).all(axis=1))
    rows = np.sort(np.random.default_rng(0).choice(known, 600, replace=False))
    paths = 100
    predicted = row_probabilities(SEED, rows.tolist(), horizons, paths)
    for h in range(len(horizons)):
        observed = np.eye(3)[labels[rows, h]]
        # The mean of predicted minus observed is zero within four standard errors, class by class.
        error = predicted[:, h] - observed
        assert (np.abs(error.mean(axis=0)) < 4 * error.std(axis=0) / math.sqrt(len(rows))).all()
        # A likely rise is frequent: in each third of the rows by predicted probability.
        for part in np.array_split(np.argsort(predicted[:, h, 2]), 3):
            deviation = error[part, 2].std() / math.sqrt(len(part))
            assert abs(error[part, 2].mean()) < 4 * deviation
        smooth = (predicted[:, h] * paths + 0.5) / (paths + 1.5)
        loss = -np.log((smooth * observed).sum(axis=1))
        base = labels[known, h]
        majority = -np.log((np.bincount(base, minlength=3) / len(base) * observed).sum(axis=1))
        # What the queues alone tell: frequencies in twenty classes of imbalance, from all the other rows.
        others = np.setdiff1d(known, rows)
        edges = np.quantile(imbalance, np.linspace(0, 1, 21)[1:-1])
        table = np.ones((20, 3))
        np.add.at(table, (np.digitize(imbalance[others], edges), labels[others, h]), 1)
        table /= table.sum(axis=1, keepdims=True)
        queues = -np.log((table[np.digitize(imbalance[rows], edges)] * observed).sum(axis=1))
        for gain in (majority - loss, queues - loss):
            assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))
            assert gain.mean() > 0.05


def test_a_flash_crash_falls_and_comes_back() -> None:
    time, mid = tickers(simulate(SEED, 60, Dynamics(crash_at_s=30.0)))
    calm = tickers(simulate(SEED, 60))[1]
    seconds = (time - time[0]) / 1e9
    before = mid[seconds < 29.9][-1]
    lowest = mid[(seconds > 30) & (seconds < 36)].min()
    after = mid[seconds < 40][-1]
    assert before - lowest > 4 * np.ptp(calm[: int((seconds < 30).sum())]) / 10
    assert before - lowest > 60  # ticks of the mid, doubled
    assert after - lowest > 0.3 * (before - lowest)


@pytest.mark.parametrize("crash", [0.0, 500.0, 5_000.0])
def test_however_fast_it_falls_the_book_is_valid(crash: float) -> None:
    account = simulate(SEED, 12, Dynamics(crash_at_s=5.0, crash=crash)).accounting
    assert (account.crossed, account.faults, account.segments) == (0, {}, 1)


@pytest.mark.parametrize("name", ["raw.gz", "raw.txt"])
def test_written_raw_and_read_again_it_is_the_same_market(tmp_path: Path, name: str) -> None:
    session = simulate(SEED, 30)
    write_raw(session, tmp_path / name)
    back = read_captures([tmp_path / name])
    assert back.instrument.symbol == "SIM"
    assert back.instrument.tick_size == pytest.approx(session.instrument.tick_size)
    a, b = session.events, back.events
    for column in ("local_time", "kind", "side", "price", "size", "sequence", "flags"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column), err_msg=column)
    np.testing.assert_array_equal(a.exchange_time // 10**6, b.exchange_time // 10**6)
    assert back.accounting.faults == {}


def test_faults_can_be_injected_into_a_simulated_session(tmp_path: Path) -> None:
    lines = list(raw_lines(simulate(SEED, 60)))
    injected = inject.clock_step(lines, len(lines) // 2, 5.0)
    (tmp_path / "raw").write_bytes(b"\n".join(injected.lines) + b"\n")
    account = read_captures([tmp_path / "raw"]).accounting
    assert account.faults == {"clock step": 1}
    assert account.segments == 2


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_time_without_an_end_or_a_beginning_is_an_error(seconds: float) -> None:
    with pytest.raises(DataError, match="cannot simulate"):
        simulate(1, seconds)


@pytest.mark.parametrize(
    ("constants", "what"),
    [
        ({"market": 10.0}, "without end"),
        ({"volatile": 8.0}, "without end"),
        ({"order": 0.0}, "order is 0.0"),
        ({"limit": -1.0}, "limit is -1.0"),
        ({"theta": 1.5}, "theta is 1.5"),
        ({"calm": math.nan}, "calm is nan"),
        ({"crash_at_s": math.nan}, "crash_at_s is nan"),
        ({"deep": math.inf}, "deep is inf"),
    ],
)
def test_constants_of_which_no_market_can_be_made_are_refused(constants: dict[str, float], what: str) -> None:
    with pytest.raises(DataError, match=what):
        Dynamics(**constants)


@pytest.mark.parametrize(
    ("horizons", "paths", "what"),
    [([], 10, "horizons"), ([1000, 100], 10, "horizons"), ([0, 100], 10, "horizons"), ([100], 0, "continuations")],
)
def test_a_fork_to_nowhere_is_an_error(horizons: list[int], paths: int, what: str) -> None:
    market = Market(SEED)
    market.advance(1.0)
    with pytest.raises(DataError, match=what):
        market.fork(horizons, paths, seed=1)


def test_a_fork_before_the_market_opens_is_an_error() -> None:
    with pytest.raises(DataError, match="first ticker"):
        Market(SEED).fork([100], paths=1, seed=1)


@pytest.mark.parametrize("rows", [[5, 3], [3, 3], [-1, 2]])
def test_rows_that_do_not_rise_are_an_error(rows: list[int]) -> None:
    """The market cannot go back: it would answer for another row."""
    with pytest.raises(DataError, match="rise"):
        row_probabilities(SEED, rows, [100], paths=1)
