"""Any interleaving of updates against a book of dictionaries."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.market.book import ROW, WINDOW, apply, levels, new_book, touch
from lobsmith.market.events import ASK, BID, CLEAR, END, LEVEL, TICKER
from tests.features.reference import ReferenceBook

MIDDLE = 600_000
# Near the touch, at the edges of the window, and far outside it, so that the window moves.
distance = st.one_of(st.integers(0, 40), st.integers(WINDOW - 80, WINDOW + 80), st.integers(40_000, 500_000))
size = st.one_of(st.just(0.0), st.integers(1, 50).map(lambda lots: lots / 1000))
level = st.tuples(st.just("level"), st.sampled_from([BID, ASK]), distance, size)
ticker = st.tuples(st.just("ticker"), st.integers(-30, 30), st.integers(1, 9), st.booleans())
drift = st.tuples(st.just("drift"), st.integers(-30_000, 30_000))
clear = st.just(("clear",))


def shown(book, side: int) -> list[tuple[int, float]]:
    prices, sizes = np.zeros(10, np.int64), np.zeros(10)
    count = levels(book, side, prices, sizes)
    return list(zip(prices[:count].tolist(), sizes[:count].tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(level, level, level, ticker, drift, clear), max_size=120))
def test_equals_a_book_of_dictionaries(steps) -> None:
    book, naive, sequence, middle = new_book(), ReferenceBook(), 1, MIDDLE
    apply(book, CLEAR, 0, 0, 0.0, sequence, END)
    naive.depth_sequence = sequence
    for step in steps:
        sequence += 1
        if step[0] == "level":
            _, side, away, amount = step
            price = max(1, middle - side * (away + 1))
            apply(book, LEVEL, side, price, amount, sequence, END)
            naive.depth_sequence = sequence
            naive.ticker = {}
            if amount > 0:
                naive.depth[side][price] = amount
            else:
                naive.depth[side].pop(price, None)
        elif step[0] == "ticker":
            _, shift, lots, late = step
            number = naive.depth_sequence if late else sequence
            bid, ask = middle + shift - 1, middle + shift + 1
            apply(book, TICKER, BID, bid, lots / 1000, number, 0)
            status = apply(book, TICKER, ASK, ask, lots / 500, number, END)
            assert status & ROW == (0 if late else ROW)
            if not late:
                naive.ticker = {BID: (bid, lots / 1000), ASK: (ask, lots / 500)}
        elif step[0] == "drift":
            middle = max(1_000_000, middle + step[1])
        else:
            apply(book, CLEAR, 0, 0, 0.0, sequence, END)
            naive.depth, naive.ticker, naive.depth_sequence = {BID: {}, ASK: {}}, {}, sequence
        for side in (BID, ASK):
            assert shown(book, side) == naive.levels(side)
        best_bid, bid_size, best_ask, ask_size = touch(book)
        assert [(best_bid, bid_size)] == (naive.levels(BID, 1) or [(0, 0.0)])
        assert [(best_ask, ask_size)] == (naive.levels(ASK, 1) or [(0, 0.0)])


def test_levels_that_the_touch_left_behind_come_back() -> None:
    book = new_book()
    apply(book, CLEAR, 0, 0, 0.0, 1, 0)
    for price in range(1000, 60_000, 500):
        apply(book, LEVEL, BID, price, 1.0, 1, END)
    for price in range(59_500, 999, -500):
        assert touch(book)[0] == price
        apply(book, LEVEL, BID, price, 0.0, 2, END)
    assert touch(book)[:2] == (0, 0.0)
