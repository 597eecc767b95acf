import numpy as np
import pytest

from lobsmith.errors import DataError
from lobsmith.market.book import ROW, apply, levels, new_book, touch
from lobsmith.market.events import ASK, BID, CLEAR, END, LEVEL, TICKER, TRADE
from lobsmith.market.session import Session, fingerprint
from lobsmith.market.simulator import simulate


@pytest.fixture(scope="module")
def session() -> Session:
    return simulate(seed=7, seconds=300)


def rows_of(session: Session) -> np.ndarray:
    """Per row: local time, mid in half ticks, queue imbalance, fewest levels of a side."""
    e = session.events
    book, found = new_book(), []
    prices, sizes = np.zeros(30, np.int64), np.zeros(30)
    for i, event in enumerate(zip(e.kind, e.side, e.price, e.size, e.sequence, e.flags, strict=True)):
        if apply(book, *event) & ROW:
            bid, bid_size, ask, ask_size = touch(book)
            fewest = min(levels(book, BID, prices, sizes), levels(book, ASK, prices, sizes))
            found.append((e.local_time[i], bid + ask, (bid_size - ask_size) / (bid_size + ask_size), fewest))
    return np.array(found)


def test_the_same_seed_gives_the_same_session() -> None:
    assert fingerprint(simulate(7, 30)) == fingerprint(simulate(7, 30))
    assert fingerprint(simulate(7, 30)) != fingerprint(simulate(8, 30))


def test_a_longer_session_begins_like_a_shorter_one() -> None:
    short, long = simulate(7, 30).events, simulate(7, 60).events
    np.testing.assert_array_equal(long.price[: len(short)], short.price)


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
    account = session.accounting
    assert (account.crossed, account.sequence_breaks, account.segments) == (0, 0, 1)
    assert account.records == account.kept
    assert account.seconds == pytest.approx(300, abs=0.1)


def test_the_mid_moves_irregularly_and_imbalance_tells_where(session: Session) -> None:
    rows = rows_of(session)
    time, mid, imbalance, fewest = rows.T
    assert fewest.min() >= 15
    assert 30 < len(rows) / 300 < 70
    gaps = np.diff(time)
    assert gaps.std() > gaps.mean()
    later = np.searchsorted(time, time + 100e6, side="right") - 1
    inside = time + 100e6 <= time[-1]
    move = np.sign(mid[later] - mid)[inside]
    shares = [(move == direction).mean() for direction in (-1, 0, 1)]
    assert min(shares) > 0.1
    assert max(shares) < 0.75
    pressed = imbalance[inside]
    assert move[pressed > 0.5].mean() > 0.2
    assert move[pressed < -0.5].mean() < -0.2


def test_nothing_to_simulate_is_an_error() -> None:
    with pytest.raises(DataError):
        simulate(1, 0)
