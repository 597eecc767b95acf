"""What a look for drift answers."""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Struct, UnsetType

from lobsmith.verdict import Verdict


class Kind(StrEnum):
    """What has changed."""

    COVARIATE = "covariate"
    """The rows: their features have another distribution."""
    PREDICTION = "prediction"
    """The answers: the model says other things than it used to."""
    CONCEPT = "concept"
    """What follows: answers cost more than they used to, or than the fallback's."""


class Finding(StrEnum):
    """What can be said of it."""

    DRIFT = "drift"
    NO_DRIFT = "no drift"
    INSUFFICIENT = "insufficient history"
    """There is too little past to know what is usual."""
    MISSING = "missing data"
    """There is too little present to compare. Never to be read as no drift."""


class FeatureShift(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A feature (of prediction and concept drift: a quantity) and how it has moved.

    Attributes:
        name: of the feature.
        importance: AUC that the discriminator loses where the feature is permuted; None where it was not measured.
        psi: population stability index over deciles of the reference, nats.
        wasserstein: earth mover's distance in standard deviations of the reference.
        edges: bounds of K bins, K + 1 rising numbers in the feature's own unit; the outermost hold all beyond them.
        reference: share of the reference's rows in each of the K bins.
        recent: share of the recent rows.
    """

    name: str
    importance: float | None
    psi: float
    wasserstein: float
    edges: tuple[float, ...]
    reference: tuple[float, ...]
    recent: tuple[float, ...]


class Window(NamedTuple):
    """Rows that were compared: receive times of the first and the last, UTC, and how many count."""

    from_ns: int | None
    until_ns: int | None
    rows: int

    @classmethod
    def of(cls, time_ns: npt.NDArray[np.int64], rows: int | None = None) -> "Window":
        """Return the window of rows in the order of time; of these all count where `rows` is None."""
        known = len(time_ns) > 0
        first, last = (int(time_ns[0]), int(time_ns[-1])) if known else (None, None)
        return cls(first, last, len(time_ns) if rows is None else rows)


class DriftVerdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was found of one kind of drift.

    Attributes:
        kind: of the drift.
        finding: what was found.
        reason: why, one line for people.
        value: the statistic: AUC of covariate drift, otherwise as `reason` says; None where nothing was measured.
        p_value: how often the past gave as much; None where it cannot be said.
        level: DRIFT from this p-value down.
        past: how many past pairs (windows, blocks) it was compared with.
        null: the statistic of each of these, for the page.
        reference_from_ns, reference_until_ns: receive times of the rows compared with, UTC; None where there are none.
        recent_from_ns, recent_until_ns: of the recent rows.
        reference_rows, recent_rows: how many of each.
        beside_training: of answers, the statistic beside those to held-out rows of the training window; unset where the
            version has none.
        beside_before: beside those before; unset where these are too few, or where it is `value` anyway.
        moved: what moved, the most important first.
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
        """Return the verdict on two windows of rows; the statistic was compared with all of `null`."""
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
        """Return it as a gate's verdict: refused where there is drift; the evidence says where nothing was known."""
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
                "moved": [one.name for one in self.moved[:3]],
            },
        )


class DriftCheck(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One look for drift at what a version was asked about.

    Attributes:
        model, version: the active version.
        instrument: `venue:symbol` of the stream looked at.
        looked_ns: when, UTC.
        verdicts: one of each kind.
        seconds: what the look took.
    """

    model: str
    version: int
    instrument: str
    looked_ns: int
    verdicts: tuple[DriftVerdict, ...]
    seconds: float = 0.0

    def of(self, kind: Kind) -> DriftVerdict | None:
        """Return the verdict of a kind, None where it was not looked for."""
        return next((one for one in self.verdicts if one.kind is kind), None)
