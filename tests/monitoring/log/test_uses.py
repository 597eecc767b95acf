"""What is made of a log: scores, a Parquet file, an age limit, the commands."""

import json
import shutil

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal

from lobsmith.cli.main import cli
from lobsmith.monitoring.accuracy import accuracy_of, accuracy_over_time
from lobsmith.monitoring.log import retention
from lobsmith.monitoring.log.export import export_parquet
from lobsmith.monitoring.log.reader import PredictionLog, answers
from lobsmith.monitoring.log.retention import expire
from lobsmith.monitoring.log.writer import Role, log_path
from lobsmith.online.answers import Answers
from lobsmith.workspace import Workspace
from tests.monitoring.logged import (
    CANDIDATE,
    MODEL,
    PARAMS,
    START_NS,
    STEP_NS,
    add,
    begin,
    random_probabilities,
    writer,
)
from tests.small import params_file

DAY_NS = 86_400_000_000_000


@pytest.fixture
def path(tmp_path):
    """A log of 300 rows that two versions answered all but one of, and of the outcomes of 200 of them."""
    path = log_path(Workspace(tmp_path), "lob")
    probabilities = random_probabilities(300)
    probabilities[0] = np.nan
    labels = np.random.default_rng(1).integers(-1, 3, (200, 2)).astype(np.int8)
    with writer(path) as log:
        begin(log, "a")
        add(log, "a", MODEL, 0, 300, probabilities=probabilities, reasons=["deadline"] + [None] * 299)
        add(log, "a", CANDIDATE, 0, 300, role=Role.CANDIDATE, seed=2, rows=64)
        log.add_outcomes("a", np.arange(200), labels, START_NS)
        log.add_drops("a", START_NS, "ring", 3)
    return path


def answers_of(labels, probabilities=None) -> Answers:
    labels = np.asarray(labels, np.int8)[:, None]
    count = len(labels)
    p = random_probabilities(count)[:, :1] if probabilities is None else np.asarray(probabilities, np.float32)[:, None]
    time = np.arange(count) * 10
    return Answers("lob", 1, time, np.zeros(count, np.int64), labels, p, np.arange(count) * 100, {}, (50,))


def test_a_score_by_hand() -> None:
    p = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [np.nan] * 3, [0.2, 0.2, 0.6]]
    got = accuracy_of(answers_of([0, 0, 2, -1], p))
    (horizon,) = got.horizons
    assert (got.rows, got.answered, horizon.rows) == (4, 3, 2)
    assert horizon.accuracy == 0.5
    assert_allclose(horizon.log_loss, -(np.log(0.5) + np.log(0.1)) / 2, rtol=1e-6)
    assert_allclose(horizon.brier, (0.25 + 0.09 + 0.04 + 0.81 + 0.01 + 0.64) / 2, rtol=1e-6)
    assert horizon.base_log_loss == 0.0
    assert got.latency_p50_ns == 100.0


def test_no_data_is_not_a_good_score() -> None:
    for empty in (answers_of(np.empty(0)), answers_of([-1, -1], [[np.nan] * 3] * 2)):
        got = accuracy_of(empty)
        assert got.latency_p99_ns is None
        assert got.horizons[0].rows == 0
        assert (got.horizons[0].accuracy, got.horizons[0].log_loss, got.horizons[0].base_log_loss) == (None, None, None)
    assert accuracy_of(answers_of(np.empty(0))).rows == 0


def test_time_bins_add_up_and_empty_ones_are_there() -> None:
    many = answers_of(np.random.default_rng(3).integers(0, 3, 100))
    bins = accuracy_over_time(many, [-500, 0, 300, 1000, 2000])
    assert [bin_.rows for bin_ in bins] == [0, 30, 70, 0]
    parts = [bin_.horizons[0] for bin_ in bins[1:3]]
    whole = accuracy_of(many).horizons[0].log_loss
    assert_allclose(sum(part.rows * part.log_loss for part in parts) / 100, whole)


def test_export_is_the_log(path, tmp_path) -> None:
    file = tmp_path / "out" / "lob.parquet"
    with PredictionLog(path) as log:
        assert export_parquet(log, file) == 600
        logged = answers(log, *MODEL)
    table = pl.read_parquet(file)
    mine = table.filter((pl.col("model") == MODEL[0]) & (pl.col("version") == MODEL[1]))
    assert mine["row"].to_list() == list(range(300))
    assert mine["reason"].to_list() == ["deadline"] + [None] * 299
    names = [f"p_{side}_{horizon}ms" for horizon in (50, 1000) for side in ("down", "unchanged", "up")]
    said_again = mine.select(pl.col(names).fill_null(np.nan)).to_numpy().reshape(300, 2, 3)
    assert_array_equal(said_again, logged.probabilities)
    assert_array_equal(mine.select(pl.col("label_50ms", "label_1000ms").fill_null(-1)).to_numpy(), logged.labels)
    assert mine["known_ns"].null_count() == 100
    assert_array_equal(mine["time_ns"].cast(pl.Int64).to_numpy(), logged.time_ns)
    assert table["role"].unique().sort().to_list() == ["candidate", "primary"]
    assert pq.read_schema(file).metadata[b"lobsmith.horizons_ms"] == b"50,1000"
    assert [path.name for path in file.parent.iterdir()] == ["lob.parquet"]


def test_rows_expire_by_age(path, monkeypatch) -> None:
    monkeypatch.setattr(retention, "_AT_ONCE", 16)
    deleted = expire(path, PARAMS, START_NS + 120 * STEP_NS + DAY_NS, raw_keep_days=1.0)
    assert deleted == 240
    with PredictionLog(path) as log:
        left = answers(log, *MODEL)
        outcomes = log._rows("SELECT min(row), count(*) FROM outcomes")
        drops = log.drops()
    assert_array_equal(left.time_ns, START_NS + np.arange(120, 300) * STEP_NS)
    assert outcomes == [(120, 80)]
    assert drops == {}
    with writer(path) as log:  # sessions stay, so that one that was quiet goes on
        begin(log, "a")
        add(log, "a", MODEL, 300, 310)
    with PredictionLog(path) as log:
        assert len(answers(log, *MODEL).time_ns) == 190


def test_commands(path, tmp_path) -> None:
    def run(*arguments):
        result = CliRunner().invoke(cli, ["--root", str(tmp_path), "predictions", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    state = json.loads(run("describe", "--model", "lob", "--json"))
    by_model = {version["score"]["model"]: version for version in state["versions"]}
    assert by_model["lob"]["score"]["answered"] == 299
    assert by_model["lob"]["score"]["reasons"] == {"deadline": 1}
    assert by_model["lob_candidate"]["roles"] == {"candidate": 300}
    assert state["drops"] == {"ring": 3}
    assert state["raw_rows"] == 0
    assert "299 of 300" in run("describe", "--model", "lob")
    assert json.loads(run("describe", "--model", "lob", "--hours", "1e-9", "--json"))["versions"] == []
    assert json.loads(run("export", str(tmp_path / "x.parquet"), "--model", "lob", "--json"))["rows"] == 600
    assert json.loads(run("export", str(tmp_path / "raw.parquet"), "--model", "lob", "--raw", "--json"))["rows"] == 0


def test_commands_without_a_log_say_so(tmp_path) -> None:
    shutil.copy(params_file(), tmp_path / "params.yaml")
    result = CliRunner().invoke(cli, ["--root", str(tmp_path), "predictions", "describe", "--model", "lob"])
    assert result.exit_code == 1
    assert "no prediction log" in result.output


def test_versions_are_shown_whole_and_bad_hours_refused(path, tmp_path) -> None:
    def run(*arguments):
        return CliRunner().invoke(cli, ["--root", str(tmp_path), "predictions", "describe", "--model", *arguments])

    shown = run("lob")
    assert str(MODEL[1]) in shown.output
    assert str(CANDIDATE[1]) in shown.output
    for arguments in (("lob", "--hours", "nan"), ("lob", "--hours", "1e300"), ("../lob",)):
        refused = run(*arguments)
        assert refused.exit_code != 0
        assert refused.exception is None or isinstance(refused.exception, SystemExit)
