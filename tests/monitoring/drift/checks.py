"""Looks for drift, for tests."""

from collections.abc import Sequence

from lobsmith.drift.verdict import DriftCheck, DriftVerdict, Finding, Kind

S = 1_000_000_000
START_NS = 1_772_000_000 * S
LOOK_S = 300
DRIFT, CALM, UNKNOWN, MISSING = Finding.DRIFT, Finding.NO_DRIFT, Finding.INSUFFICIENT, Finding.MISSING


def check(
    number: int, covariate: Finding, prediction: Finding = CALM, concept: Finding = CALM, *, version: int = 1
) -> DriftCheck:
    """The look of a number, with what it found of each kind."""
    found = dict(zip(Kind, (covariate, prediction, concept), strict=True))
    verdicts = tuple(
        DriftVerdict(kind=kind, finding=finding, reason=f"{kind} {number}") for kind, finding in found.items()
    )
    return DriftCheck(model="lob", version=version, instrument="simulator:SIM", looked_ns=at(number), verdicts=verdicts)


def at(number: int) -> int:
    return START_NS + number * LOOK_S * S


def checks(found: Sequence[tuple[Finding, ...]]) -> list[DriftCheck]:
    return [check(number, *findings) for number, findings in enumerate(found)]
