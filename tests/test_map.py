"""The map at the top of `docs/architecture.md`, and every file that the documents name, against the tree."""

import re
from itertools import chain
from pathlib import Path

import click
import pytest

from lobsmith.cli.main import cli

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lobsmith"
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in DOCUMENTS}
MAP = TEXTS["docs/architecture.md"].split("## The map\n")[1].split("\n## ")[0]
ROOMS, ADDITIONS = MAP.split("### Where do I add\n")
MOST_MODULES = 12

PATH = re.compile(r"(?<![\w/.<>-])(?:[\w-]+/)+[\w-]+\.py\b")
FILE = re.compile(r"`([\w-]+\.py)`")


def modules(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]


def rooms() -> set[str]:
    folders = {path.parent for path in SOURCE.rglob("__init__.py")} - {SOURCE}
    return {str(folder.relative_to(SOURCE)) for folder in folders}


def found(path: str) -> bool:
    return any((base / path).exists() for base in (SOURCE, ROOT))


def named_paths(text: str) -> set[str]:
    """What stands between backticks and is a folder or a file; a new file in angle brackets stands for its folder."""
    quoted = re.findall(r"`([\w./<>-]+)`", text)
    paths = {one for one in quoted if "/" in one or one.endswith((".py", ".yaml", ".toml", ".md"))}
    return {str(Path(one).parent) if "<" in one else one for one in paths}


def test_the_map_names_every_room_and_no_other() -> None:
    rows = re.findall(r"^\| `([\w/]+)/` \|(.*)$", ROOMS, re.MULTILINE)
    named = [room for room, _ in rows] + re.findall(r"`([\w/]+)/`", " ".join(text for _, text in rows))
    assert sorted(named) == sorted(rooms())


def test_rooms_stand_in_the_order_of_the_import_contract() -> None:
    contract = (ROOT / "pyproject.toml").read_text().split('containers = ["lobsmith"]')[1]
    layers = re.findall(r'^    "(.+)",$', contract.split("]")[0], re.MULTILINE)
    level = {name: height for height, layer in enumerate(reversed(layers)) for name in layer.split(" | ")}
    listed = [level[room] for room in re.findall(r"^\| `(\w+)/` \|", ROOMS, re.MULTILINE)]
    assert listed == sorted(listed)


def test_what_the_map_names_exists() -> None:
    assert [path for path in sorted(named_paths(MAP)) if not found(path)] == []


def test_the_map_says_where_to_add_what() -> None:
    rows = re.findall(r"^\| an? ([^|]+) \|", ADDITIONS, re.MULTILINE)
    wanted = ("venue", "network", "gate", "metric", "command", "stage", "parameter", "benchmark")
    assert [one for one in wanted if not any(row.startswith(one) for row in rows)] == []
    tables = re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.py)`", ADDITIONS)
    assert len(tables) >= len(rows) // 2
    assert [one for one in tables if not re.search(rf"\b{one[0]}\b", (SOURCE / one[1]).read_text())] == []


def test_a_room_holds_a_dozen_modules_at_most() -> None:
    counts = {room: len(modules(SOURCE / room)) for room in {".", *rooms()} - {"cli"}}
    assert {room: count for room, count in counts.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("document", TEXTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = TEXTS[document]
    assert [path for path in PATH.findall(text) if not found(path)] == []
    names = {path.name for path in chain(SOURCE.rglob("*.py"), (ROOT / "benchmarks").rglob("*.py"))}
    assert [name for name in FILE.findall(text) if name not in names] == []


@pytest.mark.parametrize("document", TEXTS)
def test_every_link_of_a_document_leads_somewhere(document: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", TEXTS[document]):
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings], anchor


@pytest.mark.parametrize("document", TEXTS)
def test_imports_in_a_document_hold(document: str) -> None:
    for module, names in re.findall(r"^ *from (lobsmith[\w.]*) import ([\w, ]+)$", TEXTS[document], re.MULTILINE):
        path = ROOT / "src" / module.replace(".", "/")
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        assert [name for name in names.split(", ") if not re.search(rf"\b{name}\b", text)] == [], module


def commands(command: click.Command, name: str) -> list[str]:
    if not isinstance(command, click.Group):
        return [name]
    return [leaf for one, below in command.commands.items() for leaf in commands(below, f"{name} {one}")]


def test_every_command_is_described() -> None:
    text = TEXTS["docs/commands.md"]
    assert [name for name in commands(cli, "lobsmith") if not re.search(rf"^{name}\b", text, re.MULTILINE)] == []
