"""The command line as its users see it: its output and its exit status."""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lobsmith.cli import doctor
from lobsmith.cli.main import cli
from lobsmith.workspace import Workspace
from tests.small import params_file

LINE = (
    b'1723161255030314667 {"stream":"btcusdt@depth@0ms","data":{"e":"depthUpdate","E":1723161256299,'
    b'"T":1723161256298,"s":"BTCUSDT","U":1,"u":2,"pu":0,"b":[["1.0","1"]],"a":[]}}\n'
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(params_file().read_text())
    return tmp_path


def lobsmith(root: Path, *arguments: str) -> Result:
    """Run a command within this process, in the folder of the project."""
    with chdir(root):
        return CliRunner().invoke(cli, ["--root", str(root), *arguments])


def in_a_process(root: Path, *arguments: str, timeout: float = 280, **environment: str) -> Result:
    completed = subprocess.run(
        [sys.executable, "-m", "lobsmith", "--root", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        cwd=root,
        check=False,
    )
    out, errors = completed.stdout.encode(), completed.stderr.encode()
    return Result(CliRunner(), out, errors, out + errors, None, completed.returncode, None)


def refused(result: Result, *texts: str) -> None:
    """One clear line on standard error, no traceback, exit status not 0."""
    assert result.exit_code != 0
    # An error that was not reported as a line.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    for text in texts:
        assert text in errors[0], errors[0]


BAD = {
    "empty": (b"", ["bad.gz"]),
    "truncated gzip": (gzip.compress(LINE * 500)[:-40], ["bad.gz"]),
    "garbage line": (gzip.compress(LINE + b"what is this\n"), ["bad.gz:2"]),
    "unknown format": (gzip.compress(b"time,price,size\n1,2,3\n"), ["bad.gz"]),
    "no snapshot": (gzip.compress(LINE), ["bad.gz", "snapshot"]),
}


@pytest.mark.parametrize(("content", "texts"), BAD.values(), ids=BAD)
def test_a_bad_capture_is_one_line_that_names_file_and_place(root: Path, content: bytes, texts: list[str]) -> None:
    (root / "bad.gz").write_bytes(content)
    refused(lobsmith(root, "replay", "bad.gz"), *texts)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("command", ["retrain", "demo"])
def test_a_bad_capture_leaves_no_half_made_version(root: Path, command: str) -> None:
    (root / "bad.gz").write_bytes(gzip.compress(LINE + b"what is this\n"))
    refused(in_a_process(root, command, "--capture", "bad.gz", timeout=240), "bad.gz:2")
    assert not list(Workspace(root).repository.glob("*"))
    assert not Workspace(root).staging.exists() or not list(Workspace(root).staging.iterdir())


def test_a_missing_file_is_one_line_of_the_process_too(root: Path) -> None:
    refused(in_a_process(root, "replay", "nowhere.gz"), "nowhere.gz")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--set", "train.epoch=3"], ["train.epoch"]),
        (["--set", "train.epochs=0"], ["train.epochs"]),
        (["--set", "split.test=1.0"], ["split.test"]),
        (["--set", "labels.horizons_ms=[50, 100]"], ["train.horizon_weights", "labels.horizons_ms"]),
        (["--set", "features.normaliser_minimum=2000"], ["features.normaliser_minimum"]),
        (["--set", "model.name=../x"], ["model.name"]),
    ],
)
def test_a_bad_parameter_is_one_line_that_names_it(root: Path, arguments: list[str], texts: list[str]) -> None:
    refused(lobsmith(root, "stage", "ingest", *arguments), "params.yaml", *texts)


@pytest.mark.parametrize("content", ["", "model: [", "nonsense: 1\n", None])
def test_a_bad_params_file_is_one_line(root: Path, content: str | None) -> None:
    (root / "params.yaml").unlink()
    if content is not None:
        (root / "params.yaml").write_text(content)
    refused(lobsmith(root, "stage", "ingest"), "params.yaml")


@pytest.mark.integration
def test_a_busy_port_is_one_line_that_names_it(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(lobsmith(root, "serve", "--http-port", str(port)), str(port))


@pytest.mark.slow
def test_a_server_that_does_not_listen_is_one_line(root: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{free.getsockname()[1]}"
    for transport in ("grpc", "http"):
        refused(lobsmith(root, "replay", "--simulate", "10", "--transport", transport, "--url", url), url)


def test_status_of_a_new_project(root: Path) -> None:
    result = lobsmith(root, "status", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "server": None,
        "models": {},
        "findings": [],
        "alerts": [],
        "journal": [],
        "errors": [],
    }


def test_doctor_says_what_is_there(root: Path) -> None:
    result = in_a_process(root, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["torch"]["found"]
    assert checks["parameters"]["found"]
    assert result.exit_code == (1 if any(c["needed"] and not c["found"] for c in checks.values()) else 0)


def test_doctor_names_versions_other_than_those_tested(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constraints = (params_file().parent / "constraints.txt").read_text()
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)", constraints, re.MULTILINE))

    def versions() -> dict[str, Any]:
        result = CliRunner().invoke(cli, ["--root", str(root), "doctor", "--json"])
        [check] = (check for check in json.loads(result.stdout)["checks"] if check["name"] == "versions")
        assert not check["needed"]
        return check

    monkeypatch.setattr(doctor, "version", lambda name: f"{tested[name]}+cpu" if name in tested else version(name))
    assert versions()["found"], versions()["detail"]
    monkeypatch.setitem(tested, "torch", "99.1")
    check = versions()
    assert not check["found"]
    assert check["detail"].startswith("other than tested: torch 99.1+cpu (")
    assert Path(check["detail"].split(" -c ")[1].split()[0]).read_text() == constraints


def test_doctor_names_the_builders_of_engines(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tensorrt() -> dict[str, Any]:
        result = CliRunner().invoke(cli, ["--root", str(root), "doctor", "--json"])
        checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
        assert not checks["TensorRT"]["needed"]
        return checks["TensorRT"]

    pytest.importorskip("tensorrt_rtx")
    assert tensorrt()["found"]
    assert f"tensorrt_rtx {version('tensorrt_rtx')}" in tensorrt()["detail"]
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    assert not tensorrt()["found"]
    assert "pip install" in tensorrt()["detail"]


def test_doctor_says_what_to_do_where_triton_is_missing(root: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hide"
    hidden.mkdir()
    # A package of that name without a server in it hides the real one, as on a machine without the wheel.
    (hidden / "pytriton").mkdir()
    (hidden / "pytriton" / "__init__.py").write_text("")
    path = os.pathsep.join([str(hidden), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = in_a_process(root, "doctor", "--json", PYTHONPATH=path)
    (triton,) = (check for check in json.loads(result.stdout)["checks"] if check["name"] == "Triton")
    assert result.exit_code == 1
    assert not triton["found"]
    assert "pip install" in triton["detail"]
    refused(in_a_process(root, "serve", PYTHONPATH=path), "pip install", "inprocess")


@pytest.mark.parametrize("command", ["demo", "drift", "monitor", "reconcile", "retrain", "shadow"])
@pytest.mark.parametrize("address", ["http://127.0.0.1:9/api", "nowhere"])
def test_a_flow_whose_prefect_server_is_away_ends_in_one_line(root, monkeypatch, address: str, command: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setenv("PREFECT_HOME", str(root))
    result = CliRunner().invoke(cli, ["--root", str(root), command])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"Error: {address}: Prefect's server does not answer")
    assert "unset PREFECT_API_URL" in line
