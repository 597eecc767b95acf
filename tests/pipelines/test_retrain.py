"""The real flow on a real Prefect server, MLflow and Triton."""

import json
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from lobsmith.compress.golden import load_golden
from lobsmith.errors import (
    CaptureError,
    ContractError,
    DataContractError,
    DataError,
    GateError,
    LeaseError,
    ThinWindowError,
)
from lobsmith.features.dataset import DATASET, load_dataset
from lobsmith.market.store import Store
from lobsmith.params import load_params
from lobsmith.release.registry.aliases import CHAMPION, SERVING, AliasTargets, alias_targets, request
from lobsmith.release.repository import journal
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import read_manifest
from lobsmith.serving.supervisor import running_triton, with_free_ports
from lobsmith.trading.transport.grpc import GrpcTransport
from lobsmith.trading.transport.http import HttpTransport
from lobsmith.trading.transport.inprocess import InProcessTransport
from lobsmith.workspace import Workspace
from tests.small import SMALL

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


def run(workspace: Workspace, captures: list[str] | None = None, **changes):
    from lobsmith.pipelines.retrain import retrain

    return retrain(str(workspace.root), captures, {**SMALL, **changes})


def untouched(workspace: Workspace) -> bool:
    """Nothing half-made: no version, nothing staged."""
    repository = Repository.of(workspace)
    return not repository.models() and not (workspace.staging.exists() and list(workspace.staging.iterdir()))


def test_from_market_data_to_a_version_that_triton_serves(workspace: Workspace) -> None:
    first = run(workspace)
    repository = Repository.of(workspace)
    assert repository.active("lob") == first.version
    manifest = read_manifest(Path(first.manifest).parent)
    champion = alias_targets(workspace, "lob").champion
    assert champion is not None
    assert champion.run_id == first.mlflow_run_id == manifest.mlflow_run_id
    assert champion.tags["artifact_id"] == manifest.artifact_id
    assert champion.tags[SERVING] == f"active as lob {first.version}"
    assert (first.outcome, first.registered) == ("promoted", champion.version)
    assert manifest.instruments == tuple(Store(Path(first.run_directory) / "market").instruments())
    gates = ["events contract", "daily volume", "spread", "features contract", "window drift", "feed"]
    gates += ["parity", "skill", "calibration", "compression", "walk_forward"]
    assert [verdict.gate for verdict in manifest.verdicts] == gates
    assert all(verdict.passed for verdict in manifest.verdicts)
    for pages in ("events", "features"):
        assert (Path(first.run_directory) / "data_docs" / pages / "index.html").exists()
    # Nothing served that it could have been compared with.
    assert [(entry.action, entry.model) for entry in journal.read(workspace.journal)] == [
        (journal.PUBLISHED, "lob_candidate"),
        (journal.PROMOTED, "lob"),
        (journal.PUBLISHED, "lob_drift"),
        (journal.RETIRED, "lob_candidate"),
    ]
    assert "nothing serves that it could be compared with" in journal.read(workspace.journal)[1].reason

    # The same window and the same parameters: nothing could come of it but what there is.
    again = run(workspace)
    assert (again.outcome, again.version) == ("skipped", None)
    assert f"registry:{champion.version}, active as lob {first.version}" in again.reason

    params = with_free_ports(load_params(workspace.params, SMALL))
    with running_triton(workspace, params) as control:
        assert control.ready_versions("lob") == [first.version]
        check_chunks_equal_steps(control.endpoint, workspace, first)

        second = run(workspace, **{"train.seed": 12})
        assert (second.outcome, second.model, second.served) == ("candidate", "lob_candidate", True)
        assert repository.models() == ["lob", "lob_candidate", "lob_drift"]
        assert control.ready_versions("lob_drift") == [first.version]
        assert repository.active("lob") == first.version
        assert control.ready_versions("lob") == [first.version]
        assert control.ready_versions("lob_candidate") == [second.version]
        challenger = alias_targets(workspace, "lob").challenger
        assert challenger is not None
        assert challenger.version == second.registered
        assert challenger.tags[SERVING] == f"candidate lob_candidate {second.version}"

        # What becomes of plans never fails a promotion.
        from lobsmith.pipelines.reconcile import reconcile

        plans = {"engine.builder": "tensorrt_rtx", "engine.capabilities": ["8.9"]}
        request(workspace, "lob", CHAMPION, challenger.version, "the test")
        reconciled = reconcile(str(workspace.root), {**SMALL, **plans})
        assert control.ready_versions("lob") == [first.version, reconciled.promoted]
        assert control.ready_versions("lob_drift") == [first.version, reconciled.promoted]
        assert control.ready_versions("lob_candidate") == []
        with urllib.request.urlopen(f"http://{control.endpoint.http_url}/v2/models/lob/stats") as answer:
            stats = {version["version"]: version for version in json.load(answer)["model_stats"]}
        assert int(stats[str(reconciled.promoted)]["inference_stats"]["success"]["count"]) >= SMALL["serving.warmup"]


def check_chunks_equal_steps(endpoint, workspace: Workspace, retrained) -> None:
    """1000 rows in the largest chunks equal 1000 single steps that carry the state, over every transport."""
    dataset = load_dataset(Path(retrained.run_directory) / DATASET)
    rows = dataset.rows.features[-1000:]
    reference = None
    for transport in (
        GrpcTransport(endpoint.grpc_url),
        HttpTransport(endpoint.http_url),
        InProcessTransport(Repository.of(workspace)),
    ):
        for chunk in (250, 1):
            state = np.zeros((1, transport.describe("lob").state_size), np.float32)
            parts = []
            for start in range(0, len(rows), chunk):
                answer = transport.infer("lob", retrained.version, rows[None, start : start + chunk], state, 10.0)
                assert answer.version == retrained.version
                state = answer.next_state
                parts.append(np.concatenate([answer.probabilities[0], answer.outlook[0]], axis=2))
            answers = np.concatenate(parts)
            assert np.isfinite(answers).all()
            reference = answers if reference is None else reference
            assert answers.shape == (1000, 2, 8)
            np.testing.assert_allclose(answers[..., :3], reference[..., :3], atol=1e-5)
            np.testing.assert_allclose(answers[..., 3:], reference[..., 3:], rtol=1e-5, atol=1e-5)
        golden = load_golden(Path(retrained.manifest).parent / "golden.safetensors")
        answer = transport.infer("lob", retrained.version, golden.features, golden.state, 10.0)
        np.testing.assert_allclose(answer.probabilities, golden.probabilities, atol=1e-5)
        np.testing.assert_allclose(answer.outlook, golden.outlook, rtol=1e-5, atol=1e-5)
        transport.close()


@pytest.mark.slow
def test_a_refused_candidate_is_recorded_and_not_published(workspace: Workspace) -> None:
    with pytest.raises(GateError, match="skill refused"):
        run(workspace, **{"gates.skill": 0.01})
    assert untouched(workspace)
    assert [entry.action for entry in journal.read(workspace.journal)] == [journal.REFUSED]
    assert alias_targets(workspace, "lob") == AliasTargets()


def test_a_thin_window_is_refused_before_training(workspace: Workspace) -> None:
    with pytest.raises(ThinWindowError, match="minimum_coverage"):
        run(workspace, **{"window.minimum_coverage": 0.5})
    assert untouched(workspace)


@pytest.mark.slow
def test_another_wire_contract_under_the_same_name_is_refused(workspace: Workspace) -> None:
    published = run(workspace)
    with pytest.raises(ContractError, match="model.name"):
        run(workspace, **{"features.size_decay_s": 30.0})
    assert Repository.of(workspace).versions("lob") == [published.version]
    assert Repository.of(workspace).models() == ["lob", "lob_drift"]


@pytest.mark.recorded
@pytest.mark.slow
def test_a_batch_that_breaks_the_contract_stops_the_flow(workspace: Workspace) -> None:
    with pytest.raises(DataContractError, match=r"seconds: 1 of 1 rows .* is 5"):
        run(workspace, **{"contract.minimum_seconds": 1e6})
    assert untouched(workspace)
    with pytest.raises(DataContractError, match="daily volume refused"):
        run(workspace, **{"contract.liquidity.minimum_daily_volume_btc": 1e9})
    assert untouched(workspace)


@pytest.mark.slow
def test_a_recorded_session_over_midnight(workspace: Workspace, recorded: Path) -> None:
    files = [str(recorded / "binance" / f"usdm-btcusdt-202407{day}.gz") for day in (18, 19)]
    retrained = run(workspace, files, **{"gates.skill": 1.0, "train.epochs": 4, "train.sequences_per_epoch": 512})
    store = Store(Path(retrained.run_directory) / "market")
    account = store.session(store.choose()).accounting
    assert (account.depth_messages, account.trades) == (9022, 10701)
    assert (account.sequence_breaks, account.crossed) == (0, 0)


def test_a_bad_capture_ends_in_one_error_and_leaves_nothing(workspace: Workspace) -> None:
    (workspace.root / "empty.gz").write_bytes(b"")
    with pytest.raises(CaptureError, match=r"empty\.gz"):
        run(workspace, [str(workspace.root / "empty.gz")])
    assert untouched(workspace)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_in_its_folder(workspace: Workspace) -> None:
    """The market data are not read again, and what is trained is what an uninterrupted run has trained."""
    from lobsmith.pipelines.retrain import retrain

    whole = run(workspace)
    directory = Path(whole.run_directory)
    sizes = {path: path.stat().st_mtime_ns for path in (directory / "market").rglob("*.parquet")}
    weights = (directory / "weights.safetensors").read_bytes()
    (directory / "weights.safetensors").unlink()
    again = retrain(str(workspace.root), None, SMALL, directory.name)
    assert again.run_directory == whole.run_directory
    assert {path: path.stat().st_mtime_ns for path in (directory / "market").rglob("*.parquet")} == sizes
    assert (directory / "weights.safetensors").read_bytes() == weights
    # The very bits that are served already: there is nothing to publish.
    assert (again.outcome, again.version) == ("in service", whole.version)


def test_f22_the_lease_of_a_killed_run_is_free_and_that_of_a_running_one_is_not(workspace: Workspace) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lobsmith.lease import hold_lease\n"
        "with hold_lease(Path(sys.argv[1]), 'retrain lob', ttl_s=600, wait_s=0):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(workspace.retrain_lease)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LeaseError, match=rf"process {other.pid} .*retrain lob"):
            run(workspace)
        late = scheduled(workspace)
        assert (late.outcome, str(other.pid) in late.reason) == ("skipped", True)
        assert not workspace.runs.exists()
    finally:
        other.kill()
        other.wait()
    with pytest.raises(ThinWindowError):
        run(workspace, **{"window.minimum_coverage": 0.5})


@pytest.mark.slow
def test_f23_of_late_runs_only_the_first_trains(workspace: Workspace) -> None:
    from lobsmith.pipelines.retrain import newer_than

    due = datetime.now(UTC)
    assert newer_than(workspace, "lob", due) is None
    with pytest.raises(GateError):
        run(workspace, **{"gates.skill": 0.01})
    assert newer_than(workspace, "lob", datetime.now(UTC)) is None
    reason = newer_than(workspace, "lob", due)
    assert reason is not None
    assert "a newer window was trained" in reason
    assert newer_than(workspace, "other", due) is None


def scheduled(workspace: Workspace):
    from lobsmith.pipelines.retrain import retrain

    return retrain(str(workspace.root), None, SMALL, scheduled=True)


@pytest.mark.parametrize("name", ["nothing", "../stages", ""])
def test_a_run_that_has_nothing_to_go_on_from_is_an_error(workspace: Workspace, name: str) -> None:
    from lobsmith.pipelines.retrain import run_to_resume

    with pytest.raises(DataError, match="start a new one"):
        run_to_resume(workspace, name)
