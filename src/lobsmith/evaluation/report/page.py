"""Renders the project's HTML pages: one file each, nothing fetched, one style."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup


def render(package: str, template: str, filters: Sequence[Callable[..., Any]], **values: object) -> str:
    """Return a page from the template of a package; `{{ style }}` stands for the shared style.

    Args:
        package, template: where the template lies.
        filters: available to the template under their own names.
        values: available to the template.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update({function.__name__: function for function in filters})
    source = files(package).joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(source).render(style=shared_style(), **values)


def shared_style() -> Markup:
    """Return the style of all pages."""
    return Markup(files("lobsmith.evaluation.report").joinpath("page.css").read_text(encoding="utf-8"))  # noqa: S704 - ours
