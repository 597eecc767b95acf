"""Drift checks, for tests."""

from collections.abc import Sequence

from lobsmith.drift.verdict import DriftCheck, DriftVerdict, Finding, Kind

S = 1_000_000_000
START_NS = 1_772_000_000 * S
CHECK_S = 300
DRIFT, CALM, UNKNOWN, MISSING = Finding.DRIFT, Finding.NO_DRIFT, Finding.INSUFFICIENT, Finding.MISSING


def check(
    number: int, covariate: Finding, prediction: Finding = CALM, concept: Finding = CALM, *, version: int = 1
) -> DriftCheck:
    """The check of a number, with its findings."""
    by_kind = dict(zip(Kind, (covariate, prediction, concept), strict=True))
    verdicts = tuple(
        DriftVerdict(kind=kind, finding=finding, reason=f"{kind} {number}") for kind, finding in by_kind.items()
    )
    return DriftCheck(model="lob", version=version, instrument="simulator:SIM", looked_ns=at(number), verdicts=verdicts)


def at(number: int) -> int:
    return START_NS + number * CHECK_S * S


def checks(sequence: Sequence[tuple[Finding, ...]]) -> list[DriftCheck]:
    return [check(number, *findings) for number, findings in enumerate(sequence)]
