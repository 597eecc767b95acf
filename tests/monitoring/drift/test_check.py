"""Drift checks of the prediction log: which streams, which past checks, too few rows, and several streams combined."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lobsmith.drift import NULL, REFERENCE
from lobsmith.drift.reference import RawRows, Reference, fit_scaling, save_reference
from lobsmith.drift.training_null import save_null, training_null
from lobsmith.drift.verdict import DriftCheck, Finding, Kind
from lobsmith.errors import DataError
from lobsmith.features.definitions import COUNT
from lobsmith.files import sha256_file
from lobsmith.monitoring.drift.check import StreamCheck, check_drift, combine
from lobsmith.monitoring.drift.history import PastCheck, PastVerdict, as_line
from lobsmith.monitoring.drift.live_window import CurrentWindow, no_rows, read_current_window
from lobsmith.monitoring.live_evaluation import LIVE
from lobsmith.monitoring.log.writer import LogWriter, Source, log_path
from lobsmith.monitoring.mode.machine import Mode, transition
from lobsmith.params import Params
from lobsmith.release.repository.journal import ROLLED_BACK, Entry, append
from lobsmith.release.repository.repository import Repository
from lobsmith.release.version.manifest import Manifest
from lobsmith.workspace import Workspace
from tests.monitoring.drift.checks import CALM, DRIFT, MISSING, UNKNOWN, at
from tests.monitoring.drift.checks import check as check_of
from tests.monitoring.drift.drifted import NOW_NS, VERSION, S, answers, rows
from tests.monitoring.logged import PARAMS, add
from tests.online.live_traffic import params as with_changes
from tests.release import toy
from tests.small import small_params

SPOT, PERPETUAL = "binance-spot:BTCUSDT", "binance-perpetual:BTCUSDT"
NO_FALLBACK = {}.get
TRAINED_UNTIL = NOW_NS - 7200 * S


@pytest.fixture
def params() -> Params:
    return with_changes(drift__reference_s=200, drift__recent_s=60, drift__minimum_rows=50, rollback__rows=100)


@pytest.fixture
def active(tmp_path: Path) -> Manifest:
    """A version trained on sixteen minutes of two instruments, in service since long."""
    reference_rows = {SPOT: rows(2000, TRAINED_UNTIL), PERPETUAL: rows(2000, TRAINED_UNTIL, seed=1)}
    reference = Reference(reference_rows, fit_scaling(reference_rows[SPOT].raw), 500)
    path = Repository.of(Workspace(tmp_path)).directory("lob", VERSION) / REFERENCE
    path.parent.mkdir(parents=True)
    save_reference(reference, path)
    return toy.manifest("lob", VERSION, NOW_NS - 3600 * S, files={REFERENCE: sha256_file(path)})


def log(
    workspace: Workspace, params: Params, instrument: str, seconds: float, *, version: int = VERSION, **changed: int
) -> None:
    """Log a live session of the newest seconds: a row and its answer each 500 ms."""
    count = int(2 * seconds)
    current = rows(count, NOW_NS - 1, seed=2)
    path = log_path(workspace, "lob")
    path.parent.mkdir(parents=True, exist_ok=True)
    with LogWriter(path, (50, 1000), PARAMS) as writer:
        writer.begin(instrument, Source.LIVE, instrument, int(current.time_ns[0]))
        times = {"time_ns": current.time_ns, "asked_ns": current.time_ns, "segment": current.segment}
        add(writer, instrument, ("lob", version), 0, count, **times, **changed)
        writer.add_raw(instrument, row=np.arange(count), raw=current.raw, **times)


def check(tmp_path: Path, params: Params, active: Manifest, before: tuple[PastCheck, ...] = ()) -> list[DriftCheck]:
    streams = check_drift(Workspace(tmp_path), params, active, NO_FALLBACK, now_ns=NOW_NS, before=before)
    return [stream.check for stream in streams]


def findings(drift_check: DriftCheck) -> dict[Kind, Finding]:
    return {verdict.kind: verdict.finding for verdict in drift_check.verdicts}


def test_before_the_first_row_is_logged_all_is_missing(tmp_path, params, active):
    for drift_check in check(tmp_path, params, active):
        assert findings(drift_check) == dict.fromkeys(Kind, Finding.MISSING)


def test_a_stream_without_requests_is_not_missing_data(tmp_path, params, active):
    log(Workspace(tmp_path), params, SPOT, 30)
    [spot] = check(tmp_path, params, active)
    assert spot.instrument == SPOT
    log(Workspace(tmp_path), params, PERPETUAL, 30)
    both = check(tmp_path, params, active)
    assert {drift_check.instrument for drift_check in both} == {SPOT, PERPETUAL}
    # The budget is that of all streams together.
    assert all(
        verdict.level == pytest.approx(spot.verdicts[0].level / 2)
        for drift_check in both
        for verdict in drift_check.verdicts
    )


@pytest.mark.parametrize(("served_s", "finding"), [(10, Finding.INSUFFICIENT), (3600, Finding.MISSING)])
def test_few_answers_are_missing_data_unless_the_version_has_only_begun(tmp_path, params, active, served_s, finding):
    log(Workspace(tmp_path), params, SPOT, 10)
    active = msgspec.structs.replace(active, created_ns=NOW_NS - served_s * S)
    [drift_check] = check(tmp_path, params, active)
    # Rows do not depend on a version: few of them are missing data all the same.
    assert findings(drift_check) == {Kind.COVARIATE: Finding.MISSING, Kind.PREDICTION: finding, Kind.CONCEPT: finding}


def test_a_version_that_was_gone_back_to_has_only_begun(tmp_path, params, active):
    log(Workspace(tmp_path), params, SPOT, 300, version=VERSION + 1)
    before = dict.fromkeys((Kind.PREDICTION, Kind.CONCEPT), Finding.MISSING)
    assert findings(check(tmp_path, params, active)[0]).items() >= before.items()
    back = Entry(
        time_ns=NOW_NS - 20 * S,
        action=ROLLED_BACK,
        model="lob",
        version_from=VERSION + 1,
        version_to=VERSION,
        artifact_id=None,
        actor="monitor flow",
    )
    append(Workspace(tmp_path).journal, back)
    after = dict.fromkeys(before, Finding.INSUFFICIENT)
    assert findings(check(tmp_path, params, active)[0]).items() >= after.items()


def test_only_streams_with_a_client_are_checked_and_a_new_one_may_have_few_rows(tmp_path, params, active):
    for instrument in (SPOT, PERPETUAL):
        log(Workspace(tmp_path), params, instrument, 10)

    def check_at(**opened_s: int) -> dict[str, dict[Kind, Finding]]:
        opened = {instrument: NOW_NS - opened_s[key] * S for instrument, key in names.items() if key in opened_s}
        streams = check_drift(Workspace(tmp_path), params, active, NO_FALLBACK, now_ns=NOW_NS, opened=opened)
        return {stream.check.instrument: findings(stream.check) for stream in streams}

    names = {SPOT: "spot", PERPETUAL: "perpetual"}
    missing, young = (dict.fromkeys(Kind, finding) for finding in (Finding.MISSING, Finding.INSUFFICIENT))
    assert check_at() == {}
    assert check_at(spot=61) == {SPOT: missing}
    assert check_at(spot=59, perpetual=3600) == {SPOT: young, PERPETUAL: missing}
    # A start ahead of the clock is one of before it was set back.
    assert check_at(spot=-3600) == {SPOT: missing}


@pytest.mark.parametrize(("version", "past"), [(VERSION, 45), (VERSION - 1, 0)])
def test_answers_of_another_version_are_not_in_the_null_distribution(tmp_path, params, active, version, past):
    log(Workspace(tmp_path), params, SPOT, 300)
    before = tuple(
        PastCheck(
            looked_ns=until,
            version=version,
            instrument=SPOT,
            folder="",
            # Checks come a few seconds early or late.
            verdicts=(
                PastVerdict(
                    kind=Kind.PREDICTION,
                    finding=Finding.NO_DRIFT,
                    value=0.1,
                    recent_from_ns=until - 60 * S,
                    recent_until_ns=until,
                ),
            ),
        )
        for until in (NOW_NS - (60 * back + 2 * (back % 2)) * S for back in range(45, 0, -1))
    )
    [drift_check] = check(tmp_path, params, active, before)
    verdict = drift_check.of(Kind.PREDICTION)
    assert verdict is not None
    assert verdict.past == past
    assert (verdict.finding is Finding.INSUFFICIENT) == (not past)


def test_of_days_of_rows_only_both_ends_are_read(tmp_path, params, active):
    workspace = Workspace(tmp_path)
    log(workspace, params, SPOT, 100)
    newest = rows(200, NOW_NS - 1)
    # A row an hour, for ten days.
    old = np.arange(NOW_NS - 240 * 3600 * S, NOW_NS - 3600 * S, 3600 * S)
    with LogWriter(log_path(workspace, "lob"), (50, 1000), PARAMS) as writer:
        writer.begin("days", Source.LIVE, SPOT, int(old[0]))
        places, raw = np.arange(len(old)), np.zeros((len(old), COUNT), np.float32)
        writer.add_raw("days", row=places, time_ns=old, asked_ns=old, segment=places, raw=raw)
    reference_rows = replace(newest, time_ns=newest.time_ns - 200 * 3600 * S)
    current = read_current_window(workspace, params, active, SPOT, reference_rows, now_ns=NOW_NS, sources=LIVE)
    ages_h = (NOW_NS - current.earlier.time_ns) / (3600 * S)
    assert isinstance(current.earlier, RawRows)
    assert ages_h.max() > 200
    assert not ((ages_h > 3) & (ages_h < 200)).any()
    assert len(current.recent) == 120


def test_answers_that_break_a_limit_are_concept_drift_of_their_stream_only(tmp_path, params, active):
    workspace = Workspace(tmp_path)
    log(workspace, params, SPOT, 300)
    log(workspace, params, PERPETUAL, 300, latency_ns=S)
    by_instrument = {
        drift_check.instrument: drift_check.of(Kind.CONCEPT) for drift_check in check(tmp_path, params, active)
    }
    assert by_instrument[SPOT].finding is not Finding.DRIFT
    assert by_instrument[PERPETUAL].finding is Finding.DRIFT
    assert "latency" in by_instrument[PERPETUAL].reason


def test_the_first_full_window_of_answers_has_a_verdict_with_a_published_null_distribution(tmp_path, params, active):
    workspace = Workspace(tmp_path)
    log(workspace, params, SPOT, 60)
    path = Repository.of(workspace).directory("lob", VERSION) / NULL
    few = Reference({SPOT: rows(100, TRAINED_UNTIL)}, fit_scaling(rows(100, TRAINED_UNTIL).raw), 500)
    null = training_null(few, {SPOT: answers(2000, TRAINED_UNTIL)}, params.drift, 1000)
    save_null(null, path)
    published = msgspec.structs.replace(active, files={**active.files, NULL: sha256_file(path)})
    [without_null], [with_null] = check(tmp_path, params, active), check(tmp_path, params, published)
    assert without_null.of(Kind.PREDICTION).finding is Finding.INSUFFICIENT
    assert with_null.of(Kind.PREDICTION).p_value is not None
    assert "windows of 60 s of held-out training data and 0 checks" in with_null.of(Kind.PREDICTION).reason
    # No outcome is logged of these rows.
    assert with_null.of(Kind.CONCEPT).finding is Finding.INSUFFICIENT
    assert "no outcomes" in with_null.of(Kind.CONCEPT).reason
    # Statistics beside the training window are ranked among those of later checks beside it only.
    line = as_line(with_null, "", None).of(Kind.PREDICTION)
    assert (line.value, line.beside_training) == (None, with_null.of(Kind.PREDICTION).value)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"null\.json: missing or changed .*verify --repair"):
        check(tmp_path, params, published)


def stream_check(drift_check: DriftCheck, instrument: str) -> StreamCheck:
    empty = CurrentWindow(no_rows(), no_rows(), None, None, 0, 0)
    return StreamCheck(msgspec.structs.replace(drift_check, instrument=instrument), no_rows(), empty)


def test_one_stream_is_taken_as_it_is():
    stream = stream_check(check_of(0, CALM), "simulator:SIM")
    assert combine([stream]) is stream.check


def test_what_asks_for_most_caution_counts_of_each_kind():
    combined = combine(
        [stream_check(check_of(0, DRIFT, UNKNOWN, CALM), "a:A"), stream_check(check_of(0, CALM, CALM, MISSING), "b:B")]
    )
    assert {verdict.kind: verdict.finding for verdict in combined.verdicts} == {
        Kind.COVARIATE: DRIFT,
        Kind.PREDICTION: CALM,
        Kind.CONCEPT: MISSING,
    }
    assert combined.of(Kind.COVARIATE).reason.startswith("a:A: ")
    assert combined.of(Kind.CONCEPT).reason.startswith("b:B: ")


def test_concept_drift_pauses_beside_another_stream_that_drifts_otherwise():
    params, record = small_params().modes, None
    for number in range(params.drift_looks + params.paused_looks):
        both = [stream_check(check_of(number, DRIFT), "a:A"), stream_check(check_of(number, CALM, CALM, DRIFT), "b:B")]
        record = transition(record, combine(both), params, at(number))
    assert record.mode is Mode.PAUSED
