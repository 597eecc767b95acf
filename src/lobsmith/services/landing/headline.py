"""The page's answer in one sentence."""

from collections.abc import Sequence

from lobsmith.services.landing.content import AlertLine, Serving, Tone, Trouble
from lobsmith.units import NS_PER_S

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def headline(
    serving: Sequence[Serving] | Trouble, alerts: Sequence[AlertLine] | Trouble, now_ns: int
) -> tuple[str, Tone]:
    """Return what serves, its mode and its alerts in one sentence, and its tone.

    >>> headline((), (), 0)
    ('Nothing serves yet: lobsmith retrain makes the first version.', <Tone.MISSING: 'missing'>)
    """
    if isinstance(serving, Trouble):
        return f"What serves cannot be read: {serving.error}", Tone.WRONG
    if broken := next((line for line in serving if line.version is None and line.why_unready), None):
        return f"{broken.model} cannot be read: {broken.why_unready}", Tone.WRONG
    first = next((line for line in serving if line.version is not None), None)
    if first is None or first.version is None or first.since_ns is None:
        return "Nothing serves yet: lobsmith retrain makes the first version.", Tone.MISSING
    if first.ready:
        served = f"serves since {span(now_ns - first.since_ns)}"
    else:
        served = f"does not answer ({first.why_unready})"
    mode = "no mode yet" if first.mode is None else f"mode {first.mode.mode}"
    tones = [Tone.GOOD if first.ready else Tone.MISSING if first.ready is None else Tone.WRONG]
    tones.append(Tone.MISSING if first.mode is None else first.mode.tone)
    if isinstance(alerts, Trouble):
        alarm = "alerts cannot be read"
        tones.append(alerts.tone)
    else:
        names = ", ".join(dict.fromkeys(alert.name for alert in alerts))
        alarm = f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''} ({names})" if alerts else "no alert"
        tones += [alert.tone for alert in alerts]
    others = sum(line.version is not None for line in serving) - 1
    more = f" (and {others} more model{'s' if others > 1 else ''})" if others else ""
    tone = next(tone for tone in (Tone.WRONG, Tone.MISSING, Tone.GOOD) if tone in tones)
    return f"{first.model} {first.version}{more} {served}, {mode}, {alarm}.", tone


def span(duration_ns: int) -> str:
    """Return a duration in its largest unit.

    >>> span(5 * 60 * NS_PER_S), span(3 * NS_PER_S), span(50 * 3600 * NS_PER_S)
    ('5 min', '3 s', '2 d')
    """
    seconds = max(0, duration_ns // NS_PER_S)
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), (1, "s"))
    return f"{seconds // size} {unit}"
