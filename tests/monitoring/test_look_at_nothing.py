"""A look for drift at a version that nobody has asked yet."""

from dataclasses import replace
from pathlib import Path

import pytest

from lobsmith.features.dataset import build_dataset
from lobsmith.gates.drift.reference import freeze, save_reference
from lobsmith.gates.drift.verdict import Finding
from lobsmith.market.simulator import simulate
from lobsmith.monitoring.look import look_for_drift
from lobsmith.monitoring.prediction_log import LogWriter
from lobsmith.release.manifest import read_manifest
from lobsmith.release.publish import publish
from lobsmith.release.repository import Repository
from lobsmith.workspace import Workspace
from tests.release import toy


@pytest.mark.parametrize("logged", [False, True], ids=["no log", "a log without sessions"])
def test_a_version_that_nobody_has_asked_has_missing_data(tmp_path: Path, logged: bool):
    workspace = Workspace(tmp_path)
    params = toy.params(
        model__name="toy", drift__every_ms=100, drift__reference_s=40, drift__recent_s=10, drift__minimum_rows=30
    )
    window = build_dataset(simulate(3, 120), params)
    save_reference(freeze([window], params.drift), tmp_path / "reference.safetensors")
    artifact = replace(
        toy.artifact(tmp_path / "run", scored=True),
        reference_path=tmp_path / "reference.safetensors",
        instruments=(window.instrument,),
    )
    version = publish(workspace, params, artifact, model="toy", contract=toy.CONTRACT).version
    if logged:
        with LogWriter.of(workspace, "toy", params):
            pass
    repository = Repository.of(workspace)
    active = read_manifest(repository.directory("toy", version), repository.trust)
    [found] = look_for_drift(workspace, params, active, now_ns=int(window.rows.time[-1]))
    assert {one.finding for one in found.look.verdicts} == {Finding.MISSING}
