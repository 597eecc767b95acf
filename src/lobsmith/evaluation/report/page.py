"""Renders the project's HTML pages: one file each, nothing fetched, one style."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_SHARED = "lobsmith.evaluation.report"


def render(package: str, template: str, filters: Sequence[Callable[..., Any]], **values: object) -> str:
    """Return a page from the template of a package, which extends `page.html.jinja` and takes parts of `parts.jinja`.

    Args:
        package, template: where the template lies.
        filters: available to the template under their own names.
        values: available to the template; `titles` maps the ids of its sections to their headings.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=FunctionLoader(lambda name: _text(_SHARED, name)),
    )
    environment.filters.update({function.__name__: function for function in filters})
    source = _text(package, template)
    return environment.from_string(source).render(style=shared_style(), **values)


def shared_style() -> Markup:
    """Return the style of all pages."""
    return Markup(_text(_SHARED, "page.css"))  # noqa: S704 - ours


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
