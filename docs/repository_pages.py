"""A hook of MkDocs: pages, files and anchors as a reader of the repository sees them.

Documents link to each other by their paths in the repository. In the guide README.md is the first page; a linked
Markdown file outside `docs/` is a page, any other linked file is copied; notebooks of `examples/` are pages. Links
follow. A link to a folder or to no file stays as it is, and the strict build refuses it. In the navigation a pattern
stands for the pages there are.
"""

import fnmatch
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"""(\]\(|\b(?:href|src|srcset)=")(?!\w+:|[#/])([^)"#\s]+)""")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take GitHub's anchors."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md, notebooks, and what documents link to outside `docs/`."""
    documents = ["README.md", *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    documents += [f"examples/{path.name}" for path in sorted((ROOT / "examples").glob("*.ipynb"))]
    for document in documents:
        text = _text(document)
        place = _place(document)
        if place.endswith(".md") and document.endswith(".ipynb"):
            files.append(File.generated(config, place, content=text))
        elif files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / document)))
        for _, link in LINK.findall(text):
            path = _target(document, link)
            if not (ROOT / path).is_file() or path in documents or path.startswith("docs/"):
                continue
            if path.endswith(".md"):
                documents.append(path)
            elif files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    config.nav = _without_patterns(config.nav, sorted(page.src_uri for page in files.documentation_pages()))
    return files


def on_page_markdown(markdown: str, page: Page, *, files: Files, **_config: MkDocsConfig) -> str:
    """Turn links between files of the repository into links between pages."""
    place = page.file.src_uri
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix() if page.file.abs_src_path else place

    def linked(match: re.Match[str]) -> str:
        path = _target(source, match[2])
        if files.get_file_from_path(_place(path)) is None:
            return match[0]
        return match[1] + posixpath.relpath(_place(path), posixpath.dirname(place) or ".")

    return LINK.sub(linked, markdown)


def _without_patterns(nav: list[Any], pages: list[str]) -> list[Any]:
    entries: list[Any] = []
    for entry in nav:
        if isinstance(entry, str):
            entries += fnmatch.filter(pages, entry) if "*" in entry else [entry]
            continue
        [(title, below)] = entry.items()
        if isinstance(below, list):
            below = _without_patterns(below, pages)
        if below:
            entries.append({title: below})
    return entries


def _target(document: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), link))


def _place(path: str) -> str:
    """Return the place of a repository's file among the guide's sources."""
    if path == "README.md":
        return "index.md"
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return path.removeprefix("docs/")


def _text(document: str) -> str:
    text = (ROOT / document).read_text(encoding="utf-8")
    return _notebook(json.loads(text)) if document.endswith(".ipynb") else text


def _notebook(notebook: dict[str, Any]) -> str:
    """Return cells, printed output and plots as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![plot](data:image/png;base64,{''.join(data['image/png']).strip()})")
            elif "text/html" in data:
                parts.append(f'<div class="output">{"".join(data["text/html"])}</div>')
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts)
