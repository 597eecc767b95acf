"""Modules that run in a process of their own, and files of the package: both are named by strings."""

import ast
import importlib.util
import re
from importlib.resources import files
from pathlib import Path

import pytest

import lobsmith

SOURCES = Path(lobsmith.__file__).parent
CHILDREN = [
    "lobsmith.bench.swap_load",
    "lobsmith.compress.footprint",
    "lobsmith.compress.quantise.smoke_run",
    "lobsmith.compress.tensorrt.child",
    "lobsmith.monitoring.drift.evidently_child",
    "lobsmith.release.checks.validation",
    "lobsmith.services.mlflow_server",
    "lobsmith.services.prefect_server",
    "lobsmith.trading.recorder.process",
]
PACKAGED = (".css", ".jinja", ".json")


def dotted() -> set[str]:
    """Every string of the sources that has the form of a module of lobsmith."""
    names = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.update(re.findall(r"^lobsmith(?:\.[a-z_0-9]+)+$", node.value))
    # Keys of metadata in files that lobsmith writes.
    return names - {"lobsmith.events", "lobsmith.horizons_ms"}


@pytest.mark.parametrize("name", sorted({*CHILDREN, *dotted()}))
def test_every_module_named_by_a_string_is_there(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", CHILDREN)
def test_every_child_runs_as_a_program(name: str) -> None:
    source = Path(importlib.util.find_spec(name).origin).read_text(encoding="utf-8")
    assert 'if __name__ == "__main__":' in source


def test_modules_that_derive_the_name_of_their_child_name_one() -> None:
    from lobsmith.monitoring.drift import evidently
    from lobsmith.trading.recorder import recorder

    assert {evidently._MODULE, recorder._MODULE} <= set(CHILDREN)


@pytest.mark.parametrize("path", [path for path in sorted(SOURCES.rglob("*")) if path.suffix in PACKAGED])
def test_every_packaged_file_is_found_through_its_package(path: Path) -> None:
    package = ".".join(path.parent.relative_to(SOURCES.parent).parts)
    assert files(package).joinpath(path.name).read_text(encoding="utf-8")
