"""The stages as an experiment: the real DVC, in a new project."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from lobsmith.cli.main import cli
from lobsmith.project.create import create_project
from tests.small import SMALL, params_file

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent


def project(folder: Path) -> Path:
    """Return a new project, as `lobsmith init` makes it, with small parameters."""
    create_project(folder)
    table = yaml.safe_load(params_file().read_text())
    for name, value in SMALL.items():
        *sections, key = name.split(".")
        section = table
        for part in sections:
            section = section[part]
        section[key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(table))
    return folder


def dvc(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        [BIN / "dvc", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def set_param(folder: Path, section: str, key: str, value: object) -> object:
    """Return what it was before."""
    table = yaml.safe_load((folder / "params.yaml").read_text())
    before, table[section][key] = table[section][key], value
    (folder / "params.yaml").write_text(yaml.safe_dump(table))
    return before


def hashes(folder: Path) -> dict[str, str]:
    """The MD5 of each stage's outputs, as the lock file has them; pages carry times of day, candidates their speed."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    outs = [out for stage in stages.values() for out in stage["outs"]]
    return {out["path"]: out["md5"] for out in outs if "data_docs" not in out["path"] and out["path"] != TIMES}


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


TIMES = ".lobsmith/stages/compress.json"
STAGES = ["ingest", "validate", "features", "reference", "train", "compress", "evaluate"]


def test_reproduces_skips_and_reruns_only_what_depends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = project(tmp_path / "one")
    other = shutil.copytree(original, tmp_path / "other")
    assert ran(dvc(original, "repro")) == STAGES
    assert ran(dvc(original, "repro")) == []
    first = hashes(original)

    monkeypatch.chdir(other)
    printed = {}
    for name in STAGES:
        done = CliRunner().invoke(cli, ["stage", name, "--json"])
        assert done.exit_code == 0, done.output
        printed[name] = json.loads(done.stdout)
    dvc(other, "commit", "--force")
    assert hashes(other) == first
    [candidate] = printed["compress"]["candidates"]
    names = {"name", "delta_log_loss", "delta_mcc", "agreement", "p50_us", "p99_us", "speedup", "bytes", "chosen"}
    assert names <= candidate.keys()
    assert (candidate["name"], candidate["chosen"]) == ("fp32", True)

    metrics = json.loads(dvc(original, "metrics", "show", "--json"))
    assert "data_fingerprint" in json.dumps(metrics)
    dvc(original, "plots", "show")
    page = (original / "dvc_plots" / "index.html").read_text()
    assert all(drawn in page for drawn in ("validation_loss", "came_true"))

    # These three run for real below, after the labels; here it is enough that no stage before them would.
    seed = set_param(original, "train", "seed", 12)
    assert ran(dvc(original, "repro", "--dry")) == ["train", "compress", "evaluate"]
    set_param(original, "train", "seed", seed)
    set_param(original, "contract", "minimum_seconds", 31)
    again = ran(dvc(original, "repro"))
    assert again[:2] == ["validate", "features"]
    assert "ingest" not in again
    # The same rows come out: nothing is trained again.
    assert "train" not in again
    set_param(original, "labels", "horizons_ms", [100, 500])
    assert ran(dvc(original, "repro")) == ["features", "reference", "train", "compress", "evaluate"]
