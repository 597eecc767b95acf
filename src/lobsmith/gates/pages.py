"""Data Docs that need no network: an index of our own, and Great Expectations' pages without what they would fetch."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment

_FETCHED = re.compile(r"<(script|link)\b[^>]*(?:src|href)=\"https?://[^>]*>(?:</script>)?|<img\b[^>]*https?://[^>]*>")
_STYLE = "<style>body{font-family:sans-serif;margin:2em;max-width:70em}td,th{padding:.2em .8em;text-align:left}</style>"

_INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Data contract</title>{{ style | safe }}
<h1>Data contract</h1>
<table>
<tr><th>batch</th><th>verdict</th><th>expectations</th><th>what fails</th></tr>
{% for one in batches %}<tr>
<td><a href="{{ one.link }}">{{ one.title }}</a></td><td>{{ "passed" if one.passed else "refused" }}</td>
<td>{{ one.held }} of {{ one.checks }} hold</td><td>{{ one.failures | join("; ") }}</td>
</tr>{% endfor %}
</table>
</html>
"""


def make_self_contained(folder: Path, batches: Sequence[dict[str, object]]) -> None:
    """Strip what pages would fetch, and write the index.

    Args:
        folder: a site that Great Expectations has built.
        batches: title, passed, held, checks and failures of each.
    """
    pages = {path.parents[2].name: path for path in folder.glob("validations/*/*/*/*.html")}
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        path.write_text(_FETCHED.sub("", text).replace("</head>", f"{_STYLE}</head>"), encoding="utf-8")
    rows = [
        {**one, "link": quote(str(pages[str(one["title"])].relative_to(folder)))}
        for one in batches
        if str(one["title"]) in pages
    ]
    page = Environment(autoescape=True).from_string(_INDEX).render(batches=rows, style=_STYLE)
    (folder / "index.html").write_text(page, encoding="utf-8")
