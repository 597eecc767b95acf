"""Drawings for pages: SVG in the page's colours, which follow its light or dark scheme."""

import io
import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

_COLOURS = ("ink", "muted", "grid", "paper", "accent", "good", "bad", "down", "still", "up", "warn")
"""The page's colours; matplotlib draws a stand-in for each, which `svg` replaces."""
INK, MUTED, GRID, PAPER, ACCENT, GOOD, BAD, DOWN, STILL, UP, WARN = (f"#0{n:x}0{n:x}0{n:x}" for n in range(1, 12))
_STAND_IN = re.compile(r"(fill|stroke): #(0[1-9ab])\2\2")

_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
}
_WIDTH = 4.8


def svg(name: str, text_alternative: str, height: float, draw: Callable[[Figure], None]) -> Markup:
    """Return a drawing as markup with its own ids: same bytes for same figures.

    Args:
        name: unique on the page.
        text_alternative: read aloud in its place.
        height: inches.
        draw: puts the drawing on the figure.
    """
    text = io.StringIO()
    with rc_context(_STYLE), rc_context({"svg.hashsalt": f"lobsmith {name}"}):  # else ids differ from run to run
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<style[^>]*>.*?</style>", "", drawing, count=1, flags=re.DOTALL)  # would hold for the whole page
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # figure_1 and the like, in every drawing
    drawing = _STAND_IN.sub(lambda match: f"{match[1]}: var(--{_COLOURS[int(match[2], 16) - 1]})", drawing)
    label = str(escape(text_alternative))
    return Markup(drawing.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))  # noqa: S704 - ours, and escaped
