import ast
import re
from pathlib import Path

import pytest
import yaml

from lobsmith import params
from lobsmith.errors import ParamsError
from lobsmith.params import load_params
from lobsmith.params.section import Section
from tests.small import params_file, small_params

MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted(Path(params.__file__).parent.glob("*.py"))}
SECTIONS = {
    node.name: node
    for name, module in MODULES.items()
    for node in module.body
    if isinstance(node, ast.ClassDef) and name != "section"
}


def described_fields(section):
    """Return the text under each field; None where there is no string."""
    texts = {}
    for field, below in zip(section.body, [*section.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            text = below.value if isinstance(below, ast.Expr) else None
            texts[field.target.id] = text.value if isinstance(text, ast.Constant) else None
    return texts


@pytest.mark.parametrize("name", SECTIONS)
def test_every_field_has_a_docstring_of_one_line(name):
    fields = described_fields(SECTIONS[name])
    assert tuple(fields) == getattr(params, name).__struct_fields__
    wrong = [field for field, text in fields.items() if not text or not text.endswith(".") or "\n" in text]
    assert wrong == []


def test_every_section_is_read():
    assert set(SECTIONS) == {section.__name__ for section in Section.__subclasses__()}


def test_all_is_sorted_and_complete():
    defined = set()
    for name, module in MODULES.items():
        for node in module.body if name != "section" else []:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.Assign):
                defined |= {target.id for target in node.targets}
    assert params.__all__ == sorted(name for name in defined if not name.startswith("_"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"drift.recent_s": 400, "drift.reference_s": 200}, "drift.recent_s"),
        ({"drift.every_ms": 30000}, "drift.minimum_rows"),
        ({"drift.reference_s": 1e18}, "drift.reference_s"),
        ({"drift.recent_s": float("inf")}, "drift.recent_s"),
    ],
)
def test_absurd_windows_are_refused(changes, named):
    """Windows that cannot hold enough rows are refused."""
    with pytest.raises(ParamsError, match=named):
        small_params(**changes)


NETWORKS = "expected one of bin_ctabl, cnn_lstm_attention, deeplob, logistic, lstm, queue_imbalance, volatility"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("model.network", "foo", f"model.network: {NETWORKS}, got 'foo'"),
        ("compress.precisions", ["fp32", "x"], "compress.precisions.1: expected one of bf16, fp16, fp32, int8_dynamic"),
        ("data.source", "file", "data.source: expected one of captures, live, simulator, got 'file'"),
        ("train.epochs", "x", "train.epochs: expected int, got 'x'"),
        ("train.epochs", 0, "train.epochs: expected int >= 1, got 0"),
        ("model", 3, "model: expected object, got 3"),
        ("model.name", "lob_trt", "model.name: expected a letter, then letters, digits and underscores, not ending"),
        ("split.embargo_ms", -1, "split.embargo_ms: expected int >= 0, got -1"),
        ("drift.recent_s", 1e9, "drift.recent_s must not be above drift.reference_s"),
    ],
)
def test_a_wrong_value_names_the_valid_ones_and_where_it_comes_from(tmp_path, name, value, why):
    with pytest.raises(ParamsError) as error:
        load_params(params_file(), {"train.seed": 3, name: value})
    assert str(error.value).startswith(f"{params_file()} with --set {name}={value}")
    assert f": {why}" in str(error.value)
    path = tmp_path / "params.yaml"
    path.write_text(changed(name, value))
    # What `--set` replaces beside it is not named.
    with pytest.raises(ParamsError) as error:
        load_params(path, {"train.seed": 3})
    place, _, rest = str(error.value).removeprefix(f"{path}:").partition(": ")
    assert rest.startswith(why)
    number = int(place)
    assert path.read_text().splitlines()[number - 1].strip().startswith(f"{name.split('.')[-1]}:")


def test_an_unknown_parameter_names_the_closest_or_all_of_its_section(tmp_path):
    path = tmp_path / "params.yaml"
    for name, why in (
        ("train.epoch", "there is no parameter train.epoch; did you mean train.epochs?"),
        ("model.foo", "there is no parameter model.foo; there are name, network, channels, hidden, layers, ring, att"),
        ("modle.foo", "there is no parameter modle; did you mean "),
    ):
        with pytest.raises(ParamsError, match=re.escape(f"--set {name}=1: {why}")):
            load_params(params_file(), {name: 1})
        path.write_text(changed(name, 1))
        with pytest.raises(ParamsError, match=rf"{path}:\d+: {re.escape(why)}"):
            load_params(path)


def test_a_missing_parameter_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    table = yaml.safe_load(params_file().read_text())
    del table["model"]["hidden"]
    path.write_text(yaml.safe_dump(table))
    with pytest.raises(ParamsError, match=r"params\.yaml:\d+: there is no model\.hidden"):
        load_params(path)


def changed(name, value):
    """Return the text of params.yaml with a value replaced or added."""
    table = yaml.safe_load(params_file().read_text())
    *sections, key = name.split(".")
    section = table
    for part in sections:
        section = section.setdefault(part, {})
    section[key] = value
    return yaml.safe_dump(table)


@pytest.mark.parametrize("name", ["lob_candidate", "lob_trt", "lob_drift", "../lob", "lob\n"])
def test_names_of_candidates_and_companions_are_no_production_models(name):
    with pytest.raises(ParamsError, match=r"model\.name"):
        small_params(**{"model.name": name})


def test_a_fallback_is_always_kept():
    with pytest.raises(ParamsError, match=r"release\.keep"):
        small_params(**{"release.keep": 1})
