"""Verdicts of a drift check."""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Struct, UnsetType

from lobsmith.verdict import Verdict


class Kind(StrEnum):
    """Kind of drift."""

    COVARIATE = "covariate"
    """The features' distribution has changed."""
    PREDICTION = "prediction"
    """The answers' distribution has changed."""
    CONCEPT = "concept"
    """Answers cost more than before, or than the fallback's."""


class Finding(StrEnum):
    """Result for one kind."""

    DRIFT = "drift"
    NO_DRIFT = "no drift"
    INSUFFICIENT = "insufficient history"
    """Too little history for a null distribution."""
    MISSING = "missing data"
    """Too few recent rows. Never to be read as no drift."""


class FeatureShift(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shift of a feature (of prediction and concept drift: of a quantity).

    Attributes:
        importance: AUC that the discriminator loses where the feature is permuted; None where not measured.
        psi: population stability index over deciles of the reference, nats.
        wasserstein: earth mover's distance in standard deviations of the reference.
        edges: bounds of K bins, K + 1 rising numbers in the feature's own unit; the outermost hold all beyond them.
        reference, recent: share of the rows in each bin.
    """

    name: str
    importance: float | None
    psi: float
    wasserstein: float
    edges: tuple[float, ...]
    reference: tuple[float, ...]
    recent: tuple[float, ...]


class Window(NamedTuple):
    """Receive times of the first and the last row compared, UTC, and the number of rows that count."""

    from_ns: int | None
    until_ns: int | None
    rows: int

    @classmethod
    def of(cls, time_ns: npt.NDArray[np.int64], rows: int | None = None) -> "Window":
        """Return the window of rows in the order of time; None counts all rows."""
        known = len(time_ns) > 0
        first, last = (int(time_ns[0]), int(time_ns[-1])) if known else (None, None)
        return cls(first, last, len(time_ns) if rows is None else rows)


class DriftVerdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result for one kind of drift.

    Attributes:
        reason: one line for people.
        value: the statistic: AUC of covariate drift, otherwise as in `reason`; None where not measured.
        p_value: rank of the statistic in the null distribution; None where unknown.
        level: DRIFT at or below this p-value.
        past, null: the null distribution (past pairs, windows), its size and values.
        reference_from_ns, reference_until_ns, recent_from_ns, recent_until_ns: receive times of the rows, UTC.
        reference_rows, recent_rows: how many of each.
        beside_training: of answers, the statistic beside held-out rows of the training window; unset where the version
            has none.
        beside_before: beside earlier answers; unset where these are too few, or where it equals `value`.
        moved: shifts, the most important first.
    """

    kind: Kind
    finding: Finding
    reason: str
    value: float | None = None
    p_value: float | None = None
    level: float = 0.0
    past: int = 0
    null: tuple[float, ...] = ()
    reference_from_ns: int | None = None
    reference_until_ns: int | None = None
    recent_from_ns: int | None = None
    recent_until_ns: int | None = None
    reference_rows: int = 0
    recent_rows: int = 0
    beside_before: float | UnsetType = UNSET
    beside_training: float | UnsetType = UNSET
    moved: tuple[FeatureShift, ...] = ()

    @classmethod
    def of(
        cls,
        kind: Kind,
        finding: Finding,
        reason: str,
        *,
        level: float,
        reference: Window,
        recent: Window,
        value: float | None = None,
        p_value: float | None = None,
        null: tuple[float, ...] = (),
        beside_before: float | UnsetType = UNSET,
        beside_training: float | UnsetType = UNSET,
        moved: tuple[FeatureShift, ...] = (),
    ) -> "DriftVerdict":
        """Return the verdict on two windows; `null` is the whole null distribution."""
        return cls(
            kind=kind,
            finding=finding,
            reason=reason,
            value=value,
            p_value=p_value,
            level=level,
            past=len(null),
            null=null,
            reference_from_ns=reference.from_ns,
            reference_until_ns=reference.until_ns,
            recent_from_ns=recent.from_ns,
            recent_until_ns=recent.until_ns,
            reference_rows=reference.rows,
            recent_rows=recent.rows,
            beside_before=beside_before,
            beside_training=beside_training,
            moved=moved,
        )

    def as_verdict(self) -> Verdict:
        """Return it as a gate's verdict: refused under drift; `evidence["finding"]` separates no drift from unknown."""
        return Verdict(
            gate=f"{self.kind} drift",
            passed=self.finding is not Finding.DRIFT,
            value=self.p_value,
            threshold=self.level,
            evidence={
                "finding": self.finding.value,
                "reason": self.reason,
                "value": self.value,
                "past": self.past,
                "moved": [shift.name for shift in self.moved[:3]],
            },
        )


class DriftCheck(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One drift check of a version on one stream, `venue:symbol`, at `looked_ns`, UTC, which took `seconds`."""

    model: str
    version: int
    instrument: str
    looked_ns: int
    verdicts: tuple[DriftVerdict, ...]
    seconds: float = 0.0

    def of(self, kind: Kind) -> DriftVerdict | None:
        """Return the verdict of a kind, None where it was not checked."""
        return next((verdict for verdict in self.verdicts if verdict.kind is kind), None)
