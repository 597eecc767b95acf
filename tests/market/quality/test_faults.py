"""Each fault, injected into a simulated session, is found where it is; on a real one: `tests/faults/test_feed.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from lobsmith.errors import DataError
from lobsmith.market.readers import open_captures
from lobsmith.market.session import Accounting
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import raw_lines
from tests.market import inject
from tests.market.inject import DEPTH, TICKER, TRADE, Injected

AT = 3_000


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return list(raw_lines(simulate(seed=11, seconds=120)))


class Read(NamedTuple):
    account: Accounting
    aside: list[tuple[int, str]]


def read(folder: Path, lines: list[bytes]) -> Read:
    (folder / "capture").write_bytes(b"\n".join(lines) + b"\n")
    with (folder / "quarantine.csv").open("w") as listing:
        feed = open_captures([folder / "capture"], None, listing)
        for _ in feed:
            pass
        account = feed.accounting()
    assert account.records == len(lines) == account.kept + sum(account.set_aside.values())
    table = pl.read_csv(folder / "quarantine.csv", schema_overrides={"line": pl.Int64})
    return Read(account, sorted(zip((table["line"] - 1).to_list(), table["reason"].to_list(), strict=True)))


Inject = Callable[[list[bytes]], Injected]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lambda lines: inject.duplicate(lines, AT, DEPTH), "duplicate"),
        (lambda lines: inject.duplicate(lines, AT, TICKER), "duplicate"),
        (lambda lines: inject.duplicate(lines, AT, TRADE), "duplicate"),
        (lambda lines: inject.crossed(lines, AT), "crossed"),
        (lambda lines: inject.crossed(lines, AT, locked=True), "locked"),
        (lambda lines: inject.crossed_depth(lines, AT, "70000.00", AT + 500), "crossed"),
        (lambda lines: inject.negative_latency(lines, AT, 10.0, DEPTH), "negative latency"),
        (lambda lines: inject.negative_latency(lines, AT, 10.0, TICKER), "negative latency"),
        (lambda lines: inject.negative_latency(lines, AT, 10.0, TRADE), "negative latency"),
    ],
)
def test_what_is_wrong_is_set_aside_and_nothing_else(
    tmp_path: Path, lines: list[bytes], fault: Inject, name: str
) -> None:
    injected = fault(lines)
    found = read(tmp_path, injected.lines)
    assert found.account.faults == {name: 1}
    assert found.aside == [(line, name) for line in injected.wrong]


def test_a_gap_lasts_until_the_snapshot(tmp_path: Path, lines: list[bytes]) -> None:
    mended = inject.with_snapshot(inject.gap(lines, AT, 3), lines, AT + 500)
    (first,) = inject.find(lines, DEPTH, AT)
    found = read(tmp_path, mended.lines)
    assert (found.account.faults, found.account.segments) == ({"gap": 1}, 2)
    # Differences are kept for the snapshot, which is newer than they; the tickers before the first one that does not
    # fit cannot be known to be wrong.
    known, _ = found.aside[0]
    assert first <= known < first + 20
    tickers = [line for line, reason in found.aside if reason == "gap"]
    assert tickers == [n for n in range(known, AT + 497) if TICKER in mended.lines[n][:80]]
    depth = [line for line, reason in found.aside if reason != "gap"]
    assert all(DEPTH in mended.lines[n][:80] and n < AT + 497 for n in depth)


def test_swapped_messages_are_put_back_or_set_aside(tmp_path: Path, lines: list[bytes]) -> None:
    depth = read(tmp_path, inject.reorder(lines, AT).lines)
    assert (depth.account.faults, depth.aside) == ({"out of order": 1}, [])
    for stream in (TICKER, TRADE):
        injected = inject.reorder(lines, AT, stream)
        found = read(tmp_path, injected.lines)
        assert found.account.faults == {"out of order": 1}
        assert found.aside == [(injected.wrong[1], "out of order")]


def test_a_burst_after_an_outage_is_stale(tmp_path: Path, lines: list[bytes]) -> None:
    injected = inject.stale(lines, AT, 4.0)
    found = read(tmp_path, injected.lines)
    assert (found.account.faults, found.account.segments) == ({"stale": 1}, 2)
    aside = [line for line, _ in found.aside]
    assert aside[0] == injected.wrong[0]
    assert set(aside) <= set(injected.wrong)
    assert len(aside) > 0.5 * len(injected.wrong)


def test_a_silence_costs_nothing(tmp_path: Path, lines: list[bytes]) -> None:
    found = read(tmp_path, inject.silence(lines, AT, 30.0).lines)
    assert (found.account.faults, found.account.segments, found.aside) == ({"stale": 1}, 2, [])


@pytest.mark.parametrize("seconds", [5.0, -5.0])
def test_a_step_of_the_clock_is_measured(tmp_path: Path, lines: list[bytes], seconds: float) -> None:
    found = read(tmp_path, inject.clock_step(lines, AT, seconds).lines)
    assert (found.account.faults, found.account.segments) == ({"clock step": 1}, 2)
    assert found.account.clock_offset_ns / 1e9 == pytest.approx(seconds, abs=0.01)
    assert found.aside[0] == (AT, "clock step")


def test_lines_are_edited_only_where_the_fault_is(lines: list[bytes]) -> None:
    for injected in (
        inject.crossed(lines, AT),
        inject.negative_latency(lines, AT, 1.0),
        inject.reorder(lines, AT),
        inject.stale(lines, AT, 1.0),
    ):
        assert len(injected.lines) == len(lines)
        changed = {n for n, (old, new) in enumerate(zip(lines, injected.lines, strict=True)) if old != new}
        assert changed == set(injected.wrong)


def test_a_stream_that_is_not_there_is_an_error(lines: list[bytes]) -> None:
    with pytest.raises(DataError, match="fewer than 1 lines of @trade"):
        inject.duplicate([line for line in lines if TRADE not in line[:80]], 0, TRADE)
