"""A retrain must refuse a broken feed, and must not take a market that has changed for one."""

import numpy as np
import pytest

from lobsmith.drift.reference import RawRows
from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.gates.feed import feed_verdict

LOTS = [place for place, name in enumerate(NAMES) if "_size_" in name]


def rows(seed: int, count: int = 2000, shift: float = 0.0) -> RawRows:
    raw = np.random.default_rng(seed).normal(shift, 1.0, (count, COUNT)).astype(np.float32)
    return RawRows(np.arange(count) * 500_000_000, np.zeros(count, np.int64), raw)


def changed(old: RawRows, columns: list[int], by) -> RawRows:
    raw = old.raw.copy()
    raw[:, columns] = by(raw[:, columns])
    return RawRows(old.time_ns, old.segment, raw)


def test_the_same_feed_passes_and_so_does_a_market_that_has_moved():
    known = rows(1)
    assert feed_verdict(known, rows(2, 300), limit=0.2).value == 0
    moved = feed_verdict(known, rows(3, 300, shift=1.5), limit=0.2)
    assert moved.passed
    assert moved.value == 0


@pytest.mark.parametrize(
    ("columns", "by", "where"),
    [
        (LOTS, lambda raw: raw + np.float32(np.log(1000)), "beyond"),
        (list(range(20)), lambda raw: np.full_like(raw, 0.5), "frozen"),
        (list(range(20)), lambda raw: np.full_like(raw, 50), "frozen"),
    ],
    ids=["sizes a thousand times too large", "a book that stands still", "stuck at a number that never was"],
)
def test_a_broken_feed_is_refused_with_the_features(columns, by, where):
    verdict = feed_verdict(rows(1), changed(rows(2, 300), columns, by), limit=0.2)
    assert not verdict.passed
    assert verdict.evidence[where] == [NAMES[place] for place in columns]
    assert verdict.value == pytest.approx(len(columns) / COUNT)


def test_what_never_moved_may_stand_still():
    def still(seed: int) -> RawRows:
        return changed(rows(seed), LOTS, lambda raw: np.full_like(raw, 0.1))

    verdict = feed_verdict(still(1), still(2), limit=0.0)
    assert verdict.passed, verdict.evidence


def test_the_price_is_no_fault_of_a_feed():
    """One tick is another share of another price: a feature of one value moves as a whole."""
    known = changed(rows(1), LOTS, lambda raw: np.full_like(raw, 10.0) + np.float32(0.001) * raw)
    new = changed(rows(2), LOTS, lambda raw: np.full_like(raw, 10.3))
    assert feed_verdict(known, new, limit=0.0).evidence["beyond"] == []
