"""The public names of `lobsmith`: listed, documented, typed, imported lazily; used on a captured file."""

import ast
import inspect
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import lobsmith
from lobsmith import FeatureStream, LobsmithError, Workspace, open_stream, predict, read_features
from lobsmith.errors import DataError, ParamsError, ServingError, UntrainedInstrumentError
from lobsmith.features.captured import read_dataset
from lobsmith.features.definitions import NAMES
from lobsmith.market.instrument import Instrument
from lobsmith.market.simulator import simulate
from lobsmith.market.simulator.raw import write_raw
from lobsmith.params import load_params
from lobsmith.trading.replay import quality_by_horizon
from tests.served import publish_small
from tests.small import SMALL, params_file, small_params
from tests.typed import surface

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "prefect", "mlflow", "polars", "pandas", "numba", "numpy", "onnxruntime", "click")


def imported(code: str) -> set[str]:
    """Heavy libraries that a fresh process has imported after `code`."""
    code += f"\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(completed.stdout.split())


def test_the_listed_names_are_those_that_type_checkers_see_and_no_other() -> None:
    tree = ast.parse(Path(lobsmith.__file__).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {name.name: node.module for node in typed.body for name in node.names}
    assert lobsmith.__all__ == sorted(seen, key=lambda name: (not name[0].isupper(), name))
    assert {name: f"lobsmith.{module}" for name, module in lobsmith._MODULES.items()} == seen
    assert dir(lobsmith) == sorted([*lobsmith.__all__, "__version__"])
    assert Path(lobsmith.__file__).with_name("py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'open_steam'"):
        _ = lobsmith.open_steam


@pytest.mark.parametrize("name", lobsmith.__all__)
def test_every_name_is_documented_and_typed(name: str) -> None:
    value = getattr(lobsmith, name)
    assert value.__name__ == name
    assert f"`{name}" in (ROOT / "docs" / "python.md").read_text()
    public = [value]
    if inspect.isclass(value):
        public += [member for key, member in vars(value).items() if inspect.isfunction(member) and key[0] != "_"]
    for part in public:
        assert len(inspect.getdoc(part)) > 20, part
        if inspect.isfunction(part):
            described = inspect.signature(part)
            assert described.return_annotation is not inspect.Signature.empty, part
            bare = [name for name, parameter in described.parameters.items() if parameter.annotation is parameter.empty]
            assert set(bare) <= {"self"}, part


def test_names_are_imported_when_they_are_used() -> None:
    assert imported("import lobsmith; dir(lobsmith); from lobsmith import LobsmithError, Workspace") == set()
    every = imported("from lobsmith import *")
    assert "numba" in every
    assert every <= {"numba", "numpy", "polars", "pandas", "click"}


@pytest.mark.slow
def test_a_users_file_is_typed_strictly(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text('from lobsmith import open_stream\nreveal_type(open_stream("a:b"))\nopen_stream(3)\n')
    # The project's settings are strict.
    command = [sys.executable, "-m", "mypy", "tests/typed/surface.py", str(wrong)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout.splitlines()
    assert [line.split(f"{wrong.name}:")[1][:60] for line in found[:-1]] == [
        '2: note: Revealed type is "lobsmith.trading.session.Stream"',
        '3: error: Argument 1 to "open_stream" has incompatible type ',
    ]
    assert found[-1].startswith("Found 1 error in 1 file (checked 2 source files)")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with a published network and `session.gz`; its parameters are the small ones."""
    root = tmp_path_factory.mktemp("project")
    table = yaml.safe_load(params_file().read_text())
    for name, value in SMALL.items():
        *sections, key = name.split(".")
        section = table
        for part in sections:
            section = section[part]
        section[key] = value
    (root / "params.yaml").write_text(yaml.safe_dump(table))
    write_raw(simulate(7, 60), root / "session.gz")
    workspace = Workspace(root)
    publish_small(workspace, small_params(), seed=1)
    return workspace


def test_a_project_is_found_from_a_folder_below_it(project: Workspace, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("LOBSMITH_ROOT", raising=False)
    below = project.root / "notes" / "today"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert Workspace.find() == project
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=rf"^{tmp_path}: no params.yaml there or above it; pass root=DIR"):
        Workspace.find()
    monkeypatch.setenv("LOBSMITH_ROOT", str(project.root))
    assert Workspace.find() == Workspace.find(project) == Workspace.find(str(project.root)) == project
    with pytest.raises(ParamsError, match="no params.yaml there; pass"):
        Workspace.find(below)


def test_features_of_a_file_as_a_table(project: Workspace) -> None:
    file = project.root / "session.gz"
    dataset = read_dataset([file], load_params(project.params))
    table = read_features(file, root=project)
    assert table.columns == ["time", "segment", "mid", "complete", *NAMES, "direction_100ms", "direction_1000ms"]
    np.testing.assert_array_equal(table.select(NAMES).to_numpy(), dataset.rows.raw)
    np.testing.assert_array_equal(table["time"].to_physical().to_numpy(), dataset.rows.time)
    np.testing.assert_allclose(table["mid"], dataset.rows.mid * 0.05)
    directions = table["direction_1000ms"].to_physical().cast(pl.Int8).fill_null(-1)
    np.testing.assert_array_equal(directions, dataset.labels[:, 1])
    scaled = read_features(str(file), root=project.root, normalised=True)
    np.testing.assert_array_equal(scaled.select(NAMES).to_numpy(), dataset.rows.features)
    complete = [row for row, known in zip(dataset.rows, dataset.rows.complete, strict=True) if known]
    read = list(FeatureStream.read(file, root=project))
    assert [row[2:] for row in read] == [row[2:] for row in complete]
    np.testing.assert_array_equal([row.features for row in read], [row.features for row in complete])


def test_predictions_of_a_file_are_those_of_its_stream(project: Workspace) -> None:
    file = project.root / "session.gz"
    table = predict(file, root=project)
    gated = surface.answers("simulator:SIM", file, project.root)
    streamed = np.stack([answer.prediction.probabilities for answer in gated])
    columns = [f"{name}_{ms}ms" for ms in (100, 1000) for name in ("down", "unchanged", "up")]
    np.testing.assert_allclose(table.select(columns).to_numpy().reshape(-1, 2, 3), streamed, atol=1e-5)
    dataset = read_dataset([file], load_params(project.params))
    labels = dataset.labels[dataset.rows.complete]
    likeliest = streamed[:, 0].argmax(axis=1)
    known = labels[:, 0] >= 0
    hits = table.filter(pl.col("direction_100ms").is_not_null())
    right = hits["direction_100ms"].to_physical() == hits.select(columns[:3]).to_numpy().argmax(axis=1)
    assert right.mean() == pytest.approx((likeliest == labels[:, 0])[known].mean(), abs=1e-3)
    assert quality_by_horizon(streamed, labels, (100, 1000))[0].rows == len(hits)
    (_, whole) = surface.tables(str(file), project.root)
    assert whole.columns[-5:] == [
        f"{head}_1000ms" for head in ("significant", "bid_withdrawal", "ask_withdrawal", "move_bps", "volatility_bps")
    ]


def test_own_events_through_a_stream(project: Workspace) -> None:
    params, session = load_params(project.params), simulate(7, 60)
    options = {"root": project.root, "transport": "inprocess", "guard": False, "record": None}
    with open_stream(session.instrument, **options) as stream:
        bounds = session.events.message_bounds()[::500]
        parts = (session.events.slice(*ends) for ends in pairwise(bounds))
        acted = surface.own_feed(session.instrument, parts, params, stream)
    assert 0 < acted <= len(list(FeatureStream.read(project.root / "session.gz", root=project)))


def test_what_cannot_be_predicted_is_an_error(project: Workspace, tmp_path: Path) -> None:
    file = project.root / "session.gz"
    with pytest.raises(ServingError, match=r"^lob: no version 3 is listed in .*; there are \d+$"):
        predict(file, root=project, version=3)
    with pytest.raises(ServingError, match="made for other features or labels"):
        predict(file, root=project, params=small_params(**{"labels.significant_bps": 9.0}))
    short = tmp_path / "short.gz"
    write_raw(simulate(7, 1), short)
    with pytest.raises(DataError, match=r"rows, none complete: .*normaliser_minimum"):
        predict(short, root=project)
    with pytest.raises(LobsmithError, match="absent"):
        read_features(tmp_path / "absent.gz", root=project)
    other = Instrument(venue="simulator", symbol="OTHER", tick_size=0.1, lot_size=0.001)
    publish_small(project, small_params(), seed=2, model="elsewhere", instruments=(other,))
    with pytest.raises(UntrainedInstrumentError, match="was trained on simulator:OTHER, not simulator:SIM"):
        predict(file, root=project, model="elsewhere")
    assert len(predict(file, root=project, model="elsewhere", allow_other_instrument=True))
