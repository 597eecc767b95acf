import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.errors import DataError
from lobsmith.market import book as order_book
from lobsmith.market.book import CROSSED, ROW, WINDOW, apply, levels, new_book, touch
from lobsmith.market.events import ASK, BID, CLEAR, END, GAP, LEVEL, TICKER, TRADE


class NaiveBook:
    """The same rules with two dictionaries."""

    def __init__(self) -> None:
        self.sides: dict[int, dict[int, float]] = {BID: {}, ASK: {}}
        self.ticker: dict[int, tuple[int, float]] = {}
        self.synchronised = False
        self.depth_sequence = self.ticker_sequence = 0

    def apply(self, kind: int, side: int, price: int, size: float, sequence: int, flags: int) -> int:
        if kind in (CLEAR, GAP):
            self.sides = {BID: {}, ASK: {}}
            self.ticker = {}
            self.synchronised = kind == CLEAR
            if kind == CLEAR:
                self.depth_sequence = sequence
        elif kind == LEVEL and self.synchronised:
            self.depth_sequence = sequence
            if sequence >= self.ticker_sequence:
                self.ticker = {}
            self.sides[side].pop(price, None)
            if size > 0:
                self.sides[side][price] = size
            bids, asks = self.sides[BID], self.sides[ASK]
            return CROSSED if flags & END and bids and asks and max(bids) >= min(asks) else 0
        elif kind == TICKER and self.synchronised and sequence > self.depth_sequence:
            self.ticker_sequence = sequence
            self.ticker[side] = (price, size)
            if flags & END:
                bids, asks = self.levels(BID), self.levels(ASK)
                return ROW | (CROSSED if bids and asks and bids[0][0] >= asks[0][0] else 0)
        return 0

    def levels(self, side: int) -> list[tuple[int, float]]:
        held = self.sides[side]
        if side in self.ticker:
            best, size = self.ticker[side]
            held = {price: value for price, value in held.items() if price * side < best * side} | {best: size}
        return sorted(held.items(), key=lambda level: -level[0] * side)


def effective(book: order_book.Book, side: int, count: int) -> list[tuple[int, float]]:
    prices, sizes = np.zeros(count, np.int64), np.zeros(count)
    written = levels(book, side, prices, sizes)
    return list(zip(prices[:written].tolist(), sizes[:written].tolist(), strict=True))


def assert_same(book: order_book.Book, naive: NaiveBook, count: int = 10) -> None:
    bids, asks = naive.levels(BID), naive.levels(ASK)
    assert effective(book, BID, count) == bids[:count]
    assert effective(book, ASK, count) == asks[:count]
    assert touch(book) == (*(bids[0] if bids else (0, 0.0)), *(asks[0] if asks else (0, 0.0)))


near = st.integers(600_000, 600_030)
wide = st.integers(600_000 - 3 * WINDOW, 600_000 + 3 * WINDOW)
far = st.sampled_from([1, 2, 10, WINDOW, 10**6, 10**6 + 1, 2**40, 2**61, 2**61 - 1])
prices = st.one_of(near, near, wide, far)
level = st.tuples(
    st.just(LEVEL),
    st.sampled_from([BID, ASK]),
    prices,
    st.sampled_from([0.0, 0.0, 0.5, 2.0]),
    st.sampled_from([0, END]),
)
ticker = st.tuples(st.just(TICKER), st.just(0), prices, st.integers(-3, 50).map(float), st.just(END))
other = st.tuples(st.sampled_from([CLEAR, GAP, TRADE]), st.just(0), near, st.just(1.0), st.just(END))
streams = st.lists(st.tuples(st.one_of(*[level] * 12, *[ticker] * 4, other), st.integers(-2, 3)), max_size=120)


@settings(max_examples=300, deadline=None)
@given(streams)
def test_equals_a_naive_book_whatever_the_order(stream: list[tuple[tuple[int, int, int, float, int], int]]) -> None:
    book, naive = new_book(), NaiveBook()
    sequence = 10
    events = [(CLEAR, 0, 0, 0.0, 10, 0)]
    for (kind, side, price, size, flags), step in stream:
        sequence += step
        if kind == TICKER:
            # Its "size" is the spread, which may be crossed.
            events.append((TICKER, BID, price, 1.5, sequence, 0))
            events.append((TICKER, ASK, max(1, price + int(size)), 2.5, sequence, END))
        else:
            events.append((kind, side, price, size, sequence, flags))
    for event in events:
        assert apply(book, *event) == naive.apply(*event)
        if event[5] & END:
            assert_same(book, naive)


@pytest.mark.parametrize("side", [BID, ASK])
def test_levels_survive_the_window_moving_away_and_back(side: int) -> None:
    rng = np.random.default_rng(1)
    book, naive = new_book(), NaiveBook()
    touches = 1_000_000 + np.cumsum(rng.integers(-WINDOW // 3, WINDOW // 3, 300))
    for event in [(CLEAR, 0, 0, 0.0, 1, 0)]:
        apply(book, *event)
        naive.apply(*event)
    for centre in touches.tolist():
        for price in (centre + rng.integers(-WINDOW, WINDOW, 6)).tolist():
            event = (LEVEL, side, price, float(rng.integers(1, 9)), 1, 0)
            apply(book, *event)
            naive.apply(*event)
        # Clear the way to the new touch, so that it moves both ways.
        for price, _ in naive.levels(side):
            if price * side <= centre * side:
                break
            event = (LEVEL, side, price, 0.0, 1, END)
            apply(book, *event)
            naive.apply(*event)
        assert_same(book, naive, 40)
    assert book["outside"][0, 0 if side == BID else 1] > 0


def start(*events: tuple[int, int, int, float, int, int]) -> tuple[order_book.Book, list[int]]:
    book = new_book()
    apply(book, CLEAR, 0, 0, 0.0, 10, 0)
    for price in (98, 99, 100):
        apply(book, LEVEL, BID, price, 1.0, 10, 0)
    for price in (101, 102, 103):
        apply(book, LEVEL, ASK, price, 1.0, 10, END)
    return book, [apply(book, *event) for event in events]


def test_a_newer_ticker_overrides_the_touch_and_hides_what_it_crosses() -> None:
    book, status = start((TICKER, BID, 99, 7.0, 11, 0), (TICKER, ASK, 102, 8.0, 11, END))
    assert status == [0, ROW]
    assert touch(book) == (99, 7.0, 102, 8.0)
    assert effective(book, BID, 5) == [(99, 7.0), (98, 1.0)]
    assert effective(book, ASK, 5) == [(102, 8.0), (103, 1.0)]


def test_an_older_ticker_is_ignored() -> None:
    book, status = start((TICKER, BID, 99, 7.0, 10, 0), (TICKER, ASK, 102, 8.0, 10, END))
    assert status == [0, 0]
    assert touch(book) == (100, 1.0, 101, 1.0)


@pytest.mark.parametrize(("sequence", "best"), [(11, 99), (12, 100), (13, 100)])
def test_depth_that_has_caught_up_drops_the_override(sequence: int, best: int) -> None:
    ticker = [(TICKER, BID, 99, 7.0, 12, 0), (TICKER, ASK, 102, 8.0, 12, END)]
    book, _ = start(*ticker, (LEVEL, BID, 50, 1.0, sequence, END))
    assert touch(book)[0] == best


def test_crossed_and_locked_books_are_reported() -> None:
    assert start((LEVEL, BID, 101, 1.0, 11, 0))[1] == [0]
    assert start((LEVEL, BID, 101, 1.0, 11, END))[1] == [CROSSED]
    assert start((TICKER, BID, 105, 1.0, 11, 0), (TICKER, ASK, 104, 1.0, 11, END))[1] == [0, ROW | CROSSED]


def test_after_a_gap_nothing_counts_until_a_snapshot() -> None:
    book, status = start(
        (GAP, 0, 0, 0.0, 11, END),
        (LEVEL, BID, 100, 1.0, 12, END),
        (TICKER, BID, 99, 7.0, 13, 0),
        (TICKER, ASK, 102, 8.0, 13, END),
    )
    assert status == [0, 0, 0, 0]
    assert touch(book) == (0, 0.0, 0, 0.0)
    assert effective(book, BID, 5) == []


def test_a_copy_is_a_book_of_its_own() -> None:
    book, _ = start()
    copy = book.copy()
    apply(copy, LEVEL, BID, 100, 0.0, 11, END)
    assert (touch(book)[0], touch(copy)[0]) == (100, 99)


def test_a_full_table_is_an_error() -> None:
    book, _ = start()
    for price in range(1_000_000, 1_000_000 + order_book.TABLE_MAXIMUM):
        apply(book, LEVEL, ASK, price, 1.0, 11, 0)
    with pytest.raises(DataError, match="full"):
        apply(book, LEVEL, ASK, 2_000_000, 1.0, 11, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([BID, ASK]), st.integers(-40_000, 40_000), st.integers(0, 3)), max_size=60))
def test_size_at_any_price_near_or_far(changes) -> None:
    book = new_book()
    apply(book, CLEAR, 0, 0, 0.0, 1, END)
    expected: dict[tuple[int, int], float] = {}
    for side, offset, size in changes:
        price = 600_000 + offset
        assert order_book.size_at(book, side, price) == expected.get((side, price), 0.0)
        apply(book, LEVEL, side, price, float(size), 2, END)
        expected[side, price] = float(size)
        for (other, at), there in expected.items():
            assert order_book.size_at(book, other, at) == there
