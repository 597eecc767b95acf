"""How close the default network comes to the best possible loss, on a simulator whose true probabilities are known."""

import numpy as np
import pytest

from lobsmith.evaluation.baselines import base_rate
from lobsmith.evaluation.metrics import expected_calibration_error
from lobsmith.features.dataset import build_dataset
from lobsmith.market.simulator import Dynamics, row_probabilities, simulate
from lobsmith.models.train import predict, train
from lobsmith.models.training_data import parts_of
from lobsmith.params import load_params
from tests.small import params_file

SEED, SECONDS, PATHS, ROWS = 5, 7200, 200, 400
SHORT = 2
"""The horizons at which two hours are enough: 50 and 100 ms."""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_hours_of_an_open_market_teach_nine_tenths_of_what_can_be_known() -> None:
    """All that is hidden is switched off, latent direction and regimes: no observer could infer it, the oracle has it.

    All expectations are taken under the true probabilities, so only the sample of rows is random. The entropy of
    probabilities counted over paths is too small by (K - 1) / 2 N (Miller 1955), which is added.
    """
    params = load_params(params_file(), {"window.length_s": 1e9, "train.epochs": 40})
    market = Dynamics(direction=0.0, trend=0.0, calm=1.0, trending=1.0, volatile=1.0, turbulence=1.0)
    dataset = build_dataset(simulate(SEED, SECONDS, market), params)
    parts = parts_of([dataset], params.split)
    test = parts[0].split.test
    trained = train(parts, params)
    rows = np.sort(np.random.default_rng(0).choice(test[:40_000], ROWS, replace=False))
    true = row_probabilities(SEED, rows.tolist(), dataset.horizons_ms, PATHS, market)

    def loss(p: np.ndarray) -> np.ndarray:
        return -(true * np.log(np.clip(p, 1e-7, 1))).sum(axis=2).mean(axis=0)

    biased = -(true * np.log(np.clip(true, 1e-12, 1))).sum(axis=2).mean(axis=0)
    best = biased + ((true > 0).sum(axis=2) - 1).mean(axis=0) / (2 * PATHS)
    base = loss(base_rate(parts, len(rows)))
    share = (base - loss(predict(trained.network, dataset, rows)[0])) / (base - best)
    p = predict(trained.network, dataset, test)[0]
    errors = [expected_calibration_error(p[:, h], dataset.labels[test, h]) for h in range(len(dataset.horizons_ms))]
    print(dict(zip(dataset.horizons_ms, share.round(3).tolist(), strict=True)), np.round(errors, 4))
    assert (share[:SHORT] >= 0.9).all(), share
    assert (share > 0).all(), share
    assert max(errors[:SHORT]) <= 0.02, errors
