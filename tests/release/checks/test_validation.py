import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from msgspec import structs
from safetensors.numpy import save_file

from lobsmith.compress import GOLDEN, MODEL, STEP
from lobsmith.errors import ReleaseError
from lobsmith.files import sha256_file
from lobsmith.release.checks.validation import check_version, validate
from lobsmith.release.context import Release
from lobsmith.release.publish.onnx import publish
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import read_manifest
from lobsmith.workspace import Workspace
from tests.release import toy


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of a valid version."""
    workspace = Workspace(tmp_path_factory.mktemp("project"))
    manifest = publish(
        Release(workspace, toy.params()), toy.artifact(workspace.root / "run"), model="toy", contract=toy.CONTRACT
    )
    return Repository.of(workspace).directory("toy", manifest.version)


@pytest.fixture
def version(published, tmp_path):
    """A copy of it that a test may damage."""
    root = shutil.copytree(published.parents[2], tmp_path / "project")
    return root / published.relative_to(published.parents[2])


def reseal(directory):
    """Make the manifest agree with the files again, as an honest publisher of a bad model would."""
    manifest = read_manifest(directory)
    files = {name: sha256_file(directory / name) for name in (MODEL, GOLDEN)}
    toy.seal(directory, structs.replace(manifest, files=files, artifact_id=files[MODEL]))


def test_validates_a_version_in_another_process(version):
    validation = validate(version, toy.trust_of(version), 60)
    assert validation.rows == len(toy.ROWS)
    assert validation.largest_difference <= 1e-6


def test_prints_one_object_and_a_status(version):
    command = [sys.executable, "-m", "lobsmith.release.checks.validation"]
    valid = subprocess.run([*command, str(version), str(toy.trust_of(version).path)], capture_output=True, check=False)
    (version / GOLDEN).unlink()
    broken = subprocess.run([*command, str(version), str(toy.trust_of(version).path)], capture_output=True, check=False)
    assert (valid.returncode, json.loads(valid.stdout)["proven"]) == (0, True)
    assert (broken.returncode, json.loads(broken.stdout)["proven"]) == (1, False)
    assert "golden.safetensors: missing" in json.loads(broken.stdout)["reason"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"offset": float("nan")}, "not finite"),
        ({"offset": float("inf")}, "not finite"),
        ({"outlook_offset": float("nan")}, "not finite"),
        ({"outlook_offset": float("inf")}, "not finite"),
        ({"scale": 0.0}, "same for every row"),
        ({"offset": 0.5}, "no probabilities"),
        ({"names": {"features": "ticks"}}, "inputs"),
    ],
)
def test_refuses_a_bad_model(version, model, message):
    toy.write_model(version / MODEL, **model)
    # Vectors that the model itself made, so that nothing but its answers can give it away.
    if "names" not in model:
        golden = dataclasses.asdict(toy.golden(version / MODEL))
        save_file({name: np.nan_to_num(value) for name, value in golden.items()}, version / GOLDEN)
    reseal(version)
    with pytest.raises(ReleaseError, match=message):
        check_version(version, toy.trust_of(version))


def test_refuses_another_models_answers(version):
    toy.write_model(version / MODEL, scale=0.301)
    reseal(version)
    with pytest.raises(ReleaseError, match="probabilities as one chunk differ from the golden vectors by"):
        check_version(version, toy.trust_of(version))


def test_refuses_another_models_outlook(version):
    toy.write_model(version / MODEL, outlook_offset=0.001)
    reseal(version)
    with pytest.raises(ReleaseError, match="outlook as one chunk differ from the golden vectors by"):
        check_version(version, toy.trust_of(version))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("features", lambda x: x[:, :1]),
        ("features", lambda x: x[:, :, :2]),
        ("features", lambda x: x * np.float32("nan")),
        ("probabilities", lambda x: x.astype(np.float64)),
        ("outlook", lambda x: x.astype(np.float64)),
        ("outlook", lambda x: x[..., :4]),
        ("outlook", lambda x: x * np.float32("inf")),
        ("next_state", lambda x: x[0]),
    ],
)
def test_refuses_vectors_that_tell_no_models_apart(version, name, change):
    golden = dataclasses.asdict(toy.golden(version / MODEL))
    golden[name] = np.ascontiguousarray(change(golden[name]))
    save_file(golden, version / GOLDEN)
    reseal(version)
    with pytest.raises(ReleaseError, match="make the golden vectors again"):
        check_version(version, toy.trust_of(version))


def test_refuses_a_file_that_is_no_golden_file(version):
    (version / GOLDEN).write_bytes(b"")
    reseal(version)
    with pytest.raises(ReleaseError, match=r"golden.safetensors: not golden vectors"):
        check_version(version, toy.trust_of(version))


def test_a_validation_that_hangs_is_killed(version):
    # A named pipe in a file's place is opened for ever; the check of the manifest comes first and must not do that.
    (version / "manifest.json").unlink()
    os.mkfifo(version / "manifest.json")
    with pytest.raises(ReleaseError, match="not validated within"):
        validate(version, toy.trust_of(version), 2)


def test_the_graph_for_one_row_is_validated_too(tmp_path):
    workspace = Workspace(tmp_path)
    good = toy.artifact(workspace.root / "run", step_scale=0.3)
    manifest = publish(Release(workspace, toy.params()), good, model="toy", contract=toy.CONTRACT)
    directory = Repository.of(workspace).directory("toy", manifest.version)
    assert set(manifest.files) == {MODEL, STEP, GOLDEN}
    assert check_version(directory, toy.trust_of(directory)).proven
    other = toy.artifact(workspace.root / "run", step_scale=0.31)
    with pytest.raises(ReleaseError, match=r"step.onnx: probabilities step by step differ from the golden vectors"):
        publish(Release(workspace, toy.params()), other, model="toy", contract=toy.CONTRACT)
    assert Repository.of(workspace).versions("toy") == [manifest.version]


def test_each_precision_has_its_tolerance(tmp_path):
    workspace = Workspace(tmp_path)
    for precision, passes in (("fp32", False), ("int8_static", True)):
        near = toy.artifact(workspace.root / "run", step_scale=0.301, precision=precision)
        if passes:
            manifest = publish(Release(workspace, toy.params()), near, model="toy", contract=toy.CONTRACT)
            assert manifest.precision == precision
        else:
            with pytest.raises(ReleaseError, match="differ"):
                publish(Release(workspace, toy.params()), near, model="toy", contract=toy.CONTRACT)
    strange = toy.artifact(workspace.root / "run", precision="fp8")
    with pytest.raises(ReleaseError, match="its precision is 'fp8'"):
        publish(Release(workspace, toy.params()), strange, model="toy", contract=toy.CONTRACT)
