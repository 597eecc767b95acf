"""The screen on its own: whatever comes, the account adds up and what passes is well-formed."""

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lobsmith.market.book import CROSSED, apply, new_book, touch
from lobsmith.market.capture_reader import Batch
from lobsmith.market.events import (
    ASK,
    BID,
    CLEAR,
    DTYPES,
    END,
    GAP,
    LEVEL,
    RESTATED,
    TICKER,
    TRADE,
    Events,
    concatenate,
)
from lobsmith.market.quality.ledger import Ledger
from lobsmith.market.quality.screen import Screen
from lobsmith.market.session import without_restated
from lobsmith.params import ScreenParams

LIMITS = ScreenParams(clock_tolerance_ms=50, clock_settle_ms=400, stale_ms=300, silence_ms=2000, crossed_ms=200)
MS = 1_000_000
T0 = 1_723_161_599_000 * MS  # a second before midnight
MIDDLE = 1000

Message = list[tuple[int, int, int, float, int]]
"""Kind, side, price, size and sequence of each event."""


def batch(messages: Sequence[tuple[int, int, Message]]) -> Batch:
    """Local and exchange time, ns, and events of each message; the place is the message's number, from 1."""
    rows = []
    for number, (local, exchange, message) in enumerate(messages, 1):
        for i, (kind, side, price, size, sequence) in enumerate(message):
            flags = END if i == len(message) - 1 else 0
            rows.append((exchange, local, kind, side, flags, price, size, sequence, number))
    columns = list(zip(*rows, strict=True))
    events = Events(*(np.array(column, dtype) for column, dtype in zip(columns, DTYPES.values(), strict=False)))
    return Batch(events, np.array(columns[-1], np.int64))


level = st.tuples(
    st.just("depth"),
    st.lists(st.tuples(st.sampled_from([BID, ASK]), st.integers(-3, 12), st.integers(0, 5)), min_size=1, max_size=4),
)
ticker = st.tuples(st.just("ticker"), st.integers(-2, 2), st.integers(-1, 3))
trade = st.tuples(st.just("trade"), st.sampled_from([BID, ASK]), st.integers(0, 3))
other = st.sampled_from([("gap",), ("snapshot",), ("again",)])
step = st.tuples(
    st.one_of(level, level, ticker, ticker, trade, other),
    st.one_of(st.integers(0, 30), st.integers(0, 30), st.sampled_from([-500, 400, 700, 3000])),  # local ms onwards
    st.one_of(st.just(5), st.just(5), st.sampled_from([-200, 100, 350, 900])),  # lag, ms
)


def snapshot(sequence: int) -> Message:
    sides = [(side, MIDDLE - side * k) for side in (BID, ASK) for k in range(1, 6)]
    return [(CLEAR, 0, 0, 0.0, sequence), *((LEVEL, side, price, 1.0, sequence) for side, price in sides)]


def messages_of(steps: list[tuple[tuple, int, int]]) -> list[tuple[int, int, Message]]:
    local, sequence, number = T0, 10, 1
    out: list[tuple[int, int, Message]] = [(local, local - 5 * MS, snapshot(sequence))]
    for what, forward, lag in steps:
        local += forward * MS
        sequence += 2
        message: Message
        if what[0] == "depth":
            message = [(LEVEL, side, MIDDLE - side * away, float(size), sequence) for side, away, size in what[1]]
        elif what[0] == "ticker":
            _, shift, half = what
            bid, ask = MIDDLE + shift - half, MIDDLE + shift + half
            message = [(TICKER, BID, bid, 1.0, sequence), (TICKER, ASK, ask, 1.0, sequence)]
        elif what[0] == "trade":
            number += what[2]
            message = [(TRADE, what[1], MIDDLE, 1.0, number)]
        elif what[0] == "gap":
            message = [(GAP, 0, 0, 0.0, 0)]
        elif what[0] == "snapshot":
            message = snapshot(sequence)
        else:
            message = out[-1][2]
        out.append((local, local - lag * MS, message))
    return out


def screened(messages: list[tuple[int, int, Message]], cuts: list[int], *, ticker_feed: bool) -> tuple[Events, Ledger]:
    ledger = Ledger()
    screen = Screen(LIMITS, ledger, ticker_feed=ticker_feed)
    whole = batch(messages)
    bounds = whole.events.message_bounds()
    edges = sorted({0, len(bounds) - 1, *(cut % len(bounds) for cut in cuts)})
    parts = []
    for a, b in pairwise(edges):
        events = whole.events.slice(bounds[a], bounds[b])
        parts.append(screen.push(Batch(events, whole.places[bounds[a] : bounds[b]])))
    screen.finish()
    return concatenate(parts), ledger


def assert_well_formed(events: Events, *, ticker_feed: bool) -> None:
    book = new_book()
    inside = False
    last = -(2**62)
    for i in range(len(events)):
        kind, flags = int(events.kind[i]), int(events.flags[i])
        if kind == CLEAR and not flags & RESTATED:
            last = -(2**62) if not inside else last
            inside = True
        elif kind == GAP:
            assert inside
            inside = False
            last = -(2**62)
        elif kind != TRADE:
            assert inside
        assert events.local_time[i] >= last
        last = int(events.local_time[i])
        assert np.isfinite(events.size[i])
        assert events.size[i] >= 0
        status = apply(book, kind, events.side[i], events.price[i], events.size[i], events.sequence[i], flags)
        if ticker_feed and inside:
            assert not status & CROSSED
        if kind == TICKER and flags & END:
            bid, _, ask, _ = touch(book)
            assert bid < ask


@settings(max_examples=300, deadline=None)
@given(st.lists(step, max_size=60), st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_whatever_comes_the_account_adds_up(steps: list, cuts: list[int], ticker_feed: bool) -> None:
    messages = messages_of(steps)
    if not ticker_feed:
        messages = [message for message in messages if message[2][0][0] != TICKER]
    events, ledger = screened(messages, [], ticker_feed=ticker_feed)
    assert_well_formed(events, ticker_feed=ticker_feed)
    quarantined = sum(ledger.quarantined.values())
    assert quarantined <= len(messages)
    if quarantined > ledger.quarantined["gap"]:  # gaps are the reader's to count
        assert ledger.faults
    # Cut anywhere, it passes the same.
    again, other = screened(messages, cuts, ticker_feed=ticker_feed)
    for field in fields(events):
        np.testing.assert_array_equal(getattr(events, field.name), getattr(again, field.name), err_msg=field.name)
    assert (ledger.quarantined, ledger.faults) == (other.quarantined, other.faults)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(level, st.integers(0, 20)), min_size=1, max_size=60))
def test_a_venue_without_tickers_gets_one_for_each_change_of_the_touch(steps: list) -> None:
    messages = messages_of([(what, forward, 5) for what, forward in steps])
    events, _ = screened(messages, [], ticker_feed=False)
    naive: dict[int, dict[int, float]] = {BID: {}, ASK: {}}
    expected, shown = [], None
    crossed_since = None
    for local, _, message in messages:
        for kind, side, price, size, _ in message:
            if kind == CLEAR:
                naive = {BID: {}, ASK: {}}
                continue
            naive[side].pop(price, None)
            if size:
                naive[side][price] = size
        bids, asks = naive[BID], naive[ASK]
        crossed = bool(bids and asks and max(bids) >= min(asks))
        crossed_since = (crossed_since or local) if crossed else None
        if crossed_since is not None and local - crossed_since >= LIMITS.crossed_ms * MS:
            return  # an incident: the faults' own tests cover it
        if crossed or not bids or not asks:
            continue
        now = (max(bids), bids[max(bids)], min(asks), asks[min(asks)])
        if now != shown:
            expected.append(now)
            shown = now
    continued = without_restated(events)
    kind = continued.kind == TICKER
    columns = continued.price[kind].tolist(), continued.size[kind].tolist()
    pairs = list(zip(*columns, strict=True))
    assert [(*a, *b) for a, b in zip(pairs[::2], pairs[1::2], strict=True)] == expected


def test_midnight_is_restated_and_a_stream_that_goes_on_does_not_notice() -> None:
    messages = messages_of([(("ticker", 0, k % 3 + 1), 100, 5) for k in range(20)])
    events, ledger = screened(messages, [], ticker_feed=True)
    restated = events.flags & RESTATED > 0
    assert restated.any()
    assert set(events.kind[restated].tolist()) == {CLEAR, LEVEL, TICKER}
    assert int(events.local_time[np.argmax(restated)]) % (86_400_000 * MS) < 100 * MS
    plain = batch(messages).events
    for field in fields(plain):
        np.testing.assert_array_equal(getattr(without_restated(events), field.name), getattr(plain, field.name))
    assert not ledger.faults
