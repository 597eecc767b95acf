"""The notebooks of `examples/`: valid, stored with their outputs, and executed, with what they show checked."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import psutil
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
MOST_CODE_CELLS = 12


def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("examples_run", EXAMPLES / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = runner()


def test_every_notebook_is_run() -> None:
    assert sorted(run.NOTEBOOKS) == sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("name", run.NOTEBOOKS)
def test_a_notebook_is_a_story_with_its_outputs(name: str) -> None:
    path = EXAMPLES / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= MOST_CODE_CELLS
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    content = path.read_text()
    assert len(content) < 400_000
    assert "\\u001b" not in content
    assert [place for place in ("/tmp/", "/home/", str(ROOT)) if place in content] == []  # noqa: S108
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            links = [part.split(")")[0] for part in cell.source.split("](")[1:]]
            assert [link for link in links if "://" not in link and not (EXAMPLES / link).exists()] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples").resolve()


def executed(name: str, folder: Path, **values: str) -> dict[str, Any]:
    """Run a notebook; return values of expressions at its end. Nothing that it started is left."""
    ask = "dict(" + ", ".join(f"{key}={expression}" for key, expression in values.items()) + ")"
    notebook = run.execute(name, folder, ask=ask)
    running = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in running if str(folder) in command] == []
    return ast.literal_eval(notebook.cells[-1].outputs[-1].text)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_first_model(folder: Path) -> None:
    found = executed(
        "first_model",
        folder,
        scores="scores.to_dicts()",
        ups="deciles['up'].to_list()",
        sums="[table.select(f'{way}_{ms}ms' for way in ('down', 'unchanged', 'up')).sum_horizontal().to_list()[::500] "
        "for ms in (50, 1000)]",
        calibration="(calibration['predicted'] - calibration['happened']).abs().max()",
        reason="answer.prediction.reason",
        last="answer.prediction.probabilities[2].tolist()",
        same="table.select('down_1000ms', 'unchanged_1000ms', 'up_1000ms').row(-1)",
    )
    # Imbalance leads the mid, and the network finds more than that.
    assert found["ups"][-1] > found["ups"][0] + 0.05
    by_ms = {row["ms"]: row for row in found["scores"]}
    assert by_ms[50]["rows"] > 10_000
    for ms in (50, 100, 1000):
        assert by_ms[ms]["accuracy"] > by_ms[ms]["base rate"] + 0.02
    assert all(total == pytest.approx(1.0, abs=1e-4) for totals in found["sums"] for total in totals)
    assert found["calibration"] < 0.2
    assert found["reason"] is None
    assert found["last"] == pytest.approx(found["same"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_read_a_drift_report(folder: Path) -> None:
    found = executed(
        "read_a_drift_report",
        folder,
        findings="{verdict['kind']: verdict['finding'] for verdict in check['verdicts']}",
        moved="moved['name'].to_list()",
        past="len(rows_verdict['null'])",
        value="rows_verdict['value']",
        largest="max(rows_verdict['null'])",
        mode="json.loads((Workspace.find().modes / 'lob.json').read_text())['mode']",
    )
    assert found["findings"]["covariate"] == "drift"
    assert sum("size" in name or "fill" in name for name in found["moved"]) >= 4
    assert found["value"] > found["largest"]
    assert found["past"] >= 10
    assert found["mode"] == "conservative"


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_promote_and_roll_back(folder: Path) -> None:
    found = executed(
        "promote_and_roll_back",
        folder,
        blocks="blocks.height",
        finite="bool(np.isfinite(losses(candidate)).all() and not np.array_equal(losses(candidate), losses(active)))",
        journal="[tuple(map(entry.get, ('action', 'model', 'version_from', 'version_to'))) for entry in journal]",
    )
    assert found["blocks"] >= 20
    assert found["finite"]
    serving = [entry for entry in found["journal"] if entry[1] == "lob"]
    first, second = serving[0][3], serving[1][3]
    assert first < second
    # The alias follows the rollback.
    assert [entry[0] for entry in serving[-2:]] == ["rolled back", "settled"]
    assert serving[-2][2:] == (second, first)
    shown = [sys.executable, "-m", "lobsmith", "--root", str(folder / "desk"), "repository", "verify"]
    assert subprocess.run(shown, capture_output=True, check=False).returncode == 0
