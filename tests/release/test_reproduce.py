"""A version is trained, published and made again; the parts are the real ones."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import structs

from lobsmith.cli.reproduce import reproduce as command
from lobsmith.errors import DataError, ReleaseError
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import write_raw
from lobsmith.params import as_table
from lobsmith.release.reproduce import DIFFERENT, IDENTICAL, reproduce
from lobsmith.release.version.manifest import Manifest, read_manifest
from lobsmith.stages.ingest import MARKET, ingest
from lobsmith.workspace import Workspace
from tests.release import remade, toy
from tests.small import small_params


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Workspace, Manifest]:
    root, params = tmp_path_factory.mktemp("project"), small_params()
    workspace = remade.project(root, params)
    return workspace, remade.published(workspace, params)


@pytest.fixture
def project(original, tmp_path, monkeypatch) -> Workspace:
    """A copy of the project, and a folder of its own for what is temporary."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return Workspace(shutil.copytree(original[0].root, tmp_path / "project"))


@pytest.fixture
def version(project, original) -> Path:
    return project.repository / original[1].model / str(original[1].version)


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def change_params(version: Path, **changes) -> None:
    """Publish the version's manifest with other parameters, signed as an honest publisher would."""
    toy.seal(version, structs.replace(read_manifest(version), params=as_table(small_params(**changes))))


def without_run(project: Workspace) -> None:
    shutil.rmtree(project.runs)


def test_the_same_bits_come_out_and_nothing_else_is_written(project, version):
    before = contents(project.root)
    reproduced = reproduce(project, version)
    assert (reproduced.verdict, reproduced.environment) == (IDENTICAL, ()), reproduced.reason
    assert {file.name: file.here for file in reproduced.files} == {
        name: read_manifest(version).files[name]
        for name in ("model.onnx", "step.onnx", "reference.safetensors", "drift.onnx")
    }
    assert reproduced.golden_difference == 0.0
    published = read_manifest(version).metrics
    assert {metric.name for metric in reproduced.metrics} == {name for name in published if "queue" not in name}
    assert all(metric.difference == 0.0 for metric in reproduced.metrics)
    assert all(name.startswith("queue_imbalance_") for name in reproduced.not_compared)
    assert contents(project.root) == before
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_another_seed_is_detected(project, version):
    change_params(version, **{"train.seed": 12})
    reproduced = reproduce(project, version, keep=True)
    assert reproduced.verdict == DIFFERENT
    assert "model.onnx, step.onnx have other bits; golden vectors differ" in reproduced.reason
    assert (Path(reproduced.directory) / "weights.safetensors").is_file()


def test_without_the_run_the_market_is_simulated_again(project, version):
    without_run(project)
    reproduced = reproduce(project, version)
    assert reproduced.verdict == IDENTICAL, reproduced.reason
    assert Path(reproduced.data).is_relative_to(tempfile.gettempdir())


def test_without_run_and_files_it_says_what_to_pass(project, version):
    without_run(project)
    change_params(version, **{"data.source": "captures", "data.captures": ["gone-*.gz"]})
    with pytest.raises(DataError, match=r"is gone, and .*matches no file; .* --capture"):
        reproduce(project, version)


def test_other_data_are_refused_before_anything_is_trained(project, version):
    market = project.runs / remade.RUN / MARKET
    ingest(small_params(**{"data.simulator.seed": 8}).data, None, market, replace=True)
    steps: list[str] = []
    with pytest.raises(DataError, match=f"fingerprint .* trained on {read_manifest(version).data_fingerprint}"):
        reproduce(project, version, on_progress=steps.append)
    assert steps == ["features"]
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_damaged_data_are_refused(project, version):
    day = next((project.runs / remade.RUN / MARKET).rglob("*.parquet"))
    day.write_bytes(day.read_bytes()[:-100])
    with pytest.raises(DataError, match=day.name):
        reproduce(project, version)


def of_a_venue(capture: Path) -> Path:
    """The same session as a capture of an instrument that is not the simulator's."""
    other = capture.with_name("other.gz")
    text = gzip.decompress(capture.read_bytes()).replace(b"sim@", b"abc@").replace(b"SIM", b"ABC")
    other.write_bytes(gzip.compress(text))
    return other


def test_files_of_another_session_are_refused(project, version, tmp_path):
    short = tmp_path / "short.gz"
    write_raw(simulate(seed=7, seconds=30), short)
    with pytest.raises(DataError, match=r"fingerprint of its data is \w+, while lob \d+ was trained on"):
        reproduce(project, version, captures=[short])
    with pytest.raises(DataError, match=r"holds binance-usdm:.*, not simulator:"):
        reproduce(project, version, captures=[of_a_venue(short)])


@pytest.mark.parametrize("what", ["manifest.sig", "manifest.json", "model.onnx"])
def test_a_version_that_was_altered_is_refused(project, version, what):
    (version / what).write_bytes((version / what).read_bytes()[:-2] + b"00")
    with pytest.raises(ReleaseError, match=what):
        reproduce(project, version)


def test_a_version_that_no_retrain_made_is_refused(project, version):
    toy.seal(version, structs.replace(read_manifest(version), candidate=None))
    with pytest.raises(ReleaseError, match="no retrain has made it"):
        reproduce(project, version)


def test_parameters_of_another_release_are_named(project, version):
    manifest = read_manifest(version)
    toy.seal(version, structs.replace(manifest, params=manifest.params | {"train": {"seed": 1}}))
    with pytest.raises(ReleaseError, match=r"of another release of lobsmith: .*train"):
        reproduce(project, version)


def test_the_command_takes_the_active_version_and_ends_with_1_if_it_differs(project, version):
    outcome = CliRunner().invoke(command, [], obj=project)
    assert outcome.exit_code == 0, outcome.output
    assert "identical: " in outcome.output
    change_params(version, **{"train.seed": 12})
    outcome = CliRunner().invoke(command, [version.name], obj=project)
    assert outcome.exit_code == 1
    assert "different: " in outcome.output


@pytest.mark.slow
def test_threads_of_the_environment_change_nothing(project, version):
    """Training sets its own number of threads, which is the one that the manifest records."""
    code = (
        "import sys; from pathlib import Path; from lobsmith.cli.reproduce import reproduce; "
        "from lobsmith.workspace import Workspace; reproduce.main(['--json'], obj=Workspace(Path(sys.argv[1])))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code, str(project.root)],
        env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(completed.stdout)
    assert (report["verdict"], report["environment"], report["golden_difference"]) == (IDENTICAL, [], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("candidate", ["", "int8_static", "pruned_50_int8_dynamic"])
def test_every_kind_of_candidate_comes_out_again_from_files(tmp_path, candidate):
    """It is made alone then, and not timed: the bits are those of the one that was chosen among all."""
    params = small_params(
        **{
            "compress.precisions": ["fp32", "int8_static", "int8_dynamic"],
            "compress.pruning": [0.5],
            "compress.fine_tune_epochs": 1,
            "compress.log_loss": 10.0,
            "compress.agreement": 0.0,
            "compress.candidate": candidate,
        }
    )
    write_raw(simulate(seed=7, seconds=60), tmp_path / "session.gz")
    capture = of_a_venue(tmp_path / "session.gz")
    workspace = remade.project(tmp_path, params, [capture])
    manifest = remade.published(workspace, params)
    assert manifest.candidate == candidate or not candidate
    without_run(workspace)
    version = workspace.repository / manifest.model / str(manifest.version)
    with pytest.raises(DataError, match=r"is gone, and it was trained on captures; .* --capture"):
        reproduce(workspace, version)
    reproduced = reproduce(workspace, version, captures=[capture])
    assert reproduced.verdict == IDENTICAL, reproduced.reason
