"""The page of a drift check: findings, since when, what moved, and the actions taken."""

from collections.abc import Sequence

from lobsmith.drift.verdict import DriftCheck, DriftVerdict, Finding, Kind
from lobsmith.evaluation.report import formatting
from lobsmith.evaluation.report.page import render
from lobsmith.features.definitions import FEATURES
from lobsmith.monitoring.drift import plots
from lobsmith.monitoring.drift.content import Content
from lobsmith.monitoring.drift.history import PastCheck

_TEMPLATE = "drift.html.jinja"
_SECTIONS = {
    "kinds": "Three kinds of drift",
    "moved": "What moved most",
    "null": "Null distribution",
    "time": "Over time",
    "loss": "Loss over time",
    "done": "What was done",
    "evidently": "Evidently's report",
    "reading": "How to read this",
}
_KINDS = {
    Kind.COVARIATE: "rows: have the features another distribution than in the training window?",
    Kind.PREDICTION: "answers: has their distribution changed?",
    Kind.CONCEPT: "outcomes: do the answers cost more than before?",
}
_TONES = {
    Finding.DRIFT: "refused",
    Finding.MISSING: "missing",
    Finding.NO_DRIFT: "passed",
    Finding.INSUFFICIENT: "not-known",
}
_NAMED = 3
_DRAWN = {Kind.COVARIATE: 6, Kind.PREDICTION: 3, Kind.CONCEPT: 3}
_LISTED = 15
_FORMULAS = {feature.name: f"{feature.formula}, {feature.unit}" for feature in FEATURES}


def render_drift(content: Content) -> str:
    """Return the page, deterministic."""
    check = content.check
    actions = [
        (change.time_ns, f"{change.before or 'none'} → {change.after}", change.reason) for change in content.changes
    ]
    actions += [(happening.time_ns, happening.what, happening.about) for happening in content.happenings]
    filters = (formatting.number, formatting.figure, formatting.count, formatting.moment, formatting.horizon, span)
    return render(
        "lobsmith.monitoring.drift",
        _TEMPLATE,
        filters,
        c=content,
        check=check,
        headline=headline(check),
        tone=_tone(check),
        tones=_TONES,
        mode=content.changes[-1] if content.changes else None,
        kinds=[(kind, question, check.of(kind)) for kind, question in _KINDS.items()],
        shifts=[
            plots.plot_moved(verdict.kind, shift)
            for verdict in check.verdicts
            for shift in verdict.moved[: _DRAWN[verdict.kind]]
        ],
        moved=[
            (verdict.kind, shift, _FORMULAS.get(shift.name, ""))
            for verdict in check.verdicts
            for shift in verdict.moved[:_LISTED]
        ],
        nulls=[plots.plot_null(verdict) for verdict in check.verdicts if verdict.null],
        history_plot=plots.plot_history(check, content.earlier, content.changes),
        loss_plot=plots.plot_losses(content.losses),
        done=sorted(actions, key=lambda action: action[0], reverse=True),
        titles=_SECTIONS,
    )


def headline(check: DriftCheck) -> str:
    """Return the findings in one sentence, unknown kinds included."""
    by = {finding: [kind for kind in Kind if _finding(check, kind) is finding] for finding in Finding}
    parts = []
    for kind in by[Finding.DRIFT]:
        verdict = check.of(kind)
        names = [shift.name for shift in verdict.moved[:_NAMED]] if verdict else []
        parts.append(f"{kind.value} drift: {_listed(names)} moved most" if names else f"{kind.value} drift")
    if by[Finding.NO_DRIFT]:
        parts.append(f"no {' drift, no '.join(kind.value for kind in by[Finding.NO_DRIFT])} drift")
    parts += [
        f"{_listed([kind.value for kind in by[finding]])} drift unknown: {finding.value}"
        for finding in (Finding.MISSING, Finding.INSUFFICIENT)
        if by[finding]
    ]
    unchecked = [kind.value for kind in Kind if check.of(kind) is None]
    if unchecked:
        parts.append(f"{_listed(unchecked)} drift not checked")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def drift_since(check: DriftCheck, earlier: Sequence[PastCheck]) -> int | None:
    """Return the start of the unbroken run of checks with drift; None where this one found none.

    Args:
        earlier: checks of the same version and instrument, the oldest first.
    """
    if not any(verdict.finding is Finding.DRIFT for verdict in check.verdicts):
        return None
    since = check.looked_ns
    for line in reversed(earlier):
        if not any(verdict.finding is Finding.DRIFT for verdict in line.verdicts):
            break
        since = line.looked_ns
    return since


def span(verdict: DriftVerdict, which: str) -> str:
    """Return the receive times of a verdict's `reference` or `recent` rows as text; empty where not known."""
    first, last = getattr(verdict, f"{which}_from_ns"), getattr(verdict, f"{which}_until_ns")
    if first is None or last is None:
        return ""
    (day, start, _), (until, end, zone) = formatting.moment(first).split(), formatting.moment(last).split()
    return f"{day} {start} to {end if day == until else f'{until} {end}'} {zone}"


def _finding(check: DriftCheck, kind: Kind) -> Finding | None:
    verdict = check.of(kind)
    return None if verdict is None else verdict.finding


def _tone(check: DriftCheck) -> str:
    findings = [_finding(check, kind) for kind in Kind]
    worst = next((finding for finding in (Finding.DRIFT, Finding.MISSING) if finding in findings), None)
    if worst is not None:
        return _TONES[worst]
    return "passed" if all(finding is Finding.NO_DRIFT for finding in findings) else "no-different"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
