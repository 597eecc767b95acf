import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lobsmith.features.definitions import NAMES, ROLLING
from lobsmith.features.normaliser import CLIP
from lobsmith.features.stream import FeatureStream, Rows
from lobsmith.market.events import GAP, Events, concatenate
from lobsmith.market.readers import read_captures
from lobsmith.market.session import Session
from lobsmith.market.simulator import simulate
from lobsmith.params import FeatureParams
from tests.features import reference

PARAMS = FeatureParams(
    normaliser_rows=200,
    normaliser_minimum=50,
    flow_decays_s=(0.03, 0.1, 0.3, 1.0),
    size_decay_s=60.0,
    volatility_short_s=1.0,
    volatility_long_s=30.0,
)
SESSIONS = {
    "usdm": ["usdm-btcusdt-20240808.gz"],
    "over midnight": ["usdm-btcusdt-20240718.gz", "usdm-btcusdt-20240719.gz"],
    "spot": ["spot-btcusdt-20240808.gz", "spot-btcusdt-20240809.gz"],
    "eth": ["usdm-ethusdt-20240808.gz"],
}


def features(session: Session) -> Rows:
    return FeatureStream(session.instrument, PARAMS).push(session.events)


def same(a: Rows, b: Rows) -> None:
    for name in ("raw", "features", "time", "mid", "segment", "complete"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def join(parts: list[Rows]) -> Rows:
    names = ("raw", "features", "time", "mid", "segment", "complete")
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@pytest.fixture(scope="module")
def simulated() -> Session:
    return simulate(seed=3, seconds=30)


def compare_with_reference(session: Session, events: Events) -> None:
    rows = FeatureStream(session.instrument, PARAMS).push(events)
    expected = list(reference.rows(events, session.instrument.lot_size, PARAMS))
    assert rows.time.tolist() == [time for time, _ in expected]
    raw = np.array([vector for _, vector in expected])
    for column, name in enumerate(NAMES):
        np.testing.assert_allclose(rows.raw[:, column], raw[:, column], rtol=2e-5, atol=2e-5, err_msg=name)
    # From the kernel's own raw rows. A column whose deviation is 1e-5 of its mean is on the border of standing still,
    # where rounding decides: only there the two may differ.
    rolling = np.array(ROLLING)
    z, border = reference.z_scores(rows.raw, 200, CLIP)
    assert border.mean() < 0.05
    np.testing.assert_allclose(
        np.where(border, 0, rows.features)[:, rolling], np.where(border, 0, z)[:, rolling], atol=2e-3
    )
    np.testing.assert_array_equal(rows.features[:, ~rolling], rows.raw[:, ~rolling])


def test_equals_the_slow_reference_on_a_simulated_session(simulated: Session) -> None:
    compare_with_reference(simulated, simulated.events)


@pytest.mark.recorded
@pytest.mark.slow
@pytest.mark.parametrize("name", ["usdm", "spot"])
def test_equals_the_slow_reference_on_a_recorded_session(recorded: Path, name: str) -> None:
    session = read_captures([recorded / "binance" / file for file in SESSIONS[name]])
    bounds = session.events.message_bounds()
    compare_with_reference(session, session.events.slice(0, int(bounds[4000])))


def live(session: Session) -> Rows:
    """Feed a session message by message, as a live client does."""
    stream = FeatureStream(session.instrument, PARAMS)
    bounds = session.events.message_bounds().tolist()
    return join([stream.push(session.events.slice(a, b)) for a, b in itertools.pairwise(bounds)])


def test_message_by_message_gives_the_same_bits(simulated: Session) -> None:
    same(features(simulated), live(simulated))


@pytest.mark.recorded
@pytest.mark.parametrize("files", SESSIONS.values(), ids=SESSIONS)
def test_batch_equals_live_bit_for_bit_on_a_recorded_session(recorded: Path, files: list[str]) -> None:
    session = read_captures([recorded / "binance" / file for file in files])
    batch = features(session)
    assert len(batch) > 50_000
    assert np.isfinite(batch.raw).all()
    assert np.isfinite(batch.features).all()
    same(batch, live(session))


def test_rows_before_an_event_do_not_change_when_anything_after_it_changes(simulated: Session) -> None:
    events = simulated.events
    before = features(simulated)
    for cut in (len(events) // 3, len(events) - 500):
        cut = int(events.message_bounds()[np.searchsorted(events.message_bounds(), cut)])
        tail = events.slice(cut, len(events))
        other = replace(tail, size=tail.size * 3 + 1, price=tail.price + 7, local_time=tail.local_time + 1_000_000)
        after = features(replace(simulated, events=concatenate([events.slice(0, cut), other])))
        past = int((before.time < events.local_time[cut]).sum())
        assert past > 100
        same(before.slice(0, past), after.slice(0, past))
        assert not np.array_equal(before.raw[past : past + 50], after.raw[past : past + 50])


def test_a_gap_forgets_everything_before_it(simulated: Session) -> None:
    events = simulated.events
    gap = Events(*(np.zeros(1, column.dtype) for column in vars(events).values()))
    gap.kind[:] = GAP
    gap.flags[:] = 1
    gap.local_time[:] = events.local_time[-1]
    twice = replace(simulated, events=concatenate([events, gap, events]))
    once, both = features(simulated), features(twice)
    count = len(once)
    assert set(both.segment[count:]) == {1}
    np.testing.assert_array_equal(both.features[count:], once.features)
    np.testing.assert_array_equal(both.raw[count:], once.raw)
    assert not both.complete[count]


def test_rows_are_complete_once_the_window_holds_enough(simulated: Session) -> None:
    rows = features(simulated)
    assert rows.complete.tolist() == [n >= PARAMS.normaliser_minimum for n in range(1, len(rows) + 1)]
