"""F34 to F40: faults injected into a real session are found, counted by their names, and confined.

Confined means: what lies before the fault is bit for bit what it is without it, and after the recovery the book is the
clean session's, message for message.
"""

from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from lobsmith.features.stream import FeatureStream
from lobsmith.market.book import apply, levels, new_book, touch
from lobsmith.market.events import ASK, BID, CLEAR, GAP, TICKER, Events, concatenate
from lobsmith.market.readers import open_captures, read_captures
from lobsmith.market.session import Accounting, Session, going_on
from lobsmith.market.venues.captures import line_batches
from lobsmith.params import FeatureParams
from tests.market import inject
from tests.market.inject import Injected

pytestmark = pytest.mark.recorded

AT = 40_000
"""The line, of 93,954, where the fault begins."""


class Read(NamedTuple):
    events: Events
    account: Accounting
    aside: pl.DataFrame


@pytest.fixture(scope="module")
def lines(recorded: Path) -> list[bytes]:
    path = recorded / "binance" / "usdm-btcusdt-20240808.gz"
    return [line for batch in line_batches(path) for line in batch]


@pytest.fixture(scope="module")
def clean(recorded: Path) -> Session:
    return read_captures([recorded / "binance" / "usdm-btcusdt-20240808.gz"])


def read(folder: Path, lines: list[bytes]) -> Read:
    path = folder / "capture"
    path.write_bytes(b"\n".join(lines) + b"\n")
    with (folder / "quarantine.csv").open("w") as listing:
        feed = open_captures([path], None, listing)
        events = concatenate([going_on(part) for part in feed])
        account = feed.accounting()
    assert account.records == len(lines) == account.kept + sum(account.set_aside.values())
    aside = pl.read_csv(folder / "quarantine.csv")
    assert aside.height == sum(account.set_aside.values())
    return Read(events, account, aside)


def set_aside(found: Read, reason: str) -> list[int]:
    """Numbers, from 0, of the lines that were set aside for a reason."""
    return sorted((found.aside.filter(pl.col("reason") == reason)["line"] - 1).to_list())


def books(events: Events) -> dict[int, tuple[object, ...]]:
    """Per accepted ticker, by its update id: the touch and five levels of each side."""
    book, found = new_book(), {}
    prices, sizes = np.zeros(5, np.int64), np.zeros(5)
    columns = (events.kind, events.side, events.price, events.size, events.sequence, events.flags)
    for event in zip(*(column.tolist() for column in columns), strict=True):
        if apply(book, *event) & 1:
            shown = [touch(book)]
            for side in (BID, ASK):
                count = levels(book, side, prices, sizes)
                shown.append((tuple(prices[:count].tolist()), tuple(sizes[:count].tolist())))
            found[event[4]] = tuple(shown)
    return found


def assert_confined(found: Read, clean: Session, begins: int, ends: int, segments: int) -> float:
    """Return the seconds for which there is no segment; `begins` and `ends` are local times of the clean session."""
    events = found.events
    before = int(np.searchsorted(clean.events.local_time, begins))
    for field in fields(events):
        np.testing.assert_array_equal(
            getattr(events, field.name)[:before], getattr(clean.events, field.name)[:before], err_msg=field.name
        )
    if segments > 1:
        assert np.count_nonzero(events.kind == GAP) == segments - 1
        assert np.count_nonzero(events.kind == CLEAR) == segments
    after = clean.events.slice(int(np.searchsorted(clean.events.local_time, ends)), len(clean.events))
    wanted = set(after.sequence[after.kind == TICKER].tolist())
    ours, theirs = books(events), books(clean.events)
    expected = {update: shown for update, shown in theirs.items() if update in wanted}
    assert len(expected) > 20_000
    assert {update: ours.get(update) for update in expected} == expected
    gaps = np.flatnonzero(events.kind == GAP)
    clears = np.flatnonzero(events.kind == CLEAR)[1:]
    return float(sum(events.local_time[clears] - events.local_time[gaps]) / 1e9)


def stamp(lines: list[bytes], n: int) -> int:
    return inject.local_time(lines[n])


def test_a_gap_ends_the_segment_until_a_snapshot(tmp_path: Path, lines: list[bytes], clean: Session) -> None:
    (first,) = inject.find(lines, inject.DEPTH, AT)
    mended = inject.with_snapshot(inject.gap(lines, AT, 3), lines, AT + 1000)
    found = read(tmp_path, mended.lines)
    assert found.account.faults == {"gap": 1}
    assert found.account.segments == 2
    lost = set_aside(found, "gap")
    assert lost
    assert all(first <= n < AT + 1000 for n in lost)
    # The break is seen at the next depth message; it is held for up to a second in case its predecessor comes.
    seconds = assert_confined(found, clean, stamp(lines, first), stamp(lines, AT + 1000), 2)
    assert seconds < 10


def test_a_gap_without_a_snapshot_loses_the_rest_and_says_so(tmp_path: Path, lines: list[bytes]) -> None:
    found = read(tmp_path, inject.gap(lines, AT).lines)
    assert found.account.faults == {"gap": 1}
    assert found.account.set_aside["gap"] > 30_000
    assert found.events.kind[-1] in (GAP, 3)


@pytest.mark.parametrize("stream", [inject.DEPTH, inject.TICKER, inject.TRADE])
def test_a_duplicate_costs_itself(tmp_path: Path, lines: list[bytes], clean: Session, stream: bytes) -> None:
    injected = inject.duplicate(lines, AT, stream)
    found = read(tmp_path, injected.lines)
    assert found.account.faults == {"duplicate": 1}
    assert set_aside(found, "duplicate") == injected.wrong
    for field in fields(found.events):
        np.testing.assert_array_equal(getattr(found.events, field.name), getattr(clean.events, field.name))


def test_swapped_depth_messages_are_put_back(tmp_path: Path, lines: list[bytes], clean: Session) -> None:
    injected = inject.reorder(lines, AT)
    found = read(tmp_path, injected.lines)
    assert found.account.faults == {"out of order": 1}
    assert found.account.set_aside == clean.accounting.set_aside
    assert_confined(found, clean, stamp(lines, injected.wrong[0]), stamp(lines, injected.wrong[1]) + 1, 1)


@pytest.mark.parametrize("stream", [inject.TICKER, inject.TRADE])
def test_a_late_message_is_set_aside(tmp_path: Path, lines: list[bytes], clean: Session, stream: bytes) -> None:
    injected = inject.reorder(lines, AT, stream)
    found = read(tmp_path, injected.lines)
    assert found.account.faults == {"out of order": 1}
    assert set_aside(found, "out of order") == injected.wrong[1:]
    assert_confined(found, clean, stamp(lines, injected.wrong[0]), stamp(lines, injected.wrong[1]) + 1, 1)


@pytest.mark.parametrize("locked", [False, True])
def test_a_crossed_ticker_is_set_aside(tmp_path: Path, lines: list[bytes], clean: Session, locked: bool) -> None:
    injected = inject.crossed(lines, AT, locked=locked)
    found = read(tmp_path, injected.lines)
    name = "locked" if locked else "crossed"
    assert found.account.faults == {name: 1}
    assert set_aside(found, name) == injected.wrong
    assert found.account.crossed == 1
    at = stamp(lines, injected.wrong[0])
    assert_confined(found, clean, at, at + 1, 1)


def test_a_ghost_level_that_crosses_the_book_ends_the_segment(
    tmp_path: Path, lines: list[bytes], clean: Session
) -> None:
    injected = inject.crossed_depth(lines, AT, "70000.00", AT + 2000)
    found = read(tmp_path, injected.lines)
    assert found.account.faults == {"crossed": 1}
    assert set_aside(found, "crossed") == injected.wrong
    seconds = assert_confined(
        found, clean, stamp(lines, injected.wrong[0]), stamp(lines, injected.wrong[-1] + 1) + 1, 2
    )
    assert seconds == pytest.approx((stamp(lines, injected.wrong[-1]) - stamp(lines, injected.wrong[0])) / 1e9, abs=0.2)


def test_an_outage_and_the_burst_after_it(tmp_path: Path, lines: list[bytes], clean: Session) -> None:
    injected = inject.stale(lines, AT, 4.0)
    found = read(tmp_path, injected.lines)
    assert found.account.faults == {"stale": 1}
    aside = set_aside(found, "stale")
    # What was held for less than a second of the four is late but not stale.
    assert aside[0] == injected.wrong[0]
    assert 0.5 * len(injected.wrong) < len(aside) <= len(injected.wrong)
    assert set(aside) <= set(injected.wrong)
    assert_confined(found, clean, stamp(lines, AT), stamp(injected.lines, injected.wrong[-1] + 200), 2)


def test_a_silence_ends_the_segment_and_costs_nothing(tmp_path: Path, lines: list[bytes], clean: Session) -> None:
    found = read(tmp_path, inject.silence(lines, AT, 30.0).lines)
    assert found.account.faults == {"stale": 1}
    assert found.account.set_aside == clean.accounting.set_aside
    assert_confined(found, clean, stamp(lines, AT), stamp(lines, AT) + 1, 2)


@pytest.mark.parametrize("seconds", [5.0, 0.5, -0.5, -5.0])
def test_a_step_of_the_clock_is_a_fault(tmp_path: Path, lines: list[bytes], clean: Session, seconds: float) -> None:
    found = read(tmp_path, inject.clock_step(lines, AT, seconds).lines)
    assert found.account.faults == {"clock step": 1}
    offset = found.account.clock_offset_ns - clean.accounting.clock_offset_ns
    assert offset / 1e9 == pytest.approx(seconds, abs=0.01)
    # Two seconds to settle, and a clock set back has to catch up first.
    late = stamp(lines, AT) + int((3 + max(0.0, -seconds)) * 1e9)
    if abs(seconds) > 1 or seconds < 0:
        aside = set_aside(found, "clock step")
        assert aside[0] == AT
        assert stamp(lines, aside[-1]) < late
    assert_confined(found, clean, stamp(lines, AT), late, 2)


@pytest.mark.parametrize("stream", [inject.DEPTH, inject.TICKER, inject.TRADE])
def test_a_message_from_the_future_is_set_aside(
    tmp_path: Path, lines: list[bytes], clean: Session, stream: bytes
) -> None:
    injected = inject.negative_latency(lines, AT, 10.0, stream)
    found = read(tmp_path, injected.lines)
    assert found.account.faults == {"negative latency": 1}
    assert set_aside(found, "negative latency") == injected.wrong
    at = stamp(lines, injected.wrong[0])
    assert_confined(found, clean, at, at + 10**8, 2)


def test_no_feature_or_label_crosses_a_fault(tmp_path: Path, lines: list[bytes], clean: Session) -> None:
    params = FeatureParams(
        normaliser_rows=200,
        normaliser_minimum=50,
        flow_decays_s=(0.03, 0.1, 0.3, 1.0),
        size_decay_s=60.0,
        volatility_short_s=1.0,
        volatility_long_s=30.0,
    )
    found = read(tmp_path, inject.clock_step(lines, AT, 5.0).lines)
    rows, whole = (FeatureStream(clean.instrument, params).push(events) for events in (found.events, clean.events))
    first = int(np.searchsorted(rows.segment, 1))
    np.testing.assert_array_equal(rows.raw[:first], whole.raw[:first])
    assert set(rows.segment.tolist()) == {0, 1}
    # The second segment begins like a first one: nothing is known of what came before it.
    assert not rows.complete[first : first + 49].any()
    assert rows.raw[first, 45] == rows.raw[0, 45] == 0.0  # return since the row before


def test_all_faults_in_one_session(tmp_path: Path, lines: list[bytes], clean: Session) -> None:
    mixed = inject.duplicate(lines, 20_000)
    mixed = Injected(inject.reorder(mixed.lines, 25_000).lines, [])
    mixed = Injected(inject.crossed(mixed.lines, 30_000).lines, [])
    mixed = Injected(inject.crossed(mixed.lines, 31_000, locked=True).lines, [])
    mixed = Injected(inject.negative_latency(mixed.lines, 35_000, 10.0).lines, [])
    mixed = Injected(inject.stale(mixed.lines, 45_000, 4.0).lines, [])
    mixed = Injected(inject.clock_step(mixed.lines, 60_000, 5.0).lines, [])
    found = read(tmp_path, mixed.lines)
    assert found.account.faults == {
        "clock step": 1,
        "crossed": 1,
        "duplicate": 1,
        "locked": 1,
        "negative latency": 1,
        "out of order": 1,
        "stale": 1,
    }
    assert found.account.segments == 4
    assert found.account.kept > 0.9 * clean.accounting.kept
