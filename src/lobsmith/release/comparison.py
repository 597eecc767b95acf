"""A version beside its reproduction: what differs, and whether that matters."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain

from msgspec import Struct

from lobsmith.release.manifest import Environment

IDENTICAL, EQUIVALENT, DIFFERENT = "identical", "equivalent", "different"

SAME_METRIC = 1e-9
"""Largest difference of a metric that is computed from the same predictions."""
CLOSE_METRIC = 1e-3
"""Largest difference of a metric, in its own unit (nats, shares), that two equivalent models show."""


class Change(Struct, frozen=True, kw_only=True):
    """Something with a name, as the manifest has it and as it is here."""

    name: str
    published: str | None
    here: str | None


class Metric(Struct, frozen=True, kw_only=True):
    """A metric on the held-out rows; the difference is the reproduction's less the version's."""

    name: str
    published: float
    reproduced: float
    difference: float


class Reproduced(Struct, frozen=True, kw_only=True):
    """What a reproduction found.

    `verdict` is `identical` (files have the published hashes, metrics are the same), `equivalent` (other bits, while
    golden vectors and metrics are within the tolerances) or `different`; `reason` says why in one line. `data` is where
    the data came from, `files` holds hashes, `golden_difference` is the largest one from the published golden vectors.
    Metrics of rivals are `not_compared`: they are networks of their own. `directory` holds the files where they were
    kept.
    """

    model: str
    version: int
    verdict: str
    reason: str
    data: str
    data_fingerprint: str
    environment: tuple[Change, ...]
    files: tuple[Change, ...]
    golden_difference: float
    golden_tolerance: float
    metrics: tuple[Metric, ...]
    not_compared: tuple[str, ...]
    directory: str | None


def environment_changes(
    published: Environment, here: Environment, published_commit: str | None, commit: str | None
) -> tuple[Change, ...]:
    """Return what of the environment is not as it was, by name; of the packages each for itself."""
    before, now = _flat(published, published_commit), _flat(here, commit)
    names = dict.fromkeys(chain(before, now))
    return tuple(
        Change(name=name, published=before.get(name), here=now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    )


def _flat(environment: Environment, commit: str | None) -> dict[str, str | None]:
    return {
        "git commit": commit,
        "python": environment.python,
        **environment.packages,
        "threads": str(environment.threads),
        "instruction set": environment.instruction_set,
        "gpu": environment.gpu,
    }


def metric_changes(
    published: Mapping[str, float], reproduced: Mapping[str, float]
) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """Return the metrics that both have, and the names of those that only the version has."""
    common = [name for name in published if name in reproduced]
    metrics = (
        Metric(
            name=name,
            published=published[name],
            reproduced=reproduced[name],
            difference=reproduced[name] - published[name],
        )
        for name in common
    )
    return tuple(metrics), tuple(name for name in published if name not in reproduced)


def judge(
    files: Sequence[Change],
    golden_difference: float,
    golden_tolerance: float,
    metrics: Sequence[Metric],
    environment: Sequence[Change],
) -> tuple[str, str]:
    """Return the verdict and its reason."""
    changed = [one.name for one in files if one.published != one.here]
    worst = max(metrics, key=_size, default=None)
    off = 0.0 if worst is None else _size(worst)
    figures = f"golden vectors within {golden_difference:.3g}, metrics within {off:.3g}"
    if not changed and golden_difference <= golden_tolerance and off <= SAME_METRIC:
        return IDENTICAL, f"{', '.join(one.name for one in files)} have the published hashes; {figures}"
    what = f"{', '.join(changed)} have other bits" if changed else "the files have the published hashes"
    why = ", ".join(f"{one.name} {one.published} is {one.here} here" for one in environment)
    why = why or "the environment is the recorded one"
    if not golden_difference <= golden_tolerance:
        far = f"golden vectors differ by {golden_difference:.3g}, more than {golden_tolerance:g}"
        return DIFFERENT, f"{what}; {far}; {why}"
    if worst is not None and not off <= CLOSE_METRIC:
        return DIFFERENT, f"{what}; {worst.name} differs by {worst.difference:.3g}, more than {CLOSE_METRIC:g}; {why}"
    return EQUIVALENT, f"{what}; {figures}; {why}"


def _size(metric: Metric) -> float:
    # A metric that is no number is further off than any.
    both = math.isnan(metric.published) and math.isnan(metric.reproduced)
    return 0.0 if both else math.inf if math.isnan(metric.difference) else abs(metric.difference)
