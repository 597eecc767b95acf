"""F34 to F40: faults injected into a session are found, counted by their names, and confined.

Confined means: what lies before the fault is bit for bit what it is without it, and after the recovery the book is the
clean session's, message for message.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from lobsmith.errors import DataError
from lobsmith.features.stream import FeatureStream
from lobsmith.market.book import apply, levels, new_book, touch
from lobsmith.market.events import ASK, BID, CLEAR, GAP, Events, concatenate
from lobsmith.market.events import TICKER as TICKER_EVENT
from lobsmith.market.instrument import Instrument
from lobsmith.market.readers import open_captures
from lobsmith.market.session import Accounting, without_restated
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import raw_lines
from lobsmith.market.venues.captures import line_batches
from lobsmith.params import FeatureParams
from tests.market import inject
from tests.market.inject import DEPTH, TICKER, TRADE, Injected


class Read(NamedTuple):
    """What a capture is read as; quarantined lines by their number, from 0, and the reason."""

    instrument: Instrument
    events: Events
    account: Accounting
    quarantined: list[tuple[int, str]]

    def quarantined_lines(self, reason: str) -> list[int]:
        return [line for line, cause in self.quarantined if cause == reason]


class Place(NamedTuple):
    """Where faults are injected into a session, how long they last, and how much of it must be left, in lines."""

    at: int
    gap_seen_within: int
    snapshot_after: int
    ghost_for: int
    lost_tickers: int
    tickers_after: int


PLACES = {
    "simulated": Place(
        at=3_000, gap_seen_within=20, snapshot_after=500, ghost_for=500, lost_tickers=2_000, tickers_after=1_000
    ),
    # Of 93,954 lines.
    "recorded": Place(
        at=40_000, gap_seen_within=300, snapshot_after=1000, ghost_for=2000, lost_tickers=30_000, tickers_after=20_000
    ),
}


@pytest.fixture(
    scope="module", params=["simulated", pytest.param("recorded", marks=[pytest.mark.recorded, pytest.mark.slow])]
)
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lines(request: pytest.FixtureRequest, source: str) -> list[bytes]:
    if source == "simulated":
        return list(raw_lines(simulate(seed=11, seconds=120)))
    path = request.getfixturevalue("recorded") / "binance" / "usdm-btcusdt-20240808.gz"
    return [line for batch in line_batches(path) for line in batch]


@pytest.fixture(scope="module")
def place(source: str) -> Place:
    return PLACES[source]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> Read:
    return read(tmp_path_factory.mktemp("clean"), lines)


def read(folder: Path, lines: list[bytes]) -> Read:
    path = folder / "capture"
    path.write_bytes(b"\n".join(lines) + b"\n")
    with (folder / "quarantine.csv").open("w") as listing:
        feed = open_captures([path], None, listing)
        events = concatenate([without_restated(part) for part in feed])
        account = feed.accounting()
    assert account.records == len(lines) == account.kept + sum(account.quarantined.values())
    table = pl.read_csv(folder / "quarantine.csv", schema_overrides={"line": pl.Int64})
    assert table.height == sum(account.quarantined.values())
    quarantined = sorted(zip((table["line"] - 1).to_list(), table["reason"].to_list(), strict=True))
    return Read(feed.instrument, events, account, quarantined)


def books(events: Events) -> dict[int, tuple[object, ...]]:
    """Per accepted ticker, by its update id: the touch and five levels of each side."""
    book, books_by_update = new_book(), {}
    prices, sizes = np.zeros(5, np.int64), np.zeros(5)
    columns = (events.kind, events.side, events.price, events.size, events.sequence, events.flags)
    for event in zip(*(column.tolist() for column in columns), strict=True):
        if apply(book, *event) & 1:
            shown = [touch(book)]
            for side in (BID, ASK):
                count = levels(book, side, prices, sizes)
                shown.append((tuple(prices[:count].tolist()), tuple(sizes[:count].tolist())))
            books_by_update[event[4]] = tuple(shown)
    return books_by_update


Confined = Callable[[Read, int, int, int], float]


@pytest.fixture(scope="module")
def assert_confined(clean: Read, place: Place) -> Confined:
    clean_books = books(clean.events)

    def check(faulty: Read, begins: int, ends: int, segments: int) -> float:
        """Return the seconds for which there is no segment; both times are local ones of the clean session."""
        events = faulty.events
        before = int(np.searchsorted(clean.events.local_time, begins))
        for field in fields(events):
            np.testing.assert_array_equal(
                getattr(events, field.name)[:before], getattr(clean.events, field.name)[:before], err_msg=field.name
            )
        assert faulty.account.segments == segments
        if segments > 1:
            assert np.count_nonzero(events.kind == GAP) == segments - 1
            assert np.count_nonzero(events.kind == CLEAR) == segments
        after = clean.events.slice(int(np.searchsorted(clean.events.local_time, ends)), len(clean.events))
        after_the_fault = set(after.sequence[after.kind == TICKER_EVENT].tolist())
        faulty_books = books(events)
        expected = {update: shown for update, shown in clean_books.items() if update in after_the_fault}
        assert len(expected) > place.tickers_after
        assert {update: faulty_books.get(update) for update in expected} == expected
        gaps = np.flatnonzero(events.kind == GAP)
        clears = np.flatnonzero(events.kind == CLEAR)[1:]
        return float(sum(events.local_time[clears] - events.local_time[gaps]) / 1e9)

    return check


def assert_quarantined(faulty: Read, clean: Read, reason: str, wrong: list[int]) -> None:
    """These lines are quarantined, and nothing else that the clean session keeps."""
    assert faulty.quarantined_lines(reason) == wrong
    assert Counter(faulty.account.quarantined) == Counter(clean.account.quarantined) + Counter({reason: len(wrong)})


def stamp(lines: list[bytes], n: int) -> int:
    return inject.local_time(lines[n])


@pytest.mark.parametrize("source", ["simulated"], indirect=True)
def test_without_a_fault_nothing_is_quarantined(clean: Read) -> None:
    assert (clean.account.faults, clean.account.segments, clean.quarantined) == ({}, 1, [])
    assert clean.account.clock_offset_ns / 1e9 == pytest.approx(0, abs=0.01)


def test_a_gap_ends_the_segment_until_a_snapshot(
    tmp_path: Path, lines: list[bytes], place: Place, assert_confined: Confined
) -> None:
    (first,) = inject.find(lines, DEPTH, place.at)
    mends = place.at + place.snapshot_after
    mended = inject.with_snapshot(inject.gap(lines, place.at, 3), lines, mends)
    faulty = read(tmp_path, mended.lines)
    assert faulty.account.faults == {"gap": 1}
    # Differences are kept for the snapshot, which is newer than they; the tickers before the first one that does not
    # fit cannot be known to be wrong.
    lost = faulty.quarantined_lines("gap")
    assert first <= lost[0] < first + place.gap_seen_within
    assert lost == [n for n in range(lost[0], mends - 3) if TICKER in mended.lines[n][:80]]
    others = [n for n, reason in faulty.quarantined if reason != "gap" and n >= first]
    assert all(DEPTH in mended.lines[n][:80] and n < mends - 3 for n in others)
    # The break is seen at the next depth message; it is held for up to a second in case its predecessor comes.
    assert assert_confined(faulty, stamp(lines, first), stamp(lines, mends), 2) < 10


def test_a_gap_without_a_snapshot_loses_the_rest_and_says_so(tmp_path: Path, lines: list[bytes], place: Place) -> None:
    faulty = read(tmp_path, inject.gap(lines, place.at).lines)
    assert faulty.account.faults == {"gap": 1}
    assert faulty.account.quarantined["gap"] > place.lost_tickers
    assert faulty.events.kind[-1] in (GAP, 3)


@pytest.mark.parametrize("stream", [DEPTH, TICKER, TRADE])
def test_a_duplicate_costs_itself(tmp_path: Path, lines: list[bytes], clean: Read, place: Place, stream: bytes) -> None:
    injected = inject.duplicate(lines, place.at, stream)
    faulty = read(tmp_path, injected.lines)
    assert faulty.account.faults == {"duplicate": 1}
    assert_quarantined(faulty, clean, "duplicate", injected.wrong)
    for field in fields(faulty.events):
        np.testing.assert_array_equal(getattr(faulty.events, field.name), getattr(clean.events, field.name))


def test_swapped_depth_messages_are_put_back(
    tmp_path: Path, lines: list[bytes], clean: Read, place: Place, assert_confined: Confined
) -> None:
    injected = inject.reorder(lines, place.at)
    faulty = read(tmp_path, injected.lines)
    assert faulty.account.faults == {"out of order": 1}
    assert faulty.account.quarantined == clean.account.quarantined
    assert_confined(faulty, stamp(lines, injected.wrong[0]), stamp(lines, injected.wrong[1]) + 1, 1)


@pytest.mark.parametrize("stream", [TICKER, TRADE])
def test_a_late_message_is_quarantined(
    tmp_path: Path, lines: list[bytes], clean: Read, place: Place, assert_confined: Confined, stream: bytes
) -> None:
    injected = inject.reorder(lines, place.at, stream)
    faulty = read(tmp_path, injected.lines)
    assert faulty.account.faults == {"out of order": 1}
    assert_quarantined(faulty, clean, "out of order", injected.wrong[1:])
    assert_confined(faulty, stamp(lines, injected.wrong[0]), stamp(lines, injected.wrong[1]) + 1, 1)


@pytest.mark.parametrize("locked", [False, True])
def test_a_crossed_ticker_is_quarantined(
    tmp_path: Path, lines: list[bytes], clean: Read, place: Place, assert_confined: Confined, locked: bool
) -> None:
    injected = inject.crossed(lines, place.at, locked=locked)
    faulty = read(tmp_path, injected.lines)
    name = "locked" if locked else "crossed"
    assert faulty.account.faults == {name: 1}
    assert_quarantined(faulty, clean, name, injected.wrong)
    assert faulty.account.crossed == 1
    at = stamp(lines, injected.wrong[0])
    assert_confined(faulty, at, at + 1, 1)


def test_a_ghost_level_that_crosses_the_book_ends_the_segment(
    tmp_path: Path, lines: list[bytes], clean: Read, place: Place, assert_confined: Confined
) -> None:
    injected = inject.crossed_depth(lines, place.at, "70000.00", place.at + place.ghost_for)
    faulty = read(tmp_path, injected.lines)
    assert faulty.account.faults == {"crossed": 1}
    assert_quarantined(faulty, clean, "crossed", injected.wrong)
    begins, last, ends = (stamp(lines, n) for n in (injected.wrong[0], injected.wrong[-1], injected.wrong[-1] + 1))
    assert assert_confined(faulty, begins, ends + 1, 2) == pytest.approx((last - begins) / 1e9, abs=0.2)


def test_an_outage_and_the_burst_after_it(
    tmp_path: Path, lines: list[bytes], clean: Read, place: Place, assert_confined: Confined
) -> None:
    injected = inject.stale(lines, place.at, 4.0)
    faulty = read(tmp_path, injected.lines)
    assert faulty.account.faults == {"stale": 1}
    quarantined = faulty.quarantined_lines("stale")
    assert_quarantined(faulty, clean, "stale", quarantined)
    # What was held for less than a second of the four is late but not stale.
    assert quarantined[0] == injected.wrong[0]
    assert 0.5 * len(injected.wrong) < len(quarantined) <= len(injected.wrong)
    assert set(quarantined) <= set(injected.wrong)
    assert_confined(faulty, stamp(lines, place.at), stamp(injected.lines, injected.wrong[-1] + 200), 2)


def test_a_silence_ends_the_segment_and_costs_nothing(
    tmp_path: Path, lines: list[bytes], clean: Read, place: Place, assert_confined: Confined
) -> None:
    faulty = read(tmp_path, inject.silence(lines, place.at, 30.0).lines)
    assert faulty.account.faults == {"stale": 1}
    assert faulty.account.quarantined == clean.account.quarantined
    assert_confined(faulty, stamp(lines, place.at), stamp(lines, place.at) + 1, 2)


@pytest.mark.parametrize("seconds", [5.0, 0.5, -0.5, -5.0])
def test_a_step_of_the_clock_is_a_fault(
    tmp_path: Path, lines: list[bytes], clean: Read, place: Place, assert_confined: Confined, seconds: float
) -> None:
    faulty = read(tmp_path, inject.clock_step(lines, place.at, seconds).lines)
    assert faulty.account.faults == {"clock step": 1}
    offset = faulty.account.clock_offset_ns - clean.account.clock_offset_ns
    assert offset / 1e9 == pytest.approx(seconds, abs=0.01)
    # Two seconds of `clock_settle_ms`, and a clock set back has to catch up first.
    late = stamp(lines, place.at) + int((3 + max(0.0, -seconds)) * 1e9)
    if abs(seconds) > 1 or seconds < 0:
        quarantined = faulty.quarantined_lines("clock step")
        assert quarantined[0] == place.at
        assert stamp(lines, quarantined[-1]) < late
    assert_confined(faulty, stamp(lines, place.at), late, 2)


@pytest.mark.parametrize("stream", [DEPTH, TICKER, TRADE])
def test_a_message_from_the_future_is_quarantined(
    tmp_path: Path, lines: list[bytes], clean: Read, place: Place, assert_confined: Confined, stream: bytes
) -> None:
    injected = inject.negative_latency(lines, place.at, 10.0, stream)
    faulty = read(tmp_path, injected.lines)
    assert faulty.account.faults == {"negative latency": 1}
    assert_quarantined(faulty, clean, "negative latency", injected.wrong)
    at = stamp(lines, injected.wrong[0])
    assert_confined(faulty, at, at + 10**8, 2)


def test_no_feature_or_label_crosses_a_fault(tmp_path: Path, lines: list[bytes], clean: Read, place: Place) -> None:
    params = FeatureParams(
        normaliser_rows=200,
        normaliser_minimum=50,
        flow_decays_s=(0.03, 0.1, 0.3, 1.0),
        size_decay_s=60.0,
        volatility_short_s=1.0,
        volatility_long_s=30.0,
    )
    faulty = read(tmp_path, inject.clock_step(lines, place.at, 5.0).lines)
    rows, whole = (FeatureStream(clean.instrument, params).push(capture.events) for capture in (faulty, clean))
    first = int(np.searchsorted(rows.segment, 1))
    np.testing.assert_array_equal(rows.raw[:first], whole.raw[:first])
    assert set(rows.segment.tolist()) == {0, 1}
    # The second segment begins like a first one: nothing is known of what came before it.
    assert not rows.complete[first : first + 49].any()
    assert rows.raw[first, 45] == rows.raw[0, 45] == 0.0  # return since the row before


def test_all_faults_in_one_session(tmp_path: Path, lines: list[bytes], clean: Read, place: Place) -> None:
    def at(share: float) -> int:
        return round(share * place.at)

    mixed = inject.duplicate(lines, at(0.5))
    mixed = Injected(inject.reorder(mixed.lines, at(0.625)).lines, [])
    mixed = Injected(inject.crossed(mixed.lines, at(0.75)).lines, [])
    mixed = Injected(inject.crossed(mixed.lines, at(0.775), locked=True).lines, [])
    mixed = Injected(inject.negative_latency(mixed.lines, at(0.875), 10.0).lines, [])
    mixed = Injected(inject.stale(mixed.lines, at(1.125), 4.0).lines, [])
    mixed = Injected(inject.clock_step(mixed.lines, at(1.5), 5.0).lines, [])
    faulty = read(tmp_path, mixed.lines)
    assert faulty.account.faults == {
        "clock step": 1,
        "crossed": 1,
        "duplicate": 1,
        "locked": 1,
        "negative latency": 1,
        "out of order": 1,
        "stale": 1,
    }
    assert faulty.account.segments == 4
    assert faulty.account.kept > 0.9 * clean.account.kept


@pytest.mark.parametrize("source", ["simulated"], indirect=True)
def test_lines_are_edited_only_where_the_fault_is(lines: list[bytes], place: Place) -> None:
    for injected in (
        inject.crossed(lines, place.at),
        inject.negative_latency(lines, place.at, 1.0),
        inject.reorder(lines, place.at),
        inject.stale(lines, place.at, 1.0),
    ):
        assert len(injected.lines) == len(lines)
        changed = {n for n, (old, new) in enumerate(zip(lines, injected.lines, strict=True)) if old != new}
        assert changed == set(injected.wrong)


@pytest.mark.parametrize("source", ["simulated"], indirect=True)
def test_a_stream_that_is_not_there_is_an_error(lines: list[bytes]) -> None:
    with pytest.raises(DataError, match="fewer than 1 lines of @trade"):
        inject.duplicate([line for line in lines if TRADE not in line[:80]], 0, TRADE)
