"""Gates of drift: before training is paid for, and before a promotion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from lobsmith.drift.reference import freeze, save_reference
from lobsmith.errors import GateError
from lobsmith.features.dataset import Dataset, build_dataset
from lobsmith.features.definitions import NAMES
from lobsmith.market.simulator import Change, Dynamics, simulate
from lobsmith.monitoring.drift.gates import evaluate_period, evaluate_windows, require
from lobsmith.monitoring.log.writer import LogWriter, Source
from lobsmith.params import Params
from lobsmith.release.context import Release
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import read_manifest
from lobsmith.release.version.names import candidate_model
from lobsmith.workspace import Workspace
from tests.release import toy
from tests.release.in_process import publish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS, RECENT, REFERENCE = 360, 5, 40
CHANGES = {
    "model.name": "toy",
    "drift.every_ms": 50,
    "drift.recent_s": RECENT,
    "drift.reference_s": REFERENCE,
    "drift.minimum_rows": 30,
    "drift.discriminator.seconds": 120,
}
LARGE = Dynamics(order=8 * Dynamics().order, queue=8 * Dynamics().queue)
NS = 1_000_000_000


@pytest.fixture(scope="module")
def params() -> Params:
    return toy.params(**{name.replace(".", "__"): value for name, value in CHANGES.items()})


@pytest.fixture(scope="module")
def calm(params: Params) -> Dataset:
    return build_dataset(simulate(3, SECONDS), params)


def turned(params: Params, at_s: float) -> Dataset:
    """The market of seed 3, whose orders are eight times as large from a second on; never from the last second on."""
    changes = [Change(at_s=at_s, dynamics=LARGE)] if at_s < SECONDS else []
    return build_dataset(simulate(3, SECONDS, changes=changes), params)


def publish_with(workspace: Workspace, params: Params, window: Dataset, model: str = "toy") -> int:
    """Publish a version trained on a window."""
    path = workspace.root / "reference.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_reference(freeze([window], params.drift), path)
    artifact = toy.artifact(workspace.root / "run", scored=True)
    artifact = replace(artifact, reference_path=path, instruments=(window.instrument,))
    return publish(Release(workspace, params), artifact, model=model, contract=toy.CONTRACT).version


def log_rows(workspace: Workspace, params: Params, dataset: Dataset, from_s: float, until_s: float) -> None:
    """Log raw rows of a stretch of a session, as a recorder does."""
    rows = dataset.rows
    start, stop = np.searchsorted(rows.time, rows.time[0] + np.asarray([from_s, until_s]) * NS)
    chosen = slice(int(start), int(stop))
    with LogWriter.of(workspace, "toy", params) as log:
        log.begin("live", Source.REPLAY, str(dataset.instrument), int(rows.time[start]))
        log.add_raw(
            "live",
            row=np.arange(start, stop),
            time_ns=rows.time[chosen],
            asked_ns=rows.time[chosen],
            segment=rows.segment[chosen],
            raw=rows.raw[chosen],
        )


def head(dataset: Dataset, seconds: float) -> Dataset:
    """The first so many seconds of a dataset."""
    stop = int(np.searchsorted(dataset.rows.time, dataset.rows.time[0] + int(seconds * NS)))
    return replace(
        dataset, rows=dataset.rows.slice(0, stop), labels=dataset.labels[:stop], targets=dataset.targets.slice(0, stop)
    )


def judge(workspace: Workspace, params: Params, window: Dataset, tmp_path: Path):
    return evaluate_windows(workspace, params, [window], tmp_path, sources=[Source.REPLAY])


def test_a_window_of_one_market_passes(params, calm, tmp_path):
    drift, feed = judge(Workspace(tmp_path), params, calm, tmp_path)
    assert (drift.gate, drift.passed, drift.evidence["finding"]) == ("window drift", True, "no drift"), drift
    assert drift.evidence["past"] >= 40
    # No version serves that was trained on a valid feed.
    assert (feed.gate, feed.passed, feed.value) == ("feed", True, None)
    require((drift, feed))


def test_a_window_whose_market_has_just_changed_is_refused(params, tmp_path):
    verdicts = judge(Workspace(tmp_path), params, turned(params, SECONDS - RECENT), tmp_path)
    with pytest.raises(GateError, match="window drift refused.*_size_.*gate_level"):
        require(verdicts)


def test_too_short_a_window_is_insufficient_history(params, calm, tmp_path):
    drift, _ = judge(Workspace(tmp_path), params, head(calm, 120), tmp_path)
    assert drift.passed
    assert (drift.value, drift.evidence["finding"]) == (None, "insufficient history")


def test_a_window_is_compared_with_live_rows_after_it(params, tmp_path):
    session = turned(params, SECONDS - 2 * RECENT)
    workspace = Workspace(tmp_path)
    window = head(session, SECONDS - 4 * RECENT)
    publish_with(workspace, params, window)
    assert judge(workspace, params, window, tmp_path)[0].evidence["finding"] == "no drift"
    log_rows(workspace, params, session, SECONDS - 4 * RECENT, SECONDS)
    drift, feed = judge(workspace, params, window, tmp_path)
    assert not drift.passed, drift
    assert feed.passed


@pytest.mark.parametrize(
    ("columns", "broken"),
    [("_size_", lambda raw: raw + np.float32(np.log(1000))), ("bid_", lambda raw: np.full_like(raw, 1.0))],
    ids=["lots a thousand times too small", "bids that stand still"],
)
def test_a_broken_feed_is_refused(params, calm, tmp_path, columns, broken):
    workspace = Workspace(tmp_path)
    publish_with(workspace, params, calm)
    at = [place for place, name in enumerate(NAMES) if columns in name]
    raw = calm.rows.raw.copy()
    raw[:, at] = broken(raw[:, at])
    verdicts = judge(workspace, params, replace(calm, rows=replace(calm.rows, raw=raw)), tmp_path)
    feed = verdicts[1]
    assert (feed.gate, feed.passed) == ("feed", False), feed
    with pytest.raises(GateError, match="feed refused.*feed_limit"):
        require(verdicts)


def test_each_instrument_of_the_training_window_is_judged(params, calm, tmp_path):
    short = head(calm, 60)
    other = replace(short, instrument=structs.replace(short.instrument, symbol="OTHER"))
    verdicts = evaluate_windows(Workspace(tmp_path), params, [short, other], tmp_path)
    judged = [(verdict.evidence["instrument"], verdict.gate) for verdict in verdicts]
    assert judged == [(str(window.instrument), gate) for window in (short, other) for gate in ("window drift", "feed")]


def test_a_shadow_period_without_rows_is_waited_for(params, calm, tmp_path):
    workspace, deployment = Workspace(tmp_path), candidate_model("toy")
    version = publish_with(workspace, params, head(calm, 120), deployment)
    repository = Repository.of(workspace)
    manifest = read_manifest(repository.directory(deployment, version), repository.trust)
    [verdict] = evaluate_period(workspace, params, manifest)
    assert (verdict.passed, verdict.evidence["finding"]) == (False, "missing data")


@pytest.mark.parametrize(("turn", "finding"), [(SECONDS, "no drift"), (SECONDS - RECENT, "drift")])
def test_a_candidate_is_compared_with_its_shadow_period(params, tmp_path, turn, finding):
    session = turned(params, turn)
    workspace, deployment = Workspace(tmp_path), candidate_model("toy")
    version = publish_with(workspace, params, head(session, SECONDS - 4 * RECENT), deployment)
    log_rows(workspace, params, session, SECONDS - 4 * RECENT, SECONDS)
    repository = Repository.of(workspace)
    manifest = read_manifest(repository.directory(deployment, version), repository.trust)
    all_at_once = toy.params(
        **{name.replace(".", "__"): value for name, value in (CHANGES | {"drift.pairs_a_look": 80}).items()}
    )
    [verdict] = evaluate_period(workspace, all_at_once, manifest, sources=[Source.REPLAY])
    assert (verdict.gate, verdict.evidence["finding"]) == ("shadow drift", finding), verdict
    assert verdict.passed == (finding == "no drift")
