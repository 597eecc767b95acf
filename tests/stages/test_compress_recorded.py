"""The table of candidates of a model trained on a recorded session."""

from pathlib import Path

import pytest

from lobsmith.features.dataset import DATASET, build_dataset, save_dataset
from lobsmith.gates.compression import compression
from lobsmith.market.readers import read_captures
from lobsmith.params import load_params
from lobsmith.stages.compress import compress
from lobsmith.stages.train import train_stage
from tests.small import params_file

pytestmark = [pytest.mark.slow, pytest.mark.recorded, pytest.mark.timeout(600)]


def test_the_served_candidate_keeps_the_budget_and_int8_is_no_other_model(recorded: Path, tmp_path: Path) -> None:
    params = load_params(params_file(), {"train.epochs": 12, "compress.calls": 400})
    sessions = [recorded / "binance" / f"usdm-btcusdt-202407{day}.gz" for day in (18, 19)]
    save_dataset(build_dataset(read_captures(sessions), params), tmp_path / DATASET)
    train_stage(params, [tmp_path / DATASET], tmp_path)
    summary = compress(params, tmp_path)
    verdict = compression(summary, params.compress)
    assert verdict.passed, verdict
    assert summary.chosen.agreement >= 0.99
    assert summary.chosen.delta_log_loss <= 0.005
    rows = {row.name: row for row in summary.candidates}
    assert len(rows) == 15
    for name in ("int8_dynamic", "int8_static", "fp16"):
        assert rows[name].test.rows > 10_000
        assert rows[name].agreement >= 0.99
        assert rows[name].delta_log_loss <= 0.005
    for name in ("pruned_25", "pruned_50"):
        assert rows[name].agreement >= 0.98
        assert rows[name].delta_log_loss <= 0.01
    # A saving of bytes that is one.
    assert rows["int8_static"].bytes < rows["fp32"].bytes
    assert rows["pruned_50"].bytes < rows["pruned_25"].bytes < rows["fp32"].bytes
