"""The gates of drift: a window that would be learnt beside the newest data, one that was learnt beside live rows.

History that is too short refuses nothing, and the verdict says so: it is never the same as "no drift". A shadow period
without rows is waited for: it ends by itself, and a promotion can wait.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from msgspec import structs

from lobsmith import clock
from lobsmith.drift.covariate import Learnt, check_covariate_drift
from lobsmith.drift.null_distribution import PastStore
from lobsmith.drift.reference import RawRows, freeze, joined
from lobsmith.drift.verdict import DriftVerdict, Finding, Kind
from lobsmith.drift.windows import Lengths, covered, fitted
from lobsmith.errors import GateError
from lobsmith.features.dataset import Dataset
from lobsmith.gates.feed import judge_feed
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
"""Times the seconds of a look that a gate has: nobody waits for it, and with too few past pairs it refuses nothing."""


def judge_windows(
    workspace: Workspace, params: Params, windows: Iterable[Dataset], directory: Path, *, sources: Sources = LIVE
) -> tuple[Verdict, ...]:
    """Judge a training window before training is paid for, two verdicts for each instrument.

    It must not be of a market that has gone: its rows are held against the newest live ones, or where none are logged
    after it, those before its newest stretch against that. And it must not be of a broken feed: its newest rows are
    held against what the active version has learnt.

    Args:
        workspace: where the active version and the prediction log lie.
        params: `drift` is used.
        windows: the rows that would be learnt, of each instrument.
        directory: of the run; past pairs are kept there.
        sources: which sessions of the log are live rows.

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
    recent, learnt = newest, rows.between(0, int(newest.time_ns[0]))
    history = learnt
    if active is not None:
        current = read_current_window(
            workspace, params, active, instrument, rows, now_ns=clock.now_ns(), sources=sources
        )
        if len(current.recent) >= drift.minimum_rows and current.from_ns >= int(rows.time_ns[-1]):
            recent, learnt, history = current.recent, rows, joined(rows, current.earlier)
    found = check_covariate_drift(
        learnt.newest(lengths.reference),
        recent,
        history,
        frozen.scaling,
        PastStore(directory / f"past_pairs_{instrument.replace(':', '-')}.jsonl"),
        drift,
        level=drift.gate_level,
    )
    return _named(WINDOW, instrument, found), _feed(workspace, params, active, instrument, newest)


def judge_period(
    workspace: Workspace, params: Params, candidate: Manifest, *, sources: Sources = LIVE
) -> tuple[Verdict, ...]:
    """Judge a candidate's training window beside the newest rows of its shadow period, a verdict for each instrument.

    Args:
        workspace: where the candidate and the prediction log lie.
        params: `drift` is used.
        candidate: the version in the candidate slot.
        sources: which sessions of the log are live rows.

    Raises:
        PredictionLogError: the log cannot be read.
        DataError: the candidate's reference is damaged.
    """
    drift, reference, nulls = params.drift, reference_of(workspace, candidate), null_of(workspace, candidate)
    if reference is None:
        why = f"{candidate.model} {candidate.version} was published without its training window"
        found = DriftVerdict(kind=Kind.COVARIATE, finding=Finding.INSUFFICIENT, reason=why, level=drift.gate_level)
        return (_named(PERIOD, ", ".join(map(str, candidate.instruments)), found),)
    seen = instruments_seen(workspace, params.model.name, sources)
    verdicts = []
    for instrument in [one for one in reference.rows if one in seen] or reference.rows:
        rows, null = reference.rows[instrument], nulls.get(instrument)
        drift = _all_at_once(fitted(params.drift, covered(rows)))
        learnt = rows.newest(Lengths.of(drift).reference)
        fitting = structs.replace(params, drift=drift)
        current = read_current_window(
            workspace, fitting, candidate, instrument, learnt, now_ns=clock.now_ns(), sources=sources
        )
        found = check_covariate_drift(
            learnt,
            current.recent,
            joined(rows, current.earlier),
            reference.scaling,
            past_of(workspace, candidate.model, instrument),
            drift,
            level=drift.gate_level,
            learnt=Learnt(rows, null.rows if null else ()),
        )
        verdict = _named(PERIOD, instrument, found)
        verdicts.append(structs.replace(verdict, passed=verdict.passed and found.finding is not Finding.MISSING))
    return tuple(verdicts)


def require(verdicts: tuple[Verdict, ...]) -> None:
    """Refuse a training window that a gate has refused.

    Raises:
        GateError: it says which, on which features, and what to do where the market really is so.
    """
    for one in verdicts:
        if one.passed:
            continue
        refused = f"{one.evidence['instrument']}: {one}"
        if one.gate == FEED:
            features = ", ".join([*one.evidence["frozen"], *one.evidence["beyond"]][:5])
            raise GateError(
                f"{refused}: its newest rows lie where none have been, or stand still ({features}...); mend the feed, "
                "or where the market really is so raise drift.feed_limit"
            )
        raise GateError(
            f"{refused}: {one.evidence['reason']}, most of all {', '.join(one.evidence['moved'])}; it is of another "
            "market than the newest data: give newer data, or wait until the window holds it, or lower drift.gate_level"
        )


def _feed(workspace: Workspace, params: Params, active: Manifest | None, instrument: str, newest: RawRows) -> Verdict:
    reference = None if active is None else reference_of(workspace, active)
    limit = params.drift.feed_limit
    if reference is None or instrument not in reference.rows:
        why = f"nothing serves that has learnt {instrument}"
        evidence = {"instrument": instrument, "reason": why}
        return Verdict(gate=FEED, passed=True, value=None, threshold=limit, evidence=evidence)
    found = judge_feed(reference.rows[instrument], newest, limit=limit)
    return structs.replace(found, evidence={"instrument": instrument, **found.evidence})


def _named(gate: str, instrument: str, found: DriftVerdict) -> Verdict:
    verdict = found.as_verdict()
    return structs.replace(verdict, gate=gate, evidence={"instrument": instrument, **verdict.evidence})


def _all_at_once(drift: DriftParams) -> DriftParams:
    """Return settings that measure all past pairs now: there may be no look before or after this one."""
    patient = structs.replace(drift.discriminator, seconds=_PATIENCE * drift.discriminator.seconds)
    return structs.replace(drift, pairs_a_look=drift.past_pairs, discriminator=patient)
