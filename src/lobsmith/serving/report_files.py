"""Reports over HTTP: known files below `.lobsmith/`, under `/files/` with the paths that they have there.

No folder is listed, no link followed, no hidden file given. A report may load nothing from another address.
"""

import os
import re
import stat
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, unquote

from lobsmith.errors import ServingError
from lobsmith.serving.endpoint import read_endpoint
from lobsmith.serving.mode_page import Answer
from lobsmith.workspace import Workspace

PREFIX = "/files/"
_KNOWN = re.compile(
    r"(runs/[^/]+|stages)/(report\.html|data_docs/.+)"
    r"|drift/reports/[^/]+/[^/]+/[^/]+"
    r"|reports/([^/]+/)?[^/]+"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
    ".ico": "image/x-icon",
    ".otf": "font/otf",
    ".ttf": "font/ttf",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
_SOURCES = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_HEADERS = {
    # Evidently's pages and data docs carry scripts of their own.
    "Content-Security-Policy": f"default-src {_SOURCES}; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def report_path(workspace: Workspace, path: Path) -> str:
    """Return the path of a report on the server: `/files/…`."""
    return PREFIX + quote(path.relative_to(workspace.home).as_posix())


def linked(workspace: Workspace, title: str, path: Path) -> str:
    """Return a report as Markdown: a link while a server runs, else its file."""
    page = landing_page(workspace)
    if page is None or not path.is_relative_to(workspace.home):
        return f"{title}: `{path}`"
    return f"[{title}]({page}{report_path(workspace, path)})"


def landing_page(workspace: Workspace) -> str | None:
    """Return the address of the landing page; None without a server."""
    try:
        endpoint = read_endpoint(workspace)
    except ServingError:
        return None
    return None if endpoint is None else endpoint.page_url


def answer_report(workspace: Workspace, path: str) -> Answer | None:
    """Return a report under a path that begins with `PREFIX`; None where there is no such file."""
    name = unquote(path.removeprefix(PREFIX))
    content_type = _TYPES.get(Path(name).suffix)
    parts = name.split("/")
    # Hidden files are locks and unfinished pages.
    if content_type is None or not _KNOWN.fullmatch(name) or any(part[:1] in ("", ".") for part in parts):
        return None
    try:
        descriptor = _open_below(workspace.home, parts)
    except (OSError, ValueError):
        return None
    return Answer(HTTPStatus.OK, content_type, os.fdopen(descriptor, "rb"), _HEADERS)


def _open_below(root: Path, parts: list[str]) -> int:
    """Return the descriptor of a plain file, with no link on the way to it.

    Raises:
        OSError: there is none.
        ValueError: a name holds a null byte.
    """
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        # A pipe would not open before its writer does.
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(parts[-1])
    return file
