"""The wheel: one package, with flows and the files of a new project, also when built from the source distribution."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[1]
FLOWS = """
import sys
from pathlib import Path
import yaml
from prefect.flows import load_flow_from_entrypoint
for entry in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]:
    print(load_flow_from_entrypoint(entry["entrypoint"]).name)
files = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "lobsmith"}
assert [file for file in files.values() if not file.startswith(sys.argv[1])] == []
assert "lobsmith.pipelines.retrain" in files
assert "pipelines" not in sys.modules
"""


def pip(*arguments: str | Path, cwd: Path = ROOT) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def built(source: Path, folder: Path) -> Path:
    """Build a wheel in the present environment, without the network."""
    pip("wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    [wheel] = folder.glob("lobsmith-*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_one_package_with_flows_and_project(wheel: Path) -> None:
    files = contents(wheel)
    tops = {name.partition("/")[0] for name in files}
    [information] = [top for top in tops if top.endswith(".dist-info")]
    assert tops == {"lobsmith", information}
    for path in sorted((ROOT / "pipelines").glob("*.py")):
        assert files[f"lobsmith/pipelines/{path.name}"] == path.read_bytes()
    for name in ("params.yaml", "prefect.yaml", "dvc.yaml"):
        assert files[f"lobsmith/project/files/{name}"] == (ROOT / name).read_bytes()


@pytest.mark.slow
def test_the_source_distribution_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path]
    subprocess.run(build, cwd=ROOT, capture_output=True, timeout=280, check=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    again = built(tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path / "wheel")
    assert contents(again) == contents(wheel)


@pytest.mark.slow
def test_the_installed_wheel_makes_a_project_and_its_flows_load_there(wheel: Path, tmp_path: Path) -> None:
    installed, desk = tmp_path / "installed", tmp_path / "desk"
    pip("install", "--no-deps", "--no-index", "--target", installed, wheel)
    # A project's own folder of that name takes the place of no flow.
    (desk / "pipelines").mkdir(parents=True)
    (desk / "pipelines" / "__init__.py").write_text("raise ImportError('pipelines of the project')")
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=desk, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "lobsmith", "init", ".")
    assert "init" in python("-m", "lobsmith", "--help")
    assert set(python("-c", FLOWS, str(installed)).split()) == {"retrain", "reconcile", "shadow", "monitor", "drift"}
