"""The gates of drift: a window that would be learnt beside the newest data, one that was learnt beside live rows.

History that is too short refuses nothing, and the verdict says so: it is never the same as "no drift".
"""

import time
from pathlib import Path

from msgspec import structs

from lobsmith.errors import GateError
from lobsmith.features.dataset import Dataset
from lobsmith.gates.drift.covariate import look_for_covariate_drift
from lobsmith.gates.drift.feed import judge_feed
from lobsmith.gates.drift.past import PastStore
from lobsmith.gates.drift.reference import freeze
from lobsmith.gates.drift.rows import RawRows, joined
from lobsmith.gates.drift.verdict import DriftVerdict, Finding, Kind
from lobsmith.gates.verdict import Verdict
from lobsmith.monitoring.judged import LIVE, Sources
from lobsmith.monitoring.lived import newest_of, read_lived
from lobsmith.monitoring.look import past_of, reference_of
from lobsmith.params import Params
from lobsmith.release.manifest import Manifest, read_manifest
from lobsmith.release.repository import Repository
from lobsmith.workspace import Workspace

WINDOW, PERIOD, FEED = "window drift", "shadow drift", "feed"
PAST = "past_pairs.jsonl"
_LONGEST_S = 120.0
"""For the discriminator of a window and its past pairs; training takes longer."""


def judge_window(
    workspace: Workspace, params: Params, window: Dataset, directory: Path, *, sources: Sources = LIVE
) -> tuple[Verdict, ...]:
    """Judge a training window before training is paid for.

    It must not be of a market that has gone: its rows are held against the newest live ones, or where none are logged
    after it, those before its newest stretch against that. And it must not be of a broken feed: its newest rows are
    held against what the active version has learnt.

    Args:
        workspace: where the active version and the prediction log lie.
        params: `drift` is used.
        window: the rows that would be learnt.
        directory: of the run; past pairs are kept there.
        sources: which sessions of the log are live rows.

    Raises:
        PredictionLogError: the log cannot be read.
        DataError: the window has no complete row, or the active version's reference is damaged.
    """
    drift, instrument = params.drift, str(window.instrument)
    frozen = freeze([window], drift)
    rows = frozen.rows[instrument]
    newest = newest_of(rows, drift.recent_s)
    active = _active(workspace, params.model.name)
    recent, learnt = newest, rows.between(0, int(newest.time_ns[0]))
    history = learnt
    if active is not None:
        lived = read_lived(workspace, params, active, instrument, rows, now_ns=time.time_ns(), sources=sources)
        if len(lived.recent) >= drift.minimum_rows and lived.from_ns >= int(rows.time_ns[-1]):
            recent, learnt, history = lived.recent, rows, joined(rows, lived.earlier)
    # All past pairs at once: there is no look before or after this one.
    patient = structs.replace(drift.discriminator, seconds=_LONGEST_S)
    once = structs.replace(drift, pairs_a_look=drift.past_pairs, discriminator=patient)
    found = look_for_covariate_drift(
        newest_of(learnt, drift.reference_s),
        recent,
        history,
        frozen.scaling,
        PastStore(directory / PAST),
        once,
        level=drift.gate_level,
    )
    return (_named(WINDOW, found), *_feed(workspace, params, active, instrument, newest))


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
    reference = reference_of(workspace, candidate)
    if reference is None:
        why = f"{candidate.model} {candidate.version} was published without its training window"
        found = DriftVerdict(
            kind=Kind.COVARIATE, finding=Finding.INSUFFICIENT, reason=why, level=params.drift.gate_level
        )
        return (_named(PERIOD, found),)
    verdicts = []
    for instrument, rows in reference.rows.items():
        learnt = newest_of(rows, params.drift.reference_s)
        lived = read_lived(workspace, params, candidate, instrument, learnt, now_ns=time.time_ns(), sources=sources)
        found = look_for_covariate_drift(
            learnt,
            lived.recent,
            joined(rows, lived.earlier),
            reference.scaling,
            past_of(workspace, candidate.model, instrument),
            params.drift,
            level=params.drift.gate_level,
        )
        verdicts.append(_named(PERIOD, found))
    return tuple(verdicts)


def require(verdicts: tuple[Verdict, ...]) -> None:
    """Refuse a training window that a gate has refused.

    Raises:
        GateError: it says which, on which features, and what to do where the market really is so.
    """
    for one in verdicts:
        if one.passed:
            continue
        if one.gate == FEED:
            features = ", ".join([*one.evidence["frozen"], *one.evidence["beyond"]][:5])
            raise GateError(
                f"{one}: its newest rows lie where none have been, or stand still ({features}...); mend the feed, or "
                "where the market really is so raise drift.feed_limit"
            )
        raise GateError(
            f"{one}: {one.evidence['reason']}, most of all {', '.join(one.evidence['moved'])}; it is of another "
            "market than the newest data: give newer data, or wait until the window holds it, or lower drift.gate_level"
        )


def _active(workspace: Workspace, model: str) -> Manifest | None:
    repository = Repository.of(workspace)
    version = repository.active(model)
    return None if version is None else read_manifest(repository.directory(model, version), repository.trust)


def _feed(
    workspace: Workspace, params: Params, active: Manifest | None, instrument: str, newest: RawRows
) -> tuple[Verdict, ...]:
    reference = None if active is None else reference_of(workspace, active)
    if reference is None or instrument not in reference.rows:
        why = f"nothing serves that has learnt {instrument}"
        return (
            Verdict(gate=FEED, passed=True, value=None, threshold=params.drift.feed_limit, evidence={"reason": why}),
        )
    return (judge_feed(reference.rows[instrument], newest, limit=params.drift.feed_limit),)


def _named(gate: str, found: DriftVerdict) -> Verdict:
    return structs.replace(found.as_verdict(), gate=gate)
