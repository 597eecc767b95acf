"""The state machine of modes: its table row by row, and properties of any sequence of checks."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lobsmith.drift.verdict import DriftCheck, Finding, Kind
from lobsmith.monitoring.mode.machine import Mode, PublishedMode, asks_retrain, transition, wait
from lobsmith.monitoring.state import State, StateName
from lobsmith.params import ModeParams
from tests.monitoring.drift.checks import CALM, DRIFT, MISSING, UNKNOWN, S, at, check, checks

PARAMS = ModeParams(
    drift_looks=2,
    paused_looks=3,
    calm_looks=2,
    stale_s=900.0,
    win_rate=0.99,
    minimum_count=500,
    buckets=20,
    win_rows=1000,
    retrain_every_s=3600.0,
)
IDLE = State(name=StateName.IDLE, detail="no client is connected")
N, C, P = Mode.NORMAL, Mode.CONSERVATIVE, Mode.PAUSED

of_one_check = st.tuples(*[st.sampled_from(Finding)] * 3)
sequences = st.lists(of_one_check, min_size=1, max_size=40)
params = st.builds(
    replace,
    st.just(PARAMS),
    drift_looks=st.integers(1, 3),
    paused_looks=st.integers(1, 4),
    calm_looks=st.integers(1, 4),
)


def run(
    checked: Sequence[DriftCheck], mode_params: ModeParams = PARAMS, record: PublishedMode | None = None
) -> list[PublishedMode]:
    records = []
    for drift_check in checked:
        record = transition(record, drift_check, mode_params, drift_check.looked_ns)
        records.append(record)
    return records


def modes(*findings: tuple[Finding, ...] | Finding, mode_params: ModeParams = PARAMS) -> list[Mode]:
    checked = checks([kinds if isinstance(kinds, tuple) else (kinds,) for kinds in findings])
    return [record.mode for record in run(checked, mode_params)]


def in_mode(mode: Mode, **changes) -> PublishedMode:
    return PublishedMode(
        **{"model": "lob", "version": 1, "mode": mode, "since_ns": at(-1), "reason": "a test"} | changes
    )


CONCEPT = (CALM, CALM, DRIFT)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ((DRIFT, CALM, DRIFT, DRIFT), (N, N, N, C)),
        (((CALM, DRIFT), (CALM, CALM, DRIFT)), (N, C)),
        ((CALM, MISSING), (N, C)),
        (((UNKNOWN, UNKNOWN, MISSING),), (C,)),
        (((UNKNOWN,) * 3,) * 4, (N, N, N, N)),
        # What is not known breaks no row, and lengthens none.
        ((DRIFT, (UNKNOWN,) * 3, DRIFT), (N, N, C)),
        ((CONCEPT,) * 4, (N, C, P, P)),
        ((CONCEPT, CONCEPT, CALM, CONCEPT, CONCEPT, CONCEPT), (N, C, C, C, C, P)),
        ((CONCEPT, CONCEPT, (CALM, CALM, UNKNOWN), CONCEPT), (N, C, C, P)),
        ((DRIFT,) * 6, (N, C, C, C, C, C)),
        ((CONCEPT,) * 3 + (CALM,) * 5, (N, C, P, P, C, C, N, N)),
        ((CONCEPT,) * 3 + ((CALM, CALM, UNKNOWN),) * 2 + (CONCEPT,) * 3, (N, C, P, P, C, C, C, P)),
        ((MISSING, CALM, MISSING, CALM, CALM), (C, C, C, C, N)),
        ((MISSING, CALM, (UNKNOWN,) * 3, CALM), (C, C, C, N)),
        ((MISSING, CALM, DRIFT, CALM, CALM), (C, C, C, C, N)),
    ],
)
def test_the_table(findings, expected) -> None:
    assert tuple(modes(*findings)) == expected


def test_the_first_record_without_history_is_normal_and_says_so() -> None:
    [record] = run(checks([(UNKNOWN,) * 3]))
    assert (record.mode, "too little history" in record.reason) == (N, True)
    assert (record.since_ns, record.looked_ns) == (at(0), at(0))


def test_a_check_without_verdicts_is_missing_data() -> None:
    nothing = replace(check(0, CALM), verdicts=())
    assert run([nothing])[-1].mode is C


def waited(record: PublishedMode | None, number: int, version: int = 1) -> PublishedMode:
    return wait(record, "lob", version, IDLE, at(number))


def test_idle_keeps_mode_and_counters_and_the_record_fresh() -> None:
    first = waited(None, 0)
    assert (first.mode, first.reason, first.looked_ns) == (N, "idle: no client is connected", at(0))
    before = run(checks([(DRIFT,), (DRIFT,), (CALM,)]))[-1]
    assert (before.mode, before.calm_looks) == (C, 1)
    after = waited(before, 9)
    assert (after.mode, after.since_ns, after.reason) == (C, before.since_ns, before.reason)
    assert (after.looked_ns, after.last_look, after.findings) == (at(9), str(IDLE), {})
    assert not asks_retrain(before, after, PARAMS, at(10**6))
    # It takes as many calm checks as without the pause.
    assert [record.mode for record in run([check(10, CALM)], record=after)] == [N]
    other = waited(after, 10, version=2)
    assert (other.mode, other.version, other.calm_looks) == (C, 2, 0)


@given(sequences, params, st.sets(st.integers(0, 39)))
def test_idle_times_between_checks_change_nothing_that_follows(findings, given_params, pauses) -> None:
    record, kept = None, None
    for number, drift_check in enumerate(checks(findings)):
        kept = transition(kept, drift_check, given_params, drift_check.looked_ns)
        record = transition(record, drift_check, given_params, drift_check.looked_ns)
        if number in pauses:
            record = wait(record, "lob", 1, IDLE, drift_check.looked_ns + S)
    assert record is not None
    assert kept is not None
    names = ("mode", "since_ns", "reason", "drift_looks", "concept_looks", "calm_looks")
    assert [getattr(record, name) for name in names] == [getattr(kept, name) for name in names]


def test_another_version_keeps_the_mode_and_counts_anew() -> None:
    records = run(
        [check(0, DRIFT), check(1, DRIFT), check(2, CALM), check(3, CALM, version=2), check(4, CALM, version=2)]
    )
    assert [record.mode for record in records] == [N, C, C, C, N]
    # Drift under the old version is none of the new one's.
    assert run([check(0, DRIFT), check(1, DRIFT, version=2)])[-1].mode is N


@given(sequences, params)
def test_a_check_changes_the_mode_by_one_level_at_most(findings, given_params) -> None:
    cautions = [0, *(record.mode.caution for record in run(checks(findings), given_params))]
    assert all(abs(after - before) <= 1 for before, after in pairwise(cautions))


@given(sequences, params)
def test_a_mode_is_relaxed_after_calm_checks_only(findings, given_params) -> None:
    checked = checks(findings)
    records = run(checked, given_params)
    for number, (before, after) in enumerate(pairwise(records), 1):
        if after.mode.caution < before.mode.caution:
            known = [kinds for kinds in findings[: number + 1] if set(kinds) != {UNKNOWN}]
            assert len(known) >= given_params.calm_looks
            for kinds in known[-given_params.calm_looks :]:
                assert not {DRIFT, MISSING} & set(kinds)
                assert CALM in kinds


@given(sequences, params, st.lists(st.tuples(st.integers(0, 39), st.sampled_from(Kind)), max_size=8))
def test_worse_findings_never_make_it_less_cautious(findings, given_params, places) -> None:
    worse = [list(kinds) for kinds in findings]
    for place, kind in places:
        if place < len(findings):
            spot = list(Kind).index(kind)
            worse[place][spot] = {CALM: UNKNOWN, UNKNOWN: DRIFT}.get(worse[place][spot], worse[place][spot])
    better, other = (run(checks([tuple(kinds) for kinds in way]), given_params) for way in (findings, worse))
    assert all(left.mode.caution <= right.mode.caution for left, right in zip(better, other, strict=True))


@given(sequences, params)
def test_missing_data_is_never_normal(findings, given_params) -> None:
    for kinds, record in zip(findings, run(checks(findings), given_params), strict=True):
        assert not (MISSING in kinds and record.mode is N)


@given(sequences, params)
def test_a_repeated_check_counts_once(findings, given_params) -> None:
    checked = checks(findings)
    assert (
        run([drift_check for drift_check in checked for _ in range(2)], given_params)[-1]
        == run(checked, given_params)[-1]
    )


@given(sequences, params, st.sampled_from(Mode))
def test_what_a_hand_has_set_only_gets_more_cautious(findings, given_params, mode) -> None:
    cautions = [record.mode.caution for record in run(checks(findings), given_params, in_mode(mode, held=True))]
    assert cautions == sorted(cautions)
    assert cautions[0] >= mode.caution


def test_a_record_says_when_and_why_its_mode_began() -> None:
    records = run(checks([(CALM,), (DRIFT,), (DRIFT,), (CALM,)]))
    assert records[-1].since_ns == at(2)
    assert records[-1].looked_ns == at(3)
    assert "drift in 2 checks in a row: covariate: covariate 2" in records[-1].reason
    assert records[-1].findings == dict.fromkeys(Kind, CALM)


def asks(findings, times_s, given_params=PARAMS) -> list[bool]:
    """Whether each check asks, where all requests are answered."""
    record, answers = None, []
    for number, (drift_check, seconds) in enumerate(zip(checks(findings), times_s, strict=True)):
        now = at(0) + seconds * S
        after = transition(record, drift_check, given_params, now)
        answers.append(asks_retrain(record, after, given_params, now))
        record = replace(after, retrain_asked_ns=now) if answers[-1] else after
        again = transition(record, drift_check, given_params, now)
        assert not asks_retrain(record, again, given_params, now + 10**15), number
    return answers


def test_drift_asks_for_a_retrain_once_in_a_while() -> None:
    findings = [(DRIFT,)] * 5
    assert asks(findings, (0, 300, 600, 3899, 3900)) == [False, True, False, False, True]


def test_missing_data_asks_for_none_and_drift_after_it_does() -> None:
    assert asks([(MISSING,), (MISSING,), (DRIFT,), (CALM,)], (0, 300, 600, 90_000)) == [False, False, True, False]


def test_a_clock_that_is_set_back_does_not_put_retrains_off() -> None:
    assert asks([(DRIFT,), (DRIFT,), (DRIFT,)], (0, 300, -9000)) == [False, True, True]
