"""Verdicts on live traffic are carried out: trained networks, a replayed market, the real log, MLflow and flows."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lobsmith.features.dataset import Dataset
from lobsmith.models.split import runs
from lobsmith.monitoring.log.reader import PredictionLog, answers
from lobsmith.monitoring.log.writer import Source
from lobsmith.online.evidence import KEEP, REJECT, ROLL_BACK
from lobsmith.params import Params, load_params
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import Artifact, publish
from lobsmith.release.reconcile.requests import register_challenger
from lobsmith.release.registry.aliases import alias_targets
from lobsmith.release.registry.runs import log_run
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.contract import wire_contract
from lobsmith.trading.replay import replay
from lobsmith.trading.session import open_stream
from lobsmith.workspace import Workspace
from tests import trained
from tests.small import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CHANGES: dict[str, Any] = {
    **SMALL,
    "paired.measure_s": 120,
    "shadow.minimum_s": 300,
    "shadow.minimum_blocks": 8,
    "shadow.probes": 20,
    # Two cores that others use too.
    "shadow.latency_p50": 10,
    "shadow.latency_p99": 100,
    "rollback.latency_p99_ms": 1000,
    "mirror.probe_s": 0.05,
    "client.poll_s": 0.1,
}
MINUTE_NS = 60_000_000_000


@pytest.fixture
def params(workspace: Workspace) -> Params:
    return load_params(workspace.params, CHANGES)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> trained.Trained:
    return trained.good(tmp_path_factory.mktemp("good") / "run")


def put(workspace: Workspace, params: Params, artifact: Artifact) -> int:
    return publish(Release(workspace, params), artifact, model="lob", contract=wire_contract(params)).version


def trade(workspace: Workspace, params: Params, dataset: Dataset, first: int = 0, count: int | None = None) -> None:
    """Replay rows through the client, in process; recorded and mirrored like live ones."""
    with open_stream(
        dataset.instrument,
        root=workspace,
        params=params,
        transport="inprocess",
        record=Source.REPLAY,
        backpressure=True,
    ) as stream:
        measured = replay(stream, dataset, first, limit=count)
    assert stream.recorded is not None
    assert stream.recorded.logged == measured.rows


def deploy_candidate(workspace: Workspace, params: Params, artifact: Artifact) -> int:
    """Register an artifact and make it the candidate, as a retrain does; return its registered version."""
    run = log_run(
        workspace,
        experiment="lob",
        run_name="test",
        params={},
        metrics=artifact.metrics,
        model_path=artifact.model_path,
        model_name="lob",
    )
    contract = wire_contract(params)
    register_challenger(Release(workspace, params), artifact, model="lob", contract=contract, run=run)
    return run.registry_version


def test_a_worse_model_with_better_offline_numbers_is_rejected_in_shadow(
    workspace: Workspace, params: Params, good: trained.Trained, tmp_path: Path, prefect_server: None
) -> None:
    from lobsmith.pipelines.shadow import shadow

    bad = trained.overfitted(tmp_path / "bad")
    assert bad.losses[0] < good.losses[0]
    active = put(workspace, params, good.artifact)
    registered = deploy_candidate(workspace, params, bad.artifact)
    assert alias_targets(workspace, "lob").challenger.version == registered
    assert shadow(str(workspace.root), CHANGES, [Source.REPLAY]).decision is None
    trade(workspace, params, trained.session(9, 900, params))
    result = shadow(str(workspace.root), CHANGES, [Source.REPLAY])
    assert result.decision == REJECT, result.reason
    assert result.verdict.difference > 0.1
    assert (result.active, result.candidate) == (active, None)
    assert alias_targets(workspace, "lob").challenger is None
    [rejected] = [entry for entry in journal.read(workspace.journal) if entry.action == journal.REJECTED]
    assert rejected.model == "lob_candidate"


def minutes(dataset: Dataset) -> list[tuple[int, int]]:
    """First and last-but-one complete row of each minute of a session."""
    rows = np.flatnonzero(dataset.rows.complete)
    edges = np.arange(dataset.rows.time[rows[0]], dataset.rows.time[rows[-1]], MINUTE_NS)
    places = np.searchsorted(dataset.rows.time[rows], edges)
    return [(int(rows[a]), int(b - a)) for a, b in pairwise(places)]


def test_a_model_poisoned_after_its_promotion_is_rolled_back_within_one_period(
    workspace: Workspace, params: Params, good: trained.Trained, tmp_path: Path, prefect_server: None
) -> None:
    from lobsmith.pipelines.monitor import monitor

    honest = put(workspace, params, trained.guarded(good.artifact, tmp_path / "honest", poisoned=False))
    poisoned = put(workspace, params, trained.guarded(good.artifact, tmp_path / "poisoned", poisoned=True))
    quiet = trained.session(9, 420, params)
    spans = minutes(quiet)
    sick = 4
    dataset = trained.with_signal(quiet, spans[sick][0], len(quiet.rows))
    assert len(list(runs(dataset, np.asarray([0, len(dataset.rows) - 1])))) == 1
    for minute, (first, count) in enumerate(spans[: sick + 1]):
        trade(workspace, params, dataset, first, count)
        result = monitor(str(workspace.root), CHANGES, [Source.REPLAY])
        assert result.decision == (ROLL_BACK if minute == sick else KEEP), result.reason
    assert Repository.of(workspace).listed("lob") == [honest]
    [line] = [entry for entry in journal.read(workspace.journal) if entry.action == journal.ROLLED_BACK]
    assert (line.version_from, line.version_to, line.actor) == (poisoned, honest, "monitor flow")
    assert line.verdicts[-1].gate == "rollback"
    trade(workspace, params, dataset, *spans[sick + 1])
    with PredictionLog.of(workspace, "lob") as log:
        assert answers(log, "lob", honest).time_ns[-1] > answers(log, "lob", poisoned).time_ns[-1]


def test_a_model_that_is_unlucky_for_a_while_stays(
    workspace: Workspace, params: Params, good: trained.Trained, tmp_path: Path, prefect_server: None
) -> None:
    from lobsmith.pipelines.monitor import monitor

    other = trained.good(tmp_path / "other", **{"train.seed": 12})
    fallback, active = put(workspace, params, good.artifact), put(workspace, params, other.artifact)
    dataset = trained.session(10, 900, params)
    spans = minutes(dataset)
    worse = []
    for first, count in spans:
        trade(workspace, params, dataset, first, count)
        result = monitor(str(workspace.root), CHANGES, [Source.REPLAY])
        assert result.decision == KEEP, result.reason
        worse.append(_difference(workspace, fallback, active, dataset, first, count))
    assert Repository.of(workspace).active("lob") == active
    # It had its bad minutes, some of them in a row.
    assert max(a + b for a, b in pairwise(worse)) > 0


def _difference(workspace: Workspace, fallback: int, active: int, dataset: Dataset, first: int, count: int) -> float:
    """Mean log-loss of the active version less the fallback's over a minute, at the first horizon."""
    begin = dataset.rows.time[first]
    losses = []
    with PredictionLog.of(workspace, "lob") as log:
        for version in (active, fallback):
            all_rows = answers(log, "lob", version)
            inside = (all_rows.time_ns >= begin) & (all_rows.time_ns < begin + MINUTE_NS)
            some = replace(all_rows, labels=all_rows.labels[inside], probabilities=all_rows.probabilities[inside])
            losses.append(trained.losses(some.probabilities, some.labels)[0])
    return losses[0] - losses[1]
