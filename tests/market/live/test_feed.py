"""Lines that come one after another give what the whole file gives, and a bad one costs no more than its segment."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lobsmith.features.dataset import build_dataset
from lobsmith.features.stream import FeatureStream, Rows
from lobsmith.market.events import DTYPES, GAP, concatenate
from lobsmith.market.instrument import SIMULATED
from lobsmith.market.live.feed import LiveFeed
from lobsmith.market.readers import read_captures
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import raw_lines
from tests.market import inject
from tests.small import small_params

PARAMS = small_params()
AT = 1200


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return list(raw_lines(simulate(seed=3, seconds=60)))


def texts(lines: list[bytes], seed: int) -> list[bytes]:
    """Cut lines at random: some alone, many of them together."""
    cuts = np.cumsum(np.random.default_rng(seed).geometric(0.05, size=len(lines)))
    bounds = [0, *cuts[cuts < len(lines)].tolist(), len(lines)]
    return [b"".join(line + b"\n" for line in lines[a:b]) for a, b in pairwise(bounds) if a < b]


def broken(lines: list[bytes]) -> list[bytes]:
    """Lines with every fault that a feed can have, and a snapshot after those that need one."""
    out = inject.duplicate(lines, AT).lines
    out = inject.reorder(out, AT + 200).lines
    out = inject.crossed(out, AT + 400).lines
    out = inject.stale(out, AT + 600, 2.0).lines
    return inject.with_snapshot(inject.gap(out, AT + 900), out, AT + 1000).lines


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_of_a_feed_are_those_of_the_captured_file_to_the_last_bit(tmp_path: Path, lines, seed: int) -> None:
    lines = broken(lines)
    path = tmp_path / "usdm-sim.txt"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    whole = read_captures([path])
    assert len(whole.accounting.faults) >= 5
    feed, features = LiveFeed("sim", SIMULATED, PARAMS.data.screen), FeatureStream(SIMULATED, PARAMS.features)
    events = [feed.push(text) for text in texts(lines, seed)]
    rows = Rows.concatenate([features.push(part) for part in events])
    together = concatenate(events)
    for name in DTYPES:
        np.testing.assert_array_equal(getattr(together, name), getattr(whole.events, name), err_msg=name)
    batch = build_dataset(whole, PARAMS).rows
    for name in ("raw", "features", "time", "mid", "segment", "complete"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(batch, name), err_msg=name)
    assert (feed.faults, len(np.unique(rows.segment)) > 2) == (0, True)


@pytest.mark.parametrize("bad", [b"not a line", b'1704067200000000000 {"stream":"sim@trade","data":{"e":"tra'])
def test_a_line_that_cannot_be_read_ends_its_segment_and_the_next_snapshot_begins_one(lines, bad: bytes) -> None:
    feed = LiveFeed("sim", SIMULATED, PARAMS.data.screen)
    snapshot = inject.snapshot(lines, AT + 500)
    fed = [*lines[:AT], bad, *lines[AT : AT + 500], snapshot, *lines[AT + 500 :]]
    parts = [feed.push(line + b"\n") for line in fed]
    kinds = [part.kind for part in parts]
    assert (feed.faults, "sim:" in feed.fault) == (1, True)
    assert kinds[AT].tolist() == [GAP]
    # Trades need no book.
    assert not any(
        len(part)
        for part, line in zip(parts[AT + 1 : AT + 400], fed[AT + 1 :], strict=False)
        if b"@trade" not in line[:60]
    )
    undisturbed = LiveFeed("sim", SIMULATED, PARAMS.data.screen).push(b"".join(line + b"\n" for line in lines))
    after = concatenate(parts[AT + 500 :])
    np.testing.assert_array_equal(after.price[-1000:], undisturbed.price[-1000:])
