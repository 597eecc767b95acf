"""The landing page as HTML: complete without scripts, which only fetch it again and swap the parts that changed."""

import base64
import hashlib
from datetime import UTC, datetime
from importlib.resources import files
from typing import NamedTuple

from markupsafe import Markup

from lobsmith.evaluation.report import formatting
from lobsmith.evaluation.report.page import render, shared_style
from lobsmith.services.landing.content import Snapshot, Trouble
from lobsmith.services.landing.headline import span
from lobsmith.units import NS_PER_S

_PACKAGE = "lobsmith.services.landing"
_SECTIONS = {
    "serving": "Serving",
    "mode": "Mode",
    "alerts": "Alerts",
    "accuracy": "Live accuracy",
    "versions": "Versions",
    "reports": "Newest reports",
    "next": "Next runs",
    "links": "More pages",
}
_MINUTE_NS = 60 * NS_PER_S


class Rendered(NamedTuple):
    """A page and its Content-Security-Policy."""

    html: str
    policy: str


def render_landing(snapshot: Snapshot) -> Rendered:
    """Return the page of a snapshot."""

    def ago(time_ns: int) -> Markup:
        """Return the age of a time of the workspace; its UTC on hover."""
        return _time(time_ns, time_ns - snapshot.now_ns)

    def by_machine(time_ns: int) -> Markup:
        """Return how far a time of the machine is ahead or past."""
        return _time(time_ns, time_ns - snapshot.machine_ns)

    own_style, script = _text("landing.css"), _text("landing.js")
    html = render(
        _PACKAGE,
        "landing.html.jinja",
        (formatting.percent, formatting.number, formatting.count, formatting.horizon, ago, by_machine, trouble),
        s=snapshot,
        titles=_SECTIONS,
        own_style=own_style,
        script=script,
    )
    policy = (
        f"default-src 'none'; style-src {_hash(shared_style() + own_style)}; script-src {_hash(script)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Rendered(html, policy)


def trouble(part: object) -> str:
    """Return why a part cannot be shown; empty where it can."""
    return part.error if isinstance(part, Trouble) else ""


def _time(time_ns: int, ahead_ns: int) -> Markup:
    utc = datetime.fromtimestamp(time_ns // NS_PER_S, UTC)
    if abs(ahead_ns) < _MINUTE_NS:
        text = "within a minute" if ahead_ns > 0 else "just now"
    else:
        text = f"in {span(ahead_ns)}" if ahead_ns > 0 else f"{span(-ahead_ns)} ago"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(), f"{utc:%Y-%m-%d %H:%M:%S} UTC", text
    )


def _text(name: str) -> Markup:
    return Markup(files(_PACKAGE).joinpath(name).read_text(encoding="utf-8"))  # noqa: S704 - ours


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
