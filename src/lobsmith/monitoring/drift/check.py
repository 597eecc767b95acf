"""One look for drift: a version's live rows, its answers and what they cost, beside what it has learnt."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from lobsmith.drift import NULL, REFERENCE
from lobsmith.drift.covariate import Learnt, check_covariate_drift, check_level
from lobsmith.drift.null_distribution import PastStore
from lobsmith.drift.reference import RawRows, Reference, joined, load_reference
from lobsmith.drift.training_null import StreamNull, load_null
from lobsmith.drift.verdict import DriftCheck, DriftVerdict, Finding, Kind
from lobsmith.drift.windows import Lengths, covered, fitted
from lobsmith.errors import DataError
from lobsmith.files import sha256_file
from lobsmith.monitoring.drift.answers import concept_drift, prediction_drift
from lobsmith.monitoring.drift.history import PastCheck
from lobsmith.monitoring.drift.live_window import CurrentWindow, instruments_seen, no_rows, read_current_window
from lobsmith.monitoring.live_evaluation import LIVE, Sources, evaluate_active
from lobsmith.params import DriftParams, Params
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest
from lobsmith.units import NS_PER_S
from lobsmith.workspace import Workspace

_SEVERITY = (Finding.INSUFFICIENT, Finding.NO_DRIFT, Finding.MISSING, Finding.DRIFT)


@dataclass(frozen=True)
class StreamCheck:
    """A look and what was looked at; `reference` is the part of the training window that rows were compared with."""

    check: DriftCheck
    reference: RawRows
    current: CurrentWindow

    @property
    def severity(self) -> int:
        """Rises from knowing nothing to drift."""
        return max(_SEVERITY.index(one.finding) for one in self.check.verdicts)


def together(found: Sequence[StreamCheck]) -> DriftCheck:
    """Return the looks at all streams of a version as one: of each kind what asks for most caution.

    Concept drift of one stream must count beside covariate drift of another, and so must missing data.

    Args:
        found: at least one.
    """
    if len(found) == 1:
        return found[0].check
    verdicts = [
        structs.replace(one, reason=f"{looked.check.instrument}: {one.reason}")
        for looked in found
        for one in looked.check.verdicts
    ]
    gravest = tuple(
        max((one for one in verdicts if one.kind is kind), key=lambda one: _SEVERITY.index(one.finding))
        for kind in Kind
        if any(one.kind is kind for one in verdicts)
    )
    instruments = ", ".join(looked.check.instrument for looked in found)
    return structs.replace(found[0].check, instrument=instruments, verdicts=gravest)


def check_drift(
    workspace: Workspace,
    shared: Params,
    active: Manifest,
    fallback: Callable[[str], int | None],
    *,
    now_ns: int,
    before: Sequence[PastCheck] = (),
    sources: Sources = LIVE,
    opened: Mapping[str, int] | None = None,
) -> list[StreamCheck]:
    """Look at each stream that a version was trained for and that clients are connected for.

    Args:
        workspace: where the version, the prediction log and past pairs lie.
        shared: parameters, of which `drift`, `paired` and `rollback` are used; windows are fitted to what was learnt.
        active: the version that serves.
        fallback: returns the version that would be gone back to for an instrument's sake, None where there is none.
        now_ns: the time, UTC. Of rows that are not live the newest one's receive time counts.
        before: the history of looks at the model, in the order of time.
        sources: which sessions of the log count.
        opened: since when clients have been connected for each instrument, UTC; None takes every instrument that was
            ever asked about, and all that the version has learnt where none was.

    Returns:
        A look for each instrument, the one that asks for most caution first.

    Raises:
        PredictionLogError: the log cannot be read.
        GateError: the log holds answers that cannot be compared.
        DataError: the version's reference is not what it was when it was published.
    """
    reference, nulls = reference_of(workspace, active), null_of(workspace, active)
    trained = list(reference.rows) if reference is not None else [str(one) for one in active.instruments]
    # A pooled model may know instruments that are not traded: no rows of these is no missing data.
    if opened is None:
        seen = instruments_seen(workspace, shared.model.name, sources)
        streams = [one for one in trained if one in seen] or trained
    else:
        streams = [one for one in trained if one in opened]
    level = check_level(shared.drift, len(streams))
    found = []
    for instrument in streams:
        started = time.monotonic()
        rows, null = reference.rows[instrument] if reference else no_rows(), nulls.get(instrument)
        params = structs.replace(shared, drift=fitted(shared.drift, covered(rows)) if reference else shared.drift)
        learnt = rows.newest(Lengths.of(params.drift).reference)
        since_ns = 0 if opened is None else opened[instrument]
        current = read_current_window(
            workspace, params, active, instrument, learnt, now_ns=now_ns, sources=sources, opened_ns=since_ns
        )
        judged = evaluate_active(
            workspace,
            params,
            active.model,
            active=active.version,
            fallback=fallback,
            since_ns=active.created_ns,
            now_ns=now_ns,
            sources=sources,
            instrument=instrument,
            has_learnt=active.has_learnt,
        )
        # What one version answers and costs says nothing of what is usual for another.
        past = [one for one in before if (one.instrument, one.version) == (instrument, active.version)]
        verdicts = (
            _covariate(workspace, params.drift, active, instrument, reference, learnt, current, level, null),
            prediction_drift(current, past, params.drift, level, null.answers if null else None),
            concept_drift(
                current, past, params, level, judged.verdict if judged else None, null.answers if null else None
            ),
        )
        check = DriftCheck(
            model=active.model,
            version=active.version,
            instrument=instrument,
            looked_ns=now_ns,
            verdicts=verdicts,
            seconds=time.monotonic() - started,
        )
        found.append(StreamCheck(check, learnt, current))
    return sorted(found, key=lambda one: one.severity, reverse=True)


def reference_of(workspace: Workspace, version: Manifest) -> Reference | None:
    """Return what a version has learnt from; None of one that was published without.

    Raises:
        DataError: the file is not the one that was published.
    """
    path = _published(workspace, version, REFERENCE)
    return None if path is None else load_reference(path)


def null_of(workspace: Workspace, version: Manifest) -> dict[str, StreamNull]:
    """Return what is usual of each instrument that a version has learnt; nothing of one that was published without.

    Raises:
        DataError: the file is not the one that was published.
    """
    path = _published(workspace, version, NULL)
    return {} if path is None else load_null(path).streams


def _published(workspace: Workspace, version: Manifest, name: str) -> Path | None:
    if name not in version.files:
        return None
    path = Repository.of(workspace).directory(version.model, version.version) / name
    if not path.is_file() or sha256_file(path) != version.files[name]:
        raise DataError(f"{path}: missing or changed since it was published; run lobsmith repository verify --repair")
    return path


def past_of(workspace: Workspace, model: str, instrument: str) -> PastStore:
    """Return the past pairs of a model's stream.

    Raises:
        DataError: they cannot be read.
    """
    return PastStore(workspace.drift / "past" / model / f"{instrument.replace(':', '-')}.jsonl")


def _covariate(
    workspace: Workspace,
    drift: DriftParams,
    active: Manifest,
    instrument: str,
    reference: Reference | None,
    learnt: RawRows,
    current: CurrentWindow,
    level: float,
    null: StreamNull | None,
) -> DriftVerdict:
    if reference is None:
        why = f"{active.model} {active.version} was published without its training window; the next retrain keeps it"
        # That nothing comes in is known without one.
        silent = len(current.recent) < drift.minimum_rows
        finding = Finding.MISSING if silent and not current.has_only_begun else Finding.INSUFFICIENT
        why = f"{len(current.recent)} rows in {drift.recent_s:g} s; {why}" if silent else why
        return DriftVerdict(kind=Kind.COVARIATE, finding=finding, reason=why, level=level)
    store = past_of(workspace, active.model, instrument)
    rows = reference.rows[instrument]
    found = check_covariate_drift(
        learnt,
        current.recent,
        joined(rows, current.earlier),
        reference.scaling,
        store,
        drift,
        level=level,
        learnt=Learnt(rows, null.rows if null else ()),
    )
    if found.finding is Finding.MISSING and current.has_only_begun:
        why = f"{found.reason}; the session was opened {(current.until_ns - current.opened_ns) / NS_PER_S:.0f} s ago"
        return structs.replace(found, finding=Finding.INSUFFICIENT, reason=why)
    return found
