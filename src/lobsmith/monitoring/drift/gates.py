"""Drift gates: a training window beside the newest data before training, a candidate's window beside live rows.

Insufficient history refuses nothing, and the verdict gives the reason. A shadow period without rows is not passed: the
promotion waits for it.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from msgspec import structs

from lobsmith import clock
from lobsmith.drift.covariate import TrainingWindow, check_covariate_drift
from lobsmith.drift.null_distribution import PastStore
from lobsmith.drift.reference import RawRows, freeze, joined
from lobsmith.drift.verdict import DriftVerdict, Finding, Kind
from lobsmith.drift.windows import Lengths, covered, fitted
from lobsmith.errors import GateError
from lobsmith.features.dataset import Dataset
from lobsmith.gates.feed import feed_verdict
from lobsmith.monitoring.drift.check import null_of, past_of, reference_of
from lobsmith.monitoring.drift.live_window import instruments_seen, read_current_window
from lobsmith.monitoring.live_evaluation import LIVE, Sources
from lobsmith.params import DriftParams, Params
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest
from lobsmith.verdict import Verdict
from lobsmith.workspace import Workspace

WINDOW, PERIOD, FEED = "window drift", "shadow drift", "feed"
_PATIENCE = 6
"""Factor of a check's time limit for a gate: with too few past pairs it would refuse nothing."""


def evaluate_windows(
    workspace: Workspace, params: Params, windows: Iterable[Dataset], directory: Path, *, sources: Sources = LIVE
) -> tuple[Verdict, ...]:
    """Judge training windows before training, two verdicts for each instrument.

    Window drift: against the newest live rows, or without later ones, the window's newest part against the rest. Feed:
    the window's newest rows against the active version's reference. Past pairs are kept in the run's `directory`;
    sessions of `sources` count as live rows.

    Raises:
        PredictionLogError: the log cannot be read.
        DataError: a window has no complete row, or the active version's reference is damaged.
    """
    repository = Repository.of(workspace)
    verdicts: list[Verdict] = []
    for window in windows:
        judge = partial(_judge_window, workspace, params, window, directory=directory, sources=sources)
        verdicts += repository.with_active(params.model.name, judge)
    return tuple(verdicts)


def _judge_window(
    workspace: Workspace,
    params: Params,
    window: Dataset,
    active: Manifest | None,
    *,
    directory: Path,
    sources: Sources,
) -> tuple[Verdict, Verdict]:
    drift, instrument = _all_at_once(params.drift), str(window.instrument)
    frozen, lengths = freeze([window], drift), Lengths.of(drift)
    rows = frozen.rows[instrument]
    newest = rows.newest(lengths.recent)
    recent, older = newest, rows.between(0, int(newest.time_ns[0]))
    history = older
    if active is not None:
        current = read_current_window(
            workspace, params, active, instrument, rows, now_ns=clock.now_ns(), sources=sources
        )
        if len(current.recent) >= drift.minimum_rows and current.from_ns >= int(rows.time_ns[-1]):
            recent, older, history = current.recent, rows, joined(rows, current.earlier)
    drift_verdict = check_covariate_drift(
        older.newest(lengths.reference),
        recent,
        history,
        frozen.scaling,
        PastStore(directory / f"past_pairs_{instrument.replace(':', '-')}.jsonl"),
        drift,
        level=drift.gate_level,
    )
    return _named(WINDOW, instrument, drift_verdict), _feed(workspace, params, active, instrument, newest)


def evaluate_period(
    workspace: Workspace, params: Params, candidate: Manifest, *, sources: Sources = LIVE
) -> tuple[Verdict, ...]:
    """Judge a candidate's training window beside the newest rows of its shadow period, a verdict for each instrument.

    Sessions of `sources` count as live rows.

    Raises:
        PredictionLogError: the log cannot be read.
        DataError: the candidate's reference is damaged.
    """
    drift, reference, nulls = params.drift, reference_of(workspace, candidate), null_of(workspace, candidate)
    if reference is None:
        reason = f"{candidate.model} {candidate.version} was published without its training window"
        drift_verdict = DriftVerdict(
            kind=Kind.COVARIATE, finding=Finding.INSUFFICIENT, reason=reason, level=drift.gate_level
        )
        return (_named(PERIOD, ", ".join(map(str, candidate.instruments)), drift_verdict),)
    seen = instruments_seen(workspace, params.model.name, sources)
    verdicts = []
    for instrument in [name for name in reference.rows if name in seen] or reference.rows:
        rows, null = reference.rows[instrument], nulls.get(instrument)
        drift = _all_at_once(fitted(params.drift, covered(rows)))
        reference_rows = rows.newest(Lengths.of(drift).reference)
        fitting = structs.replace(params, drift=drift)
        current = read_current_window(
            workspace, fitting, candidate, instrument, reference_rows, now_ns=clock.now_ns(), sources=sources
        )
        drift_verdict = check_covariate_drift(
            reference_rows,
            current.recent,
            joined(rows, current.earlier),
            reference.scaling,
            past_of(workspace, candidate.model, instrument),
            drift,
            level=drift.gate_level,
            training_window=TrainingWindow(rows, null.rows if null else ()),
        )
        verdict = _named(PERIOD, instrument, drift_verdict)
        verdicts.append(
            structs.replace(verdict, passed=verdict.passed and drift_verdict.finding is not Finding.MISSING)
        )
    return tuple(verdicts)


def require(verdicts: tuple[Verdict, ...]) -> None:
    """Raise on a refused training window.

    Raises:
        GateError: names the gate, the features and the way out.
    """
    for verdict in verdicts:
        if verdict.passed:
            continue
        refused = f"{verdict.evidence['instrument']}: {verdict}"
        if verdict.gate == FEED:
            features = ", ".join([*verdict.evidence["frozen"], *verdict.evidence["beyond"]][:5])
            raise GateError(
                f"{refused}: its newest rows lie where none have been, or stand still ({features}...); mend the feed, "
                "or where the market really is so raise drift.feed_limit"
            )
        raise GateError(
            f"{refused}: {verdict.evidence['reason']}, most of all {', '.join(verdict.evidence['moved'])}; it is of "
            "another market than the newest data: give newer data, or wait until the window holds it, or lower "
            "drift.gate_level"
        )


def _feed(workspace: Workspace, params: Params, active: Manifest | None, instrument: str, newest: RawRows) -> Verdict:
    reference = None if active is None else reference_of(workspace, active)
    limit = params.drift.feed_limit
    if reference is None or instrument not in reference.rows:
        reason = f"nothing serves that was trained on {instrument}"
        evidence = {"instrument": instrument, "reason": reason}
        return Verdict(gate=FEED, passed=True, value=None, threshold=limit, evidence=evidence)
    verdict = feed_verdict(reference.rows[instrument], newest, limit=limit)
    return structs.replace(verdict, evidence={"instrument": instrument, **verdict.evidence})


def _named(gate: str, instrument: str, drift_verdict: DriftVerdict) -> Verdict:
    verdict = drift_verdict.as_verdict()
    return structs.replace(verdict, gate=gate, evidence={"instrument": instrument, **verdict.evidence})


def _all_at_once(drift: DriftParams) -> DriftParams:
    """Return settings that measure all past pairs in one check."""
    longer = structs.replace(drift.discriminator, seconds=_PATIENCE * drift.discriminator.seconds)
    return structs.replace(drift, pairs_a_look=drift.past_pairs, discriminator=longer)
