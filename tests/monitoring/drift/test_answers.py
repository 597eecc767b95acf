"""Prediction and concept drift: newest answers beside those of past checks."""

from dataclasses import replace

import numpy as np
import pytest

from lobsmith.drift.shifts import between
from lobsmith.drift.verdict import Finding, Kind
from lobsmith.monitoring.drift.answers import concept_drift, past_statistics, prediction_drift
from lobsmith.monitoring.drift.history import PastCheck, PastVerdict
from lobsmith.monitoring.drift.live_window import CurrentWindow, no_rows
from lobsmith.online.answers import Answers
from lobsmith.online.evidence import ROLL_BACK
from lobsmith.online.rollback import evaluate_rollback
from tests.online.live_traffic import S, answers, params, times, two

PARAMS = params(drift__reference_s=1800, drift__recent_s=300)
REFERENCE, RECENT = 1800, 300
START = 1_700_000_000 * S
LEVEL = 0.02


def current(shown: Answers, at_s: float) -> CurrentWindow:
    """The current window of a check at a second of the traffic."""
    until = START + int(at_s * S)
    now = until - RECENT * S
    return CurrentWindow(
        earlier=no_rows(),
        recent=no_rows(),
        answers_before=between(shown, now - REFERENCE * S, now),
        answers_now=between(shown, now, until),
        from_ns=now,
        until_ns=until,
    )


def traffic(seconds: float, seed: int = 0, loss: float = 0.5, late: float = 0.5) -> Answers:
    """Answers whose loss wanders a little, and is `late` in the newest stretch."""
    time_ns = times(seconds, seed=seed)
    generator = np.random.default_rng(seed + 1)
    wander = 0.05 * generator.normal(size=len(time_ns) // 100 + 1).repeat(100)[: len(time_ns)]
    level = np.where(time_ns >= START + int((seconds - RECENT) * S), late, loss)
    return answers(time_ns, np.clip(level + wander, 0.01, 5), seed=seed)


def line(verdict, looked_ns: int) -> PastCheck:
    past = PastVerdict(
        kind=verdict.kind,
        finding=verdict.finding,
        value=verdict.value,
        recent_from_ns=verdict.recent_from_ns,
        recent_until_ns=verdict.recent_until_ns,
    )
    return PastCheck(looked_ns=looked_ns, version=1, instrument="simulator:SIM", folder="", verdicts=(past,))


def checks(judge, shown: Answers, seconds: float, every: int = RECENT) -> list:
    """The verdicts of all checks of a stretch of traffic, each with the history before it."""
    history, verdicts = [], []
    for at in range(REFERENCE + RECENT, int(seconds) + 1, every):
        verdict = judge(current(shown, at), history)
        verdicts.append(verdict)
        history.append(line(verdict, START + at * S))
    return verdicts


def prediction(window: CurrentWindow, history: list[PastCheck]):
    return prediction_drift(window, history, PARAMS.drift, LEVEL)


def concept(window: CurrentWindow, history: list[PastCheck]):
    return concept_drift(window, history, PARAMS, LEVEL, None)


SECONDS = REFERENCE + 45 * RECENT


@pytest.mark.parametrize("judge", [prediction, concept])
def test_the_first_forty_checks_only_build_the_null_distribution(judge):
    findings = [verdict.finding for verdict in checks(judge, traffic(SECONDS), SECONDS)]
    assert findings[:40] == [Finding.INSUFFICIENT] * 40
    assert set(findings[40:]) == {Finding.NO_DRIFT}


@pytest.mark.parametrize(("judge", "kind"), [(prediction, Kind.PREDICTION), (concept, Kind.CONCEPT)])
def test_answers_that_have_become_worse_are_drift_of_both_kinds(judge, kind):
    verdict = checks(judge, traffic(SECONDS, late=1.5), SECONDS)[-1]
    assert (verdict.kind, verdict.finding) == (kind, Finding.DRIFT), verdict.reason
    assert verdict.p_value <= LEVEL
    assert verdict.past >= 40


def test_answers_that_got_better_are_no_concept_drift():
    shown = traffic(SECONDS, late=0.1)
    assert checks(concept, shown, SECONDS)[-1].finding is Finding.NO_DRIFT
    assert checks(prediction, shown, SECONDS)[-1].finding is Finding.DRIFT


@pytest.mark.parametrize("judge", [prediction, concept])
def test_a_silent_stream_is_missing_data_however_long_it_was_calm(judge):
    shown = traffic(SECONDS)
    quiet = replace(
        shown,
        probabilities=np.where(
            (shown.time_ns >= START + int((SECONDS - RECENT) * S))[:, None, None], np.nan, shown.probabilities
        ).astype(np.float32),
    )
    verdict = checks(judge, quiet, SECONDS)[-1]
    assert verdict.finding is Finding.MISSING
    assert "minimum_rows" in verdict.reason


def test_without_outcomes_concept_drift_says_so():
    shown = traffic(SECONDS)
    unknown = replace(shown, labels=np.full_like(shown.labels, -1))
    assert concept(current(unknown, SECONDS), []).finding in (Finding.INSUFFICIENT, Finding.MISSING)


def test_overlapping_checks_and_those_with_drift_are_not_in_the_null_distribution():
    shown = traffic(SECONDS, late=1.5)
    history = []
    for at in range(REFERENCE + RECENT, SECONDS + 1, RECENT // 3):
        verdict = concept(current(shown, at), history)
        history.append(line(verdict, START + at * S))
    drifted = [past for past in history if past.verdicts[0].finding is Finding.DRIFT]
    assert drifted
    values = past_statistics(history, Kind.CONCEPT, START + (SECONDS + RECENT) * S)
    assert not {past.verdicts[0].value for past in drifted} & set(values)
    assert len(values) <= SECONDS // RECENT


def test_a_version_that_loses_against_its_fallback_has_concept_drift_at_once():
    beside = evaluate_rollback(two(3600, -0.3), PARAMS.rollback, PARAMS.paired)
    assert beside.decision == ROLL_BACK
    verdict = concept_drift(current(traffic(SECONDS), SECONDS), [], PARAMS, LEVEL, beside)
    assert verdict.finding is Finding.DRIFT
    assert "fallback" in verdict.reason
