from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lobsmith.drift import REFERENCE
from lobsmith.drift.reference import (
    RawRows,
    Reference,
    fit_scaling,
    freeze,
    load_reference,
    save_reference,
    thinned,
)
from lobsmith.errors import DataError
from lobsmith.features.definitions import COUNT, NAMES
from lobsmith.features.stream import FeatureStream
from lobsmith.market.instrument import Instrument
from lobsmith.market.simulator import INSTRUMENT, Market
from tests.drift.drifting import EVERY_MS, noise, reference, reference_of, simulated
from tests.small import small_params

DRIFT = small_params().drift
OTHER = Instrument(venue="simulator", symbol="OTHER", tick_size=0.1, lot_size=0.001)


def equal(left: Reference, right: Reference) -> None:
    assert (list(left.rows), left.every_ms) == (list(right.rows), right.every_ms)
    for name, rows in left.rows.items():
        for column, array in vars(rows).items():
            np.testing.assert_array_equal(array, getattr(right.rows[name], column))
    for array, again in zip(left.scaling, right.scaling, strict=True):
        np.testing.assert_array_equal(array, again)


def test_it_holds_complete_rows_thinned_by_their_time() -> None:
    dataset = simulated(3, 60)
    [(name, rows)] = freeze([dataset], DRIFT).rows.items()
    assert name == str(dataset.instrument)
    slots = rows.time_ns // (EVERY_MS * 1_000_000)
    assert len(np.unique(slots)) == len(rows)
    complete = dataset.rows.time[dataset.rows.complete]
    assert len(rows) == len(np.unique(complete // (EVERY_MS * 1_000_000)))
    assert rows.time_ns[0] == complete[0] > dataset.rows.time[0]
    places = np.searchsorted(dataset.rows.time, rows.time_ns)
    np.testing.assert_array_equal(rows.raw, dataset.rows.raw[places])


def test_it_is_scaled_by_all_instruments_together() -> None:
    dataset = simulated(3, 60)
    shifted = replace(dataset, instrument=OTHER, rows=replace(dataset.rows, raw=dataset.rows.raw + 100))
    both = freeze([dataset, shifted], DRIFT)
    assert list(both.rows) == [str(dataset.instrument), str(OTHER)]
    assert both.scaling.scale.min() > 10 * np.median(freeze([dataset], DRIFT).scaling.scale)


def test_a_scale_does_not_follow_each_move_of_the_price() -> None:
    """A spread of one tick, in basis points, has a range of a thousandth of itself."""
    scaling = reference().scaling
    assert (scaling.scale >= 0.0499 * np.abs(scaling.centre)).all()


def test_the_wander_of_the_price_is_not_what_features_are_scaled_by() -> None:
    """Another hour of the same market is not far away."""
    stream = FeatureStream(INSTRUMENT, small_params().features)
    market = Market(1)
    rows = [stream.push(market.advance(seconds)) for seconds in (1800.0, 5400.0, 5700.0)]
    old, _, new = (dataset.raw[thinned(dataset.time, 500)] for dataset in rows)
    scaling = fit_scaling(old)
    for name in ("spread", "bid_distance_1", "ask_distance_10"):
        at = NAMES.index(name)
        assert abs(np.median(scaling.apply(new)[:, at])) < 0.1, name
    assert np.abs(scaling.apply(old).std(axis=0)).max() <= 1.001


def test_outliers_do_not_move_the_centre_and_constants_have_a_scale() -> None:
    """A doubled scale is seen."""
    generator = np.random.default_rng(0)
    raw = np.stack([generator.normal(5.0, 2.0, 1000), np.full(1000, 3.0)], axis=1).astype(np.float32)
    scaling = fit_scaling(raw)
    np.testing.assert_allclose(scaling.centre, [5.0, 3.0], atol=0.2)
    np.testing.assert_allclose(scaling.scale, [2.0, 0.15], rtol=0.1)
    assert scaling.apply(2 * raw)[:, 0].std() > 1.8


@pytest.mark.parametrize("incomplete", [True, False])
def test_rows_that_cannot_be_a_reference_are_refused(incomplete: bool) -> None:
    dataset = simulated(3, 60)
    rows = dataset.rows
    if incomplete:
        rows = replace(rows, complete=np.zeros_like(rows.complete))
    else:
        rows = replace(rows, raw=np.full_like(rows.raw, np.nan))
    with pytest.raises(DataError, match="simulator:SIM"):
        freeze([replace(dataset, rows=rows)], DRIFT)
    with pytest.raises(DataError, match="features stage"):
        freeze([], DRIFT)


def test_it_survives_a_round_trip_and_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    before = reference_of(noise(50), noise(70, seed=1))
    save_reference(before, tmp_path / REFERENCE)
    equal(load_reference(tmp_path / REFERENCE), before)
    save_reference(load_reference(tmp_path / REFERENCE), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / REFERENCE).read_bytes()


def broken(what: str) -> Reference:
    whole = reference_of(noise(50))
    rows = next(iter(whole.rows.values()))
    if what == "scale":
        return replace(whole, scaling=whole.scaling._replace(scale=np.zeros(COUNT, np.float32)))
    if what == "no instrument":
        return replace(whole, rows={})
    raw, time_ns = rows.raw.copy(), rows.time_ns.copy()
    if what == "NaN":
        raw[3, 4] = np.nan
    if what == "width":
        raw = raw[:, :-1]
    if what == "time":
        time_ns[7] = 0
    return replace(whole, rows={"venue:0": RawRows(time_ns, rows.segment, raw)})


@pytest.mark.parametrize("what", ["scale", "no instrument", "NaN", "width", "time"])
def test_a_reference_that_would_mislead_is_one_clear_error(what: str, tmp_path: Path) -> None:
    save_reference(broken(what), tmp_path / REFERENCE)
    with pytest.raises(DataError, match=r"reference\.safetensors: not a reference .* train anew"):
        load_reference(tmp_path / REFERENCE)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, None, {}, {"raw.0"}])
def test_a_file_that_is_none_is_one_clear_error(content: object, tmp_path: Path) -> None:
    path = tmp_path / REFERENCE
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_reference(reference_of(noise(50)), path)
        arrays = load_file(path)
        # Without its metadata, or without one of its arrays.
        save_file({name: array for name, array in arrays.items() if name not in content}, path)
    with pytest.raises(DataError, match=r"reference\.safetensors"):
        load_reference(path)
