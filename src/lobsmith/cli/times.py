"""Times as text."""

from datetime import UTC, datetime

import click

from lobsmith.units import NS_PER_S


def parse_time(text: str) -> datetime:
    """Return the time of `--at`, UTC unless it has a zone.

    Raises:
        click.BadParameter: it is no ISO 8601 time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text}: write it as 2026-03-01T14:03", param_hint="--at") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def format_time(time_ns: int) -> str:
    """Return a time in UTC to the second.

    >>> format_time(1_772_000_000_000_000_000)
    '2026-02-25T06:13:20+00:00'
    """
    return datetime.fromtimestamp(time_ns / NS_PER_S, UTC).isoformat(timespec="seconds")


def format_duration(seconds: float) -> str:
    """Return a duration in ms below a second, in s below two minutes, in min below two hours, then in h.

    >>> [format_duration(seconds) for seconds in (0.0123, -1.14, 119.9, 3600, 9000)]
    ['12.3 ms', '-1.1 s', '119.9 s', '60.0 min', '2.5 h']
    """
    for least, size, unit in ((7200, 3600, "h"), (120, 60, "min"), (1, 1, "s")):
        if abs(seconds) >= least:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds * 1000:,.1f} ms"
