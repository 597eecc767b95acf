"""The guide, built as `make docs` builds it, and the command lines that documents name."""

import builtins
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest

import lobsmith
from lobsmith.cli.live import live
from lobsmith.cli.main import cli
from lobsmith.cli.up import up
from tests.browser import browser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?:do |\$ |\w+=\S+ )*(?:\.venv/bin/|python -m )?lobsmith ([a-z-].*)$")
SPAN = re.compile(r"`(?:\.venv/bin/|python -m )?lobsmith ([a-z-][^`]*)`")
MAKE = re.compile(r"^make ([a-z-]+)", re.MULTILINE)
PLACEHOLDER = re.compile(r"[^a-z]+")
"""Capitals, `$OPTIONS`, dots: what the reader puts in."""


def shell_lines(text: str) -> list[str]:
    """Return the commands of a document's shell blocks, without comments."""
    blocks = [block for language, block in FENCE.findall(text) if language in ("sh", "shell", "bash", "console")]
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in "\n".join(blocks).replace("\\\n", " ").splitlines()]
    return [command.strip() for line in lines for command in re.split(r";|&&|\|", line)]


def command_lines(text: str) -> list[str]:
    """Return what follows `lobsmith` in shell blocks and between backticks."""
    lines = [match[1] for match in map(LINE.match, shell_lines(text)) if match]
    return lines + [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text))]


def fault(line: str) -> str | None:
    """Return what is wrong with a command line; square brackets mark what may be left out."""
    words = shlex.split(re.sub(r"[\[\]]", " ", line))
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not PLACEHOLDER.fullmatch(words[0]):
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command = command.commands[words.pop(0)]
    return None if isinstance(command, click.Group) else refusal(command, words)


def refusal(command: click.Command, words: list[str]) -> str | None:
    """Return why a command's parser refuses words, None where it takes them."""
    context = click.Context(command, **command.context_settings)
    try:
        values, left, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return error.format_message()
    given = {name: [value] if isinstance(value, str) else value for name, value in values.items()}
    given = {name: value for name, value in given.items() if isinstance(value, list | tuple)}  # not flags, not defaults
    for option in command.params:
        if isinstance(option.type, click.Choice):
            for value in given.get(option.name, ()):
                if value not in option.type.choices and not PLACEHOLDER.fullmatch(value):
                    return f"{value}: choose from {', '.join(option.type.choices)}"
    if command is up:  # what it does not know, it passes on
        left = [*given.get("arguments", ()), *left]
        return refusal(live, left) if values.get("live") is True else f"without --live: {left}" if left else None
    return f"too many arguments: {left}" if left else None


@pytest.mark.parametrize("name", NAMES)
def test_command_lines_of_a_document_exist(name: str) -> None:
    lines = command_lines((ROOT / name).read_text())
    assert [f"lobsmith {line}: {wrong}" for line in lines if (wrong := fault(line))] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = MAKE.findall("\n".join(shell_lines((ROOT / name).read_text())))
    assert [target for target in named if target not in targets] == []


def test_command_lines_of_messages_exist() -> None:
    texts = {path.name: path.read_text() for path in (ROOT / "src").rglob("*.py")}
    lines = [(name, re.sub(r"{[^}]*}", "X", span)) for name, text in texts.items() for span in SPAN.findall(text)]
    assert len(lines) > 50
    assert [f"{name}: lobsmith {line}: {wrong}" for name, line in lines if (wrong := fault(line))] == []


def test_errors_that_docstrings_name_exist() -> None:
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "src").rglob("*.py")}
    known = {name for text in texts.values() for name in re.findall(r"^class (\w+Error)\b", text, re.MULTILINE)}
    named = [
        (path, name) for path, text in texts.items() for name in re.findall(r"^ +(\w+Error): ", text, re.MULTILINE)
    ]
    assert len(named) > 100
    assert [(path, name) for path, name in named if name not in known and not hasattr(builtins, name)] == []


@pytest.mark.parametrize(
    "line",
    ["retrian", "retrain --resum RUN", "replay FILE --transport htp", "up --free-port", "up --live --form FILE",
     "models promote 1 2", "report drift --at"],
)  # fmt: skip
def test_a_wrong_command_line_is_found(line: str) -> None:
    [found] = command_lines(f"```sh\nlobsmith up\n```\nThen `lobsmith {line}`.")[1:]
    assert fault(found)


class Urls(HTMLParser):
    """Ids of a page; addresses that it links to, and that a browser loads with it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src", "srcset", "data", "poster", "action") and value is not None:
                (self.links if tag == "a" else self.loaded).append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guide") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def pages(site: Path) -> dict[Path, Urls]:
    # 404.html names its files from the root of a server.
    return {path: Urls(path) for path in site.rglob("*.html") if path != site / "404.html"}


@pytest.mark.slow
def test_every_document_is_a_page(site: Path) -> None:
    built = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    wanted = {name.removeprefix("docs/").replace("README.md", "index.md") for name in NAMES}
    assert {name.removesuffix(".md") + ".html" for name in wanted} - built == set()


@pytest.mark.slow
def test_the_public_names_are_in_the_reference(site: Path) -> None:
    names = {f"lobsmith.{name}" for name in getattr(lobsmith, "__all__", ())}
    assert names - Urls(site / "api" / "index.html").ids == set()


@pytest.mark.slow
def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = [(page, url) for page, urls in pages(site).items() for url in urls.loaded]
    assert len(loaded) > 100
    assert [(page.name, url) for page, url in loaded if urlsplit(url).scheme not in ("", "data")] == []
    styles = [
        (path.name, url) for path in site.rglob("*.css") for url in re.findall(r"url\(([^)]*)\)", path.read_text())
    ]
    assert [(name, url) for name, url in styles if url.strip("\"'").startswith(("http", "//"))] == []


@pytest.mark.slow
def test_every_link_of_the_guide_leads_somewhere(site: Path) -> None:
    built, broken = pages(site), []
    for page, urls in built.items():
        for url in urls.links + urls.loaded:
            parts = urlsplit(url)
            if parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target.suffix == ".html" and anchor not in built[target].ids):
                broken.append((str(page.relative_to(site)), url))
    assert broken == []


@pytest.mark.slow
@pytest.mark.integration
def test_the_guide_is_read_and_searched_from_the_disk(site: Path) -> None:
    with browser() as page:
        for name, words in (
            ("index.html", "Five minutes"),
            ("api/trading.html", "open_stream"),
            ("index.html?q=spread", ""),
        ):
            page.open(f"{site.as_uri()}/{name}")
            assert words in page.run("document.querySelector('article').innerText")
            assert page.errors == []
            assert {urlsplit(url).scheme for url in page.requested} <= {"file", "data", "about"}
        found = page.wait_for("document.querySelector('.md-search-result__link')?.href")
        assert found.startswith(site.as_uri())
