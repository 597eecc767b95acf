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
    # Unlike `rglob`, it follows the link to the flows.
    return {str(path.parent.relative_to(SOURCE)) for path in SOURCE.glob("*/**/__init__.py")}


def exists(path: str) -> bool:
    return any((base / path).exists() for base in (SOURCE, ROOT))


def named_paths(text: str) -> set[str]:
    """Return folders and files between backticks; a new file in angle brackets stands for its folder."""
    quoted = re.findall(r"`([\w./<>-]+)`", text)
    paths = {path for path in quoted if "/" in path or path.endswith((".py", ".yaml", ".toml", ".md"))}
    return {str(Path(path).parent) if "<" in path else path for path in paths}


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
    assert [path for path in sorted(named_paths(MAP)) if not exists(path)] == []


def test_the_map_says_where_to_add_what() -> None:
    rows = re.findall(r"^\| an? ([^|]+) \|", ADDITIONS, re.MULTILINE)
    wanted = ("venue", "network", "gate", "metric", "command", "stage", "parameter", "benchmark")
    assert [part for part in wanted if not any(row.startswith(part) for row in rows)] == []
    tables = re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.py)`", ADDITIONS)
    assert len(tables) >= len(rows) // 2
    assert [pair for pair in tables if not re.search(rf"\b{pair[0]}\b", (SOURCE / pair[1]).read_text())] == []


def test_a_room_holds_a_dozen_modules_at_most() -> None:
    counts = {room: len(modules(SOURCE / room)) for room in {".", *rooms()} - {"cli"}}
    assert {room: count for room, count in counts.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("document", TEXTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = TEXTS[document]
    assert [path for path in PATH.findall(text) if not exists(path)] == []
    names = {path.name for path in chain(SOURCE.rglob("*.py"), (ROOT / "benchmarks").rglob("*.py"))}
    assert [name for name in FILE.findall(text) if name not in names] == []


@pytest.mark.parametrize("document", TEXTS)
def test_every_link_of_a_document_leads_somewhere(document: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", TEXTS[document]):
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, anchor


@pytest.mark.parametrize("document", TEXTS)
def test_imports_in_a_document_hold(document: str) -> None:
    for module, names in re.findall(r"^ *from (lobsmith[\w.]*) import ([\w, ]+)$", TEXTS[document], re.MULTILINE):
        path = ROOT / "src" / module.replace(".", "/")
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        assert [name for name in names.split(", ") if not re.search(rf"\b{name}\b", text)] == [], module


def commands(command: click.Command, name: str) -> list[str]:
    if not isinstance(command, click.Group):
        return [name]
    return [leaf for part, below in command.commands.items() for leaf in commands(below, f"{name} {part}")]


def test_every_command_is_described() -> None:
    text = TEXTS["docs/commands.md"]
    assert [name for name in commands(cli, "lobsmith") if not re.search(rf"^{name}\b", text, re.MULTILINE)] == []
