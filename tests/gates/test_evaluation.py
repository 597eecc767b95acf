import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lobsmith.compress.compress import compress
from lobsmith.features.dataset import DATASET, build_features
from lobsmith.gates.evaluate import EVALUATION, REPORT, evaluate
from lobsmith.gates.evaluation import MAJORITY, MODEL, Evaluation, score, skill
from lobsmith.market.ingest import MARKET, ingest
from lobsmith.models.train import train_stage
from tests.small import small_params


def test_log_loss_and_accuracy_by_hand() -> None:
    p = np.array([[[0.5, 0.25, 0.25]], [[0.1, 0.8, 0.1]], [[math.nan] * 3], [[0.2, 0.2, 0.6]]])
    labels = np.array([[0], [2], [1], [-1]], np.int8)
    (only,) = score("x", p, labels, (100,))
    assert (only.rows, only.accuracy) == (2, 0.5)
    assert only.log_loss == pytest.approx((math.log(2) + math.log(10)) / 2)


def test_a_certainty_that_was_wrong_is_costly_but_finite() -> None:
    (only,) = score("x", np.array([[[1.0, 0.0, 0.0]]]), np.array([[2]], np.int8), (100,))
    assert 10 < only.log_loss < 20


@pytest.mark.parametrize(("loss", "passed"), [(0.8, True), (1.0, False), (1.2, False), (math.nan, False)])
def test_skill_asks_for_less_loss_than_the_majority(loss: float, passed: bool) -> None:
    def table(name: str, log_loss: float) -> list:
        (one,) = score(name, np.array([[[1 / 3] * 3]]), np.array([[0]], np.int8), (100,))
        return [msgspec.structs.replace(one, log_loss=log_loss)]

    verdict = skill(table(MODEL, loss) + table(MAJORITY, 1.0), 1.0)
    assert verdict.passed is passed


def test_the_stages_from_files_to_files(tmp_path: Path) -> None:
    params = small_params()
    ingest(params.data, None, tmp_path / MARKET)
    build_features(params, tmp_path / MARKET, tmp_path)
    train_stage(params, tmp_path / DATASET, tmp_path)
    summary = compress(params, tmp_path / DATASET, tmp_path)
    assert summary.bytes == (tmp_path / "model.onnx").stat().st_size
    result = evaluate(params, tmp_path / DATASET, tmp_path)
    assert msgspec.json.decode((tmp_path / EVALUATION).read_bytes(), type=Evaluation) == result
    assert [verdict.gate for verdict in result.verdicts] == ["parity", "skill"]
    assert {one.predictor for one in result.scores} == {"model", "majority", "queue imbalance"}
    page = (tmp_path / REPORT).read_text()
    assert page.count("<svg") == 1
    assert "majority" in page
    assert not re.search(r"""(src|href)=["']?http""", page)
