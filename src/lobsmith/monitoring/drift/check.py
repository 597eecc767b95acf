"""Drift check: a version's live rows, answers and losses beside its reference window."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from lobsmith.drift import NULL, REFERENCE
from lobsmith.drift.covariate import TrainingWindow, check_covariate_drift, check_level
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
    """A check with its windows; `reference` is the part of the training window that rows were compared with."""

    check: DriftCheck
    reference: RawRows
    current: CurrentWindow

    @property
    def severity(self) -> int:
        """Rises from insufficient history to drift."""
        return max(_SEVERITY.index(verdict.finding) for verdict in self.check.verdicts)


def combine(checks: Sequence[StreamCheck]) -> DriftCheck:
    """Return the checks of all streams of a version as one: of each kind the gravest verdict.

    Args:
        checks: at least one.
    """
    if len(checks) == 1:
        return checks[0].check
    verdicts = [
        structs.replace(verdict, reason=f"{stream.check.instrument}: {verdict.reason}")
        for stream in checks
        for verdict in stream.check.verdicts
    ]
    gravest = tuple(
        max(
            (verdict for verdict in verdicts if verdict.kind is kind),
            key=lambda verdict: _SEVERITY.index(verdict.finding),
        )
        for kind in Kind
        if any(verdict.kind is kind for verdict in verdicts)
    )
    instruments = ", ".join(stream.check.instrument for stream in checks)
    return structs.replace(checks[0].check, instrument=instruments, verdicts=gravest)


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
    """Check each stream that a version was trained on and that clients are connected for; return the gravest first.

    Args:
        shared: parameters; windows are fitted to the training data.
        fallback: returns the rollback target for an instrument, None where there is none.
        now_ns: UTC. Of rows that are not live the newest one's receive time counts.
        before: the model's check history, in the order of time.
        opened: start of the unbroken time with a client, by instrument, UTC; None takes every trained instrument ever
            asked about, or all trained ones where none was.

    Raises:
        PredictionLogError: the log cannot be read.
        GateError: the log holds answers that cannot be compared.
        DataError: the version's reference has changed since it was published.
    """
    reference, nulls = reference_of(workspace, active), null_of(workspace, active)
    trained = list(reference.rows) if reference is not None else [str(instrument) for instrument in active.instruments]
    # A pooled model may be trained on instruments that are not traded: no rows of these is no missing data.
    if opened is None:
        seen = instruments_seen(workspace, shared.model.name, sources)
        streams = [instrument for instrument in trained if instrument in seen] or trained
    else:
        streams = [instrument for instrument in trained if instrument in opened]
    level = check_level(shared.drift, len(streams))
    checks = []
    for instrument in streams:
        started = time.monotonic()
        rows, null = reference.rows[instrument] if reference else no_rows(), nulls.get(instrument)
        params = structs.replace(shared, drift=fitted(shared.drift, covered(rows)) if reference else shared.drift)
        reference_rows = rows.newest(Lengths.of(params.drift).reference)
        since_ns = 0 if opened is None else opened[instrument]
        current = read_current_window(
            workspace, params, active, instrument, reference_rows, now_ns=now_ns, sources=sources, opened_ns=since_ns
        )
        evaluation = evaluate_active(
            workspace,
            params,
            active.model,
            active=active.version,
            fallback=fallback,
            since_ns=active.created_ns,
            now_ns=now_ns,
            sources=sources,
            instrument=instrument,
            was_trained_on=active.was_trained_on,
        )
        # Past checks of another version are no null distribution for this one.
        past = [earlier for earlier in before if (earlier.instrument, earlier.version) == (instrument, active.version)]
        verdicts = (
            _covariate(workspace, params.drift, active, instrument, reference, reference_rows, current, level, null),
            prediction_drift(current, past, params.drift, level, null.answers if null else None),
            concept_drift(
                current, past, params, level, evaluation.verdict if evaluation else None, null.answers if null else None
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
        checks.append(StreamCheck(check, reference_rows, current))
    return sorted(checks, key=lambda stream: stream.severity, reverse=True)


def reference_of(workspace: Workspace, version: Manifest) -> Reference | None:
    """Return a version's reference; None where it was published without.

    Raises:
        DataError: the file is not the published one.
    """
    path = _published(workspace, version, REFERENCE)
    return None if path is None else load_reference(path)


def null_of(workspace: Workspace, version: Manifest) -> dict[str, StreamNull]:
    """Return a version's null distribution by instrument; empty where it was published without.

    Raises:
        DataError: the file is not the published one.
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
    reference_rows: RawRows,
    current: CurrentWindow,
    level: float,
    null: StreamNull | None,
) -> DriftVerdict:
    if reference is None:
        reason = f"{active.model} {active.version} was published without its training window; the next retrain keeps it"
        # Missing rows are known without a reference.
        silent = len(current.recent) < drift.minimum_rows
        finding = Finding.MISSING if silent and not current.has_only_begun else Finding.INSUFFICIENT
        reason = f"{len(current.recent)} rows in {drift.recent_s:g} s; {reason}" if silent else reason
        return DriftVerdict(kind=Kind.COVARIATE, finding=finding, reason=reason, level=level)
    store = past_of(workspace, active.model, instrument)
    rows = reference.rows[instrument]
    verdict = check_covariate_drift(
        reference_rows,
        current.recent,
        joined(rows, current.earlier),
        reference.scaling,
        store,
        drift,
        level=level,
        training_window=TrainingWindow(rows, null.rows if null else ()),
    )
    if verdict.finding is Finding.MISSING and current.has_only_begun:
        reason = (
            f"{verdict.reason}; the session was opened {(current.until_ns - current.opened_ns) / NS_PER_S:.0f} s ago"
        )
        return structs.replace(verdict, finding=Finding.INSUFFICIENT, reason=reason)
    return verdict
