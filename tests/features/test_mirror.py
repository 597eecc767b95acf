"""A mirrored market: `definitions.mirror` against the kernel's features of the mirrored events."""

from dataclasses import fields, replace

import numpy as np
import pytest

from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.features.definitions import COUNT, NAMES, mirror
from lobsmith.features.labels import UNKNOWN
from lobsmith.market.events import BID, CLEAR, END, GAP, LEVEL, Events
from lobsmith.market.session import Session
from lobsmith.market.simulator import simulate
from lobsmith.params import Params
from tests.small import small_params

SIGNED = ("imbalance", "microprice", "mid_return", "size_ratio", "last_move", "last_trade", "flow", "trade_flow")


@pytest.fixture(scope="module")
def params() -> Params:
    # Between two and three half ticks: no rounding decides whether a move is significant.
    return small_params(**{"labels.significant_bps": 0.021, "labels.withdrawal": 0.0501})


@pytest.fixture(scope="module")
def session() -> Session:
    """A session whose book has holes, others for bids than for asks: the simulator's own has none."""
    whole = simulate(seed=3, seconds=60)
    events = whole.events
    hole = np.where(events.side == BID, events.price % 5 == 2, events.price % 7 == 3)
    kept = ~(hole & (events.kind == LEVEL) & (events.flags & END == 0))
    return replace(whole, events=Events(*(getattr(events, field.name)[kept] for field in fields(events))))


@pytest.fixture(scope="module")
def upright(session: Session, params: Params) -> Dataset:
    return build_dataset(session, params)


@pytest.fixture(scope="module")
def upside_down(session: Session, params: Params) -> Dataset:
    return build_dataset(replace(session, events=reflected(session.events)), params)


def reflected(events: Events) -> Events:
    """Exchange bids and asks, bought and sold, and mirror all prices at the first one."""
    priced = ~np.isin(events.kind, (CLEAR, GAP))
    twice = 2 * int(events.price[priced][0])
    price = np.where(priced, twice - events.price, events.price)
    return replace(events, side=-events.side, price=price)


def through_mirror(rows: np.ndarray) -> np.ndarray:
    source, sign = mirror()
    return rows[:, source] * np.asarray(sign, np.float32)


def test_mirroring_twice_gives_the_original() -> None:
    source, sign = (np.asarray(part) for part in mirror())
    assert sorted(source.tolist()) == list(range(COUNT))
    assert set(sign.tolist()) == {-1.0, 1.0}
    np.testing.assert_array_equal(source[source], np.arange(COUNT))
    np.testing.assert_array_equal(sign[source] * sign, 1.0)


def test_sides_are_exchanged_and_signs_turned_by_name() -> None:
    source, sign = mirror()
    assert NAMES[source[NAMES.index("bid_size_3")]] == "ask_size_3"
    assert NAMES[source[NAMES.index("ask_slope")]] == "bid_slope"
    assert NAMES[source[NAMES.index("spread")]] == "spread"
    turned = {name for name, direction in zip(NAMES, sign, strict=True) if direction < 0}
    assert {"imbalance_1", "flow_now", "trade_flow_4", "mid_return", "last_trade_pull"} <= turned
    assert not turned & {"spread", "trade_rate_1", "last_move_age", "volatility_burst", "bid_size_1"}


@pytest.mark.parametrize(("columns", "smallest"), [("raw", 2e-5), ("features", 1e-3)])
def test_the_kernel_sees_the_mirrored_market_as_the_mirror_says(
    upright: Dataset, upside_down: Dataset, columns: str, smallest: float
) -> None:
    np.testing.assert_array_equal(upside_down.rows.time, upright.rows.time)
    np.testing.assert_array_equal(upside_down.rows.complete, upright.rows.complete)
    expected, got = through_mirror(getattr(upright.rows, columns)), getattr(upside_down.rows, columns)
    for column, name in enumerate(NAMES):
        # Basis points are of another price: the fourth digit may differ.
        np.testing.assert_allclose(got[:, column], expected[:, column], rtol=1e-3, atol=smallest, err_msg=name)


def test_every_column_has_something_to_exchange(upright: Dataset) -> None:
    # Where a signed column was zero or both sides the same, the test above would prove nothing.
    source, sign = mirror()
    raw = upright.rows.raw
    for column, name in enumerate(NAMES):
        if sign[column] < 0:
            assert name.startswith(SIGNED)
            assert np.abs(raw[:, column]).max() > 5e-3, name
        elif source[column] != column and not name.endswith("_distance_1"):  # the mid is half-way between the two
            assert np.abs(raw[:, column] - raw[:, source[column]]).max() > 5e-3, name


def test_labels_are_mirrored(upright: Dataset, upside_down: Dataset) -> None:
    known = upright.labels != UNKNOWN
    np.testing.assert_array_equal(upside_down.labels, np.where(known, 2 - upright.labels, UNKNOWN))
    before, after = upright.targets, upside_down.targets
    np.testing.assert_array_equal(after.significant, before.significant)
    np.testing.assert_array_equal(after.withdrawal, before.withdrawal[:, :, ::-1])
    np.testing.assert_allclose(after.move, -before.move, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(after.volatility, before.volatility, rtol=1e-3, atol=1e-5)
    assert (before.significant == 1).any()
    assert (before.withdrawal[:, :, 0] != before.withdrawal[:, :, 1]).any()
    assert np.nanmax(np.abs(before.move)) > 0.01
