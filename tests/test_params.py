import ast
from pathlib import Path

import pytest

from lobsmith import params
from lobsmith.errors import ParamsError
from lobsmith.params.section import Section
from tests.small import small_params

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


@pytest.mark.parametrize("name", ["lob_candidate", "lob_trt", "lob_drift", "../lob", "lob\n"])
def test_names_of_candidates_and_companions_are_no_production_models(name):
    with pytest.raises(ParamsError, match=r"model\.name"):
        small_params(**{"model.name": name})


def test_a_fallback_is_always_kept():
    with pytest.raises(ParamsError, match=r"release\.keep"):
        small_params(**{"release.keep": 1})
