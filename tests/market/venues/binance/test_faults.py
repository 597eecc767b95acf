"""What the reader does with lost, repeated and swapped messages, wherever its text is cut."""

from pathlib import Path

import numpy as np
import pytest

from lobsmith.market.book import levels as book_levels
from lobsmith.market.book import new_book, replay
from lobsmith.market.events import ASK, BID, LEVEL, TICKER
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session, fingerprint
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import raw_lines
from lobsmith.market.venues.binance import reader
from lobsmith.market.venues.binance.scan import scan
from lobsmith.market.venues.captures import text_batches
from tests.market import inject
from tests.market.venues.captured import (
    futures_depth,
    futures_ticker,
    levels,
    line,
    snapshot,
    spot_depth,
    spot_ticker,
    write,
)

FUTURES = [
    snapshot(0, 50, levels(("61800.0", "1")), levels(("61800.1", "2")), E=1723161256001, T=1723161256000),
    futures_depth(1, 48, 52, 55, [("61799.9", "3.5")]),
    futures_ticker(2, 57, ("61800.0", "1.5"), ("61800.1", "2.5")),
]
FIRST = futures_depth(3, 55, 56, 60, [("61799.0", "1")])
SECOND = futures_depth(4, 60, 61, 66, [("61799.5", "1")])


@pytest.mark.parametrize("chunk", [300, 1_000, 20_000])
def test_where_the_text_is_cut_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """With every fault that keeps something waiting: a swap, a repetition, a gap and its snapshot, a late start."""
    clean = list(raw_lines(simulate(seed=3, seconds=60)))
    late = inject.snapshot(clean, 60)
    mixed = [*clean[1:60], clean[59][:19] + late[19:], *clean[60:]]  # differences come before the first snapshot
    mixed = inject.reorder(mixed, 500).lines
    mixed = inject.duplicate(mixed, 900).lines
    mixed = inject.gap(mixed, 1500).lines
    mixed.insert(2000, mixed[1999][:19] + inject.snapshot(clean, 2000)[19:])
    path = tmp_path / "capture"
    path.write_bytes(b"\n".join(mixed) + b"\n")
    whole = read_captures([path])
    assert {"out of order", "duplicate", "gap"} <= set(whole.accounting.faults)
    assert whole.accounting.segments == 2
    monkeypatch.setattr(reader, "text_batches", lambda path: text_batches(path, chunk))
    cut = read_captures([path])
    assert cut.accounting == whole.accounting
    assert fingerprint(cut) == fingerprint(whole)

    # Nor does it matter which lines take the compiled path.
    def none_fast(text: np.ndarray, symbol: np.ndarray, lines: np.ndarray) -> None:
        scan(text, symbol, lines)
        lines["kind"] = 0

    monkeypatch.setattr(reader, "scan", none_fast)
    slow = read_captures([path])
    assert (slow.accounting, fingerprint(slow)) == (whole.accounting, fingerprint(whole))


def rows(session: Session) -> list[tuple[int, int, int, float, int]]:
    e = session.events
    return list(zip(*(column.tolist() for column in (e.kind, e.side, e.price, e.size, e.sequence)), strict=True))


def test_swapped_neighbours_are_put_back(tmp_path: Path) -> None:
    ticker = futures_ticker(4, 63, ("61800.0", "1.5"), ("61800.1", "2.5"))
    straight = read_captures([write(tmp_path / "a", *FUTURES, FIRST, SECOND, ticker)])
    swapped = read_captures([write(tmp_path / "b", *FUTURES, SECOND, ticker, FIRST)])
    assert swapped.accounting.faults == {"out of order": 1}
    assert swapped.accounting.quarantined == straight.accounting.quarantined
    # The ticker was received in between; the differences follow it in their own order.
    assert rows(swapped)[6:] == [
        (TICKER, BID, 618000, 1.5, 63),
        (TICKER, ASK, 618001, 2.5, 63),
        (LEVEL, BID, 617990, 1.0, 60),
        (LEVEL, BID, 617995, 1.0, 66),
    ]


@pytest.mark.parametrize(
    ("more", "faults", "quarantined"),
    [
        ([FIRST, FIRST], {"duplicate": 1}, {"duplicate": 1}),
        ([FIRST, SECOND, FIRST], {"duplicate": 1}, {"duplicate": 1}),
        ([FIRST, futures_depth(5, 50, 51, 54)], {"out of order": 1}, {"out of order": 1}),
        ([line(5, {"gap": "stale"}), FIRST], {"reconnect": 1}, {"reconnect": 2}),
        ([SECOND], {"gap": 1}, {"gap": 1}),
        ([SECOND, SECOND], {"duplicate": 1, "gap": 1}, {"duplicate": 1, "gap": 1}),
    ],
)
def test_faults_of_the_depth(
    tmp_path: Path, more: list[bytes], faults: dict[str, int], quarantined: dict[str, int]
) -> None:
    account = read_captures([write(tmp_path / "a", *FUTURES, *more)]).accounting
    assert (account.faults, account.quarantined) == (faults, quarantined)
    assert account.records == account.kept + sum(quarantined.values())


def test_levels_from_before_a_gap_are_gone_after_it(tmp_path: Path) -> None:
    again = snapshot(9, 70, levels(("61700.0", "1")), levels(("61700.1", "1")))
    ticker = futures_ticker(10, 71, ("61700.0", "1"), ("61700.1", "1"))
    e = read_captures([write(tmp_path / "a", *FUTURES, SECOND, again, ticker)]).events
    book = new_book()
    replay(book, e.kind, e.side, e.price, e.size, e.sequence, e.flags)
    prices, sizes = np.zeros(10, np.int64), np.zeros(10)
    assert book_levels(book, BID, prices, sizes) == book_levels(book, ASK, prices, sizes) == 1


def test_older_recorders_stamp_microseconds(tmp_path: Path) -> None:
    lines = list(raw_lines(simulate(seed=3, seconds=30)))
    coarse = [line[:16] + line[19:] + b"\n" for line in lines]
    exact = [line[:16] + b"000" + line[19:] + b"\n" for line in lines]
    microseconds = read_captures([write(tmp_path / "us", *coarse)])
    nanoseconds = read_captures([write(tmp_path / "ns", *exact)])
    assert fingerprint(microseconds) == fingerprint(nanoseconds)


def test_a_capture_without_tickers_gets_them_from_the_book(tmp_path: Path) -> None:
    lines = [line + b"\n" for line in raw_lines(simulate(seed=3, seconds=30)) if b"bookTicker" not in line[:60]]
    session = read_captures([write(tmp_path / "a", *lines)])
    account = session.accounting
    assert (account.tickers, account.segments, account.faults) == (0, 1, {})
    assert (session.events.kind == TICKER).sum() > 200
    book = new_book()
    e = session.events
    rows_made, crossings = replay(book, e.kind, e.side, e.price, e.size, e.sequence, e.flags)
    assert rows_made == (e.kind == TICKER).sum() // 2
    assert crossings == 0


WAITING = {
    "spot, the snapshot has all of it": (False, 50, 1),
    "futures, its id may be half of a difference": (True, 50, 0),
    "spot, one newer": (False, 51, 0),
    "futures, one older": (True, 49, 1),
}


@pytest.mark.parametrize(("futures", "last", "old"), WAITING.values(), ids=WAITING.keys())
def test_a_difference_at_the_snapshots_own_id(tmp_path: Path, futures: bool, last: int, old: int) -> None:
    bids = [("99.00", "1")]
    first = futures_depth(0, 44, 45, last, bids) if futures else spot_depth(0, 45, last, bids)
    again = snapshot(1, 50, levels(("99.50", "1")), levels(("100.00", "1")))
    ticker = futures_ticker(2, 90, ("99.50", "1"), ("100.00", "1"))
    # Whether it comes before the snapshot or behind it.
    for lines in ([first, again, ticker], [again, first, ticker]):
        account = read_captures([write(tmp_path / "a", *lines)]).accounting
        assert account.quarantined == ({"older than the snapshot": 1} if old else {})
        assert (account.faults, account.level_updates) == ({}, 2 if old else 3)


def buffered(*order: int) -> list[bytes]:
    """A snapshot behind some of six differences in a row, in some order, and a ticker."""
    differences = [spot_depth(k, 91 + 5 * k, 95 + 5 * k, [("99.90", f"{k + 1}")]) for k in range(6)]
    book = snapshot(9, 99, levels(("99.98", "1")), levels(("100.01", "1")))
    return [*(differences[k] for k in order), book, spot_ticker(10, 200, ("99.98", "1"), ("100.01", "1"))]


def test_a_hole_among_buffered_differences_is_a_gap(tmp_path: Path) -> None:
    lines = buffered(0, 1, 2, 4, 5)
    session = read_captures([write(tmp_path / "a", *lines)])
    account = session.accounting
    assert (account.faults, account.segments) == ({"gap": 1}, 1)
    # The ticker, and the differences behind the hole, which wait for the next snapshot in vain.
    assert account.quarantined == {"older than the snapshot": 1, "gap": 3}
    mended = [*lines, snapshot(11, 117, levels(("99.98", "7")), levels(("100.01", "1")))]
    account = read_captures([write(tmp_path / "b", *mended)]).accounting
    assert (account.faults, account.segments) == ({"gap": 1}, 2)
    assert account.quarantined == {"older than the snapshot": 2, "gap": 1}


def test_swapped_neighbours_that_wait_for_the_snapshot_are_put_back(tmp_path: Path) -> None:
    straight = read_captures([write(tmp_path / "a", *buffered(0, 1, 2, 3))])
    for order in ((1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)):
        swapped = read_captures([write(tmp_path / "b", *buffered(*order))])
        assert rows(swapped) == rows(straight)
        assert swapped.accounting.faults == {"out of order": 1}
        assert swapped.accounting.quarantined == straight.accounting.quarantined


def test_a_reconnection_voids_the_book_until_a_snapshot(tmp_path: Path) -> None:
    mark = line(6, {"gap": "reconnect"})
    again = snapshot(8, 100, levels(("61700.0", "1")), levels(("61700.1", "1")))
    ticker = futures_ticker(9, 101, ("61700.0", "1"), ("61700.1", "1"))
    lines = [*FUTURES, FIRST, mark, mark, futures_ticker(7, 99, ("61700.0", "1"), ("61700.1", "1")), again, ticker]
    account = read_captures([write(tmp_path / "a", *lines)]).accounting
    assert (account.faults, account.segments) == ({"reconnect": 1}, 2)
    assert account.quarantined == {"reconnect": 3}  # both marks, and the ticker without a book
