"""The page about one look for drift: what was found, since when, what moved, and what was done about it."""

from collections.abc import Sequence

from lobsmith.drift.verdict import DriftCheck, DriftVerdict, Finding, Kind
from lobsmith.evaluation.report import words
from lobsmith.evaluation.report.page import render
from lobsmith.features.definitions import FEATURES
from lobsmith.monitoring.drift import plots
from lobsmith.monitoring.drift.content import Content
from lobsmith.monitoring.drift.history import PastCheck

_TEMPLATE = "drift.html.jinja"
_SECTIONS = {
    "verdict": "Verdict",
    "moved": "What moved most",
    "kinds": "Three kinds of drift",
    "usual": "What is usual",
    "time": "Over time",
    "loss": "Loss over time",
    "done": "What was done",
    "evidently": "Evidently's report",
    "reading": "How to read this",
}
_KINDS = {
    Kind.COVARIATE: "rows: have their features another distribution than those that were learnt from?",
    Kind.PREDICTION: "answers: does the model say other things than it used to?",
    Kind.CONCEPT: "outcomes: do its answers cost more than they used to?",
}
_NAMED = 3
_DRAWN = {Kind.COVARIATE: 6, Kind.PREDICTION: 3, Kind.CONCEPT: 3}
_LISTED = 15
_FORMULAS = {one.name: f"{one.formula}, {one.unit}" for one in FEATURES}


def render_drift(content: Content) -> str:
    """Return the page, the same for the same content."""
    check = content.check
    done = [(one.time_ns, f"{one.before or 'none'} → {one.after}", one.reason) for one in content.changes]
    done += [(one.time_ns, one.what, one.about) for one in content.happenings]
    filters = (words.number, words.figure, words.count, words.moment, words.horizon, span)
    return render(
        "lobsmith.monitoring.drift",
        _TEMPLATE,
        filters,
        c=content,
        check=check,
        headline=headline(check),
        tone=_tone(check),
        mode=content.changes[-1] if content.changes else None,
        kinds=[(kind, asks, check.of(kind)) for kind, asks in _KINDS.items()],
        shifts=[plots.plot_moved(one.kind, two) for one in check.verdicts for two in one.moved[: _DRAWN[one.kind]]],
        moved=[(one.kind, two, _FORMULAS.get(two.name, "")) for one in check.verdicts for two in one.moved[:_LISTED]],
        nulls=[plots.plot_null(one) for one in check.verdicts if one.null],
        history_plot=plots.plot_history(check, content.earlier, content.changes),
        loss_plot=plots.plot_losses(content.losses),
        done=sorted(done, key=lambda one: one[0], reverse=True),
        titles=_SECTIONS,
    )


def headline(check: DriftCheck) -> str:
    """Return what a look found in one line; a kind of which nothing is known is said to be so."""
    by = {finding: [kind for kind in Kind if _finding(check, kind) is finding] for finding in Finding}
    parts = []
    for kind in by[Finding.DRIFT]:
        verdict = check.of(kind)
        names = [one.name for one in verdict.moved[:_NAMED]] if verdict else []
        parts.append(
            f"{kind.value.capitalize()} drift: {_listed(names)} moved most" if names else f"{kind.value} drift"
        )
    if by[Finding.NO_DRIFT]:
        parts.append(f"No {' drift, no '.join(kind.value for kind in by[Finding.NO_DRIFT])} drift")
    parts += [
        f"{finding.value.capitalize()}: {_listed([kind.value for kind in by[finding]])} drift cannot be told"
        for finding in (Finding.MISSING, Finding.INSUFFICIENT)
        if by[finding]
    ]
    unasked = [kind.value for kind in Kind if check.of(kind) is None]
    if unasked:
        parts.append(f"Not looked for: {_listed(unasked)} drift")
    return ". ".join(one[0].upper() + one[1:] for one in parts) + "."


def drift_since(check: DriftCheck, earlier: Sequence[PastCheck]) -> int | None:
    """Return when the unbroken run of looks that found drift began; None where this one found none.

    Args:
        look: the present one.
        earlier: looks at the same version and instrument, the oldest first.
    """
    if not any(one.finding is Finding.DRIFT for one in check.verdicts):
        return None
    since = check.looked_ns
    for line in reversed(earlier):
        if not any(one.finding is Finding.DRIFT for one in line.found):
            break
        since = line.looked_ns
    return since


def span(verdict: DriftVerdict, which: str) -> str:
    """Return from when until when the `reference` or the `recent` rows of a verdict were received."""
    first, last = getattr(verdict, f"{which}_from_ns"), getattr(verdict, f"{which}_until_ns")
    if first is None or last is None:
        return words.DASH
    (day, start, _), (until, end, zone) = words.moment(first).split(), words.moment(last).split()
    return f"{day} {start} to {end if day == until else f'{until} {end}'} {zone}"


def _finding(check: DriftCheck, kind: Kind) -> Finding | None:
    verdict = check.of(kind)
    return None if verdict is None else verdict.finding


def _tone(check: DriftCheck) -> str:
    findings = [_finding(check, kind) for kind in Kind]
    if Finding.DRIFT in findings or Finding.MISSING in findings:
        return "refused"
    return "passed" if all(one is Finding.NO_DRIFT for one in findings) else "no-different"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
