"""The compression gate: which candidate is served, and whether its losses are within the budget."""

from collections.abc import Sequence

from msgspec import Struct, structs

from lobsmith.compress.timing import Timing
from lobsmith.errors import TrainingError
from lobsmith.evaluation.fidelity import Fidelity
from lobsmith.params import CompressParams
from lobsmith.verdict import Verdict

GATE = "compression"
SERVED, SLOWER, COSTLY, VETOED, REFUSED = "served", "no faster", "loses too much", "vetoed", "refused"
"""Outcomes of a candidate; that of a faster one that was not the fastest is empty."""


class Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the table of candidates.

    `delta_log_loss` (a share: 0.005 is half a percent worse), `delta_mcc` and `agreement` are of the test rows; the
    choice goes by the validation rows. Times are of the chosen use, `timings` of all. `refused` is the reason that a
    candidate may not be served; without a file it has no figures.
    """

    name: str
    precision: str
    pruned: float
    delta_log_loss: float | None = None
    delta_mcc: float | None = None
    agreement: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    speedup: float | None = None
    bytes: int | None = None
    memory_bytes: int | None = None
    parity: float | None = None
    chosen: bool = False
    outcome: str = ""
    refused: str = ""
    test: Fidelity | None = None
    validation: Fidelity | None = None
    timings: tuple[Timing, ...] = ()


class Compressed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Summary of the compress stage: the table, and the manifest's figures of the chosen candidate.

    `network` is the folder of its weights, relative to the run's; `weights_sha256` is of the network as trained.
    """

    weights_sha256: str
    name: str
    precision: str
    network: str
    use: str
    bytes: int
    prime_rows: int
    prime_tolerance: float
    candidates: tuple[Row, ...]

    @property
    def chosen(self) -> Row:
        """The row of the candidate that is served."""
        return next(row for row in self.candidates if row.chosen)


def choose(rows: Sequence[Row], settings: CompressParams) -> list[Row]:
    """Mark the outcome of each candidate: the fastest inside the budget is served; the first is the network itself.

    The validation rows choose; the test rows have a veto, after which the network itself is served. A speed-up counts
    where its interval leaves out 1. A candidate named in the parameters is taken in any case, for reproduction.

    Raises:
        TrainingError: the network itself is refused, or the parameters name an unknown candidate.
    """
    if rows[0].refused:
        raise TrainingError(f"the network itself cannot be served: {rows[0].refused}; train it again")
    outcomes = {row.name: _outcome(row, settings) for row in rows[1:]}
    name = _named(rows, settings.candidate) if settings.candidate else rows[0].name
    fastest = max((row for row in rows[1:] if not outcomes[row.name]), key=lambda row: row.speedup or 0.0, default=None)
    if fastest is not None and not settings.candidate:
        if fastest.test is not None and within_budget(fastest.test, settings):
            name = fastest.name
        else:
            outcomes[fastest.name] = VETOED
    outcomes[name] = SERVED
    return [structs.replace(row, chosen=row.name == name, outcome=outcomes.get(row.name, "")) for row in rows]


def _named(rows: Sequence[Row], name: str) -> str:
    named = next((row for row in rows if row.name == name), None)
    if named is None or named.refused:
        able = ", ".join(row.name for row in rows if not row.refused)
        reason = f" is refused ({named.refused})" if named else " is none of the candidates"
        raise TrainingError(f"compress.candidate: {name}{reason}; choose one of {able}")
    return name


def _outcome(row: Row, settings: CompressParams) -> str:
    if row.refused:
        return REFUSED
    if not any(timing.use == settings.use and timing.low > 1.0 for timing in row.timings):
        return SLOWER
    return "" if row.validation is not None and within_budget(row.validation, settings) else COSTLY


def within_budget(lost: Fidelity, settings: CompressParams) -> bool:
    """Return whether the upper end of the rise of the log-loss, and the agreement, are within the parameters."""
    return lost.delta_log_loss.high <= settings.log_loss and lost.agreement.value >= settings.agreement


def compression(summary: Compressed, settings: CompressParams) -> Verdict:
    """Return the verdict on the served candidate's losses on the test rows.

    Only a candidate named in the parameters can fail it.
    """
    row = summary.chosen
    evidence = {"candidate": row.name, "use": summary.use, "least_agreement": settings.agreement}
    if row.test is None:
        return Verdict(gate=GATE, passed=False, value=None, threshold=settings.log_loss, evidence=evidence)
    return budget_verdict(row.test, settings, evidence)


def budget_verdict(lost: Fidelity, settings: CompressParams, evidence: dict[str, object]) -> Verdict:
    """Return a verdict on losses; its value is the rise of the log-loss as a share, upper end of its interval."""
    return Verdict(
        gate=GATE,
        passed=within_budget(lost, settings),
        value=lost.delta_log_loss.high,
        threshold=settings.log_loss,
        evidence={
            **evidence,
            "agreement": lost.agreement.value,
            "delta_log_loss": lost.delta_log_loss.value,
            "delta_mcc": lost.delta_mcc.value,
            "rows": lost.rows,
        },
    )
