"""Scaled by constants of one hour, another hour of the same market is not far away, and a doubled scale is seen."""

import numpy as np

from lobsmith.drift.reference import fit_scaling, thinned
from lobsmith.features.definitions import NAMES
from lobsmith.features.stream import FeatureStream
from lobsmith.market.simulator import INSTRUMENT, Market
from tests.small import small_params


def test_the_wander_of_the_price_is_not_what_features_are_scaled_by() -> None:
    stream = FeatureStream(INSTRUMENT, small_params().features)
    market = Market(1)
    rows = [stream.push(market.advance(seconds)) for seconds in (1800.0, 5400.0, 5700.0)]
    old, _, new = (one.raw[thinned(one.time, 500)] for one in rows)
    scaling = fit_scaling(old)
    for name in ("spread", "bid_distance_1", "ask_distance_10"):
        at = NAMES.index(name)
        assert abs(np.median(scaling.apply(new)[:, at])) < 0.1, name
    assert np.abs(scaling.apply(old).std(axis=0)).max() <= 1.001


def test_outliers_do_not_move_the_centre_and_constants_have_a_scale() -> None:
    generator = np.random.default_rng(0)
    raw = np.stack([generator.normal(5.0, 2.0, 1000), np.full(1000, 3.0)], axis=1).astype(np.float32)
    scaling = fit_scaling(raw)
    np.testing.assert_allclose(scaling.centre, [5.0, 3.0], atol=0.2)
    np.testing.assert_allclose(scaling.scale, [2.0, 0.15], rtol=0.1)
    assert scaling.apply(2 * raw)[:, 0].std() > 1.8
